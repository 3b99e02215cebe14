"""`report.html`: what it says, that it needs nothing from outside, and that other people's text stays text."""

import re
from datetime import UTC

import pytest

from appliance.texts.report import LONGEST_EXAMPLE, Report, render_report
from tests.finished import (
    EVALUATION,
    FETCH,
    LABELS,
    PLAN,
    SAMPLE,
    TRAIN,
    checked_report,
    finished_job,
    finished_report,
)
from tests.page_reader import assert_inert, read_page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{ 7*7 }}\u202egnp.exe</pre></bdi>"


def text_of(report: Report) -> str:
    """Everything a reader sees from the headline on."""
    return said(render_report(report))


def said(html: str) -> str:
    body = html[html.index("<body>") :]
    return " ".join(read_page(body).text.split())


def marked(report: Report) -> list[str]:
    legend, *texts = read_page(render_report(report)).texts("mark")
    assert legend == "marked"
    return texts


def test_the_verdict_comes_first_with_losses_and_interval():
    text = text_of(finished_report())
    assert text.startswith(
        "Report on job 0007-support Improved: it fits your held-out rows better than the base does "
        "On 50 rows it was not trained on, the loss fell from 6.249 to 2.114; "
        "with 95 % confidence by 4.069 to 4.205."
    )
    assert "Loss on your held-out rows (50 rows, 2,308 tokens) 6.249 2.114 −4.136 (−4.205 to −4.069)" in text
    assert "Loss on a general English text 3.169 3.135 −0.034" in text
    assert "Sampled answers that come to an end 25 % 100 % +75 points" in text


def test_it_never_claims_that_the_model_is_better():
    assert "it is better" not in text_of(finished_report()).lower()


@pytest.mark.parametrize(
    ("verdict", "headline"),
    [
        ("no_better", "No better: it does not fit your held-out rows better than the base does"),
        ("unproven", "Unproven: it is not proven that it fits your held-out rows better than the base does"),
        ("broken", "Broken: it is broken and must not be used"),
    ],
)
def test_other_verdicts_say_why(verdict, headline):
    evaluation = EVALUATION | {"verdict": verdict, "reasons": ["the loss hardly changed"]}
    text = text_of(finished_report(evaluation=evaluation))
    assert f"{headline} The loss hardly changed." in text


def test_without_held_out_rows_there_is_no_comparison_to_show():
    unknown = dict.fromkeys(
        ("base_loss", "tuned_loss", "difference", "interval", "stop_rate_base", "stop_rate_tuned"), None
    )
    evaluation = EVALUATION | unknown | {"verdict": "unproven", "reasons": ["there were no held-out rows"]}
    text = text_of(finished_report(evaluation=evaluation, samples=(), evals=()))
    assert "Loss on your held-out rows" not in text
    assert "come to an end" not in text
    assert "Loss on a general English text" in text


def test_a_dry_run_says_what_the_job_would_take():
    text = text_of(checked_report())
    assert "Checked: this job can be trained It needs 9.5 GB of memory and about 1 min 30 s for 20 steps." in text
    assert "Measured" not in text
    assert "How to use the adapter" not in text
    assert "Checked: this job would not fit" in text_of(checked_report(plan=PLAN | {"fits": False}))


def test_samples_stand_side_by_side():
    text = text_of(finished_report())
    assert "Wanted On its way. Base Dear customer, it It did not come to an end. Tuned On its way!" in text
    assert "Held-out row 40" in text


def test_samples_of_rows_that_it_was_trained_on_are_said_to_be_such():
    without = LABELS | {"rows_held_out": 0}
    text = text_of(finished_report(labels=without))
    assert "No rows were held out: these are from the rows it was trained on, so it may know them by heart." in text
    assert "Row 40" in text
    assert "Held-out row" not in text
    own = text_of(finished_report(labels=without, samples=[SAMPLE | {"row": None}]))
    assert "by heart" not in own + text_of(finished_report())


def test_an_answer_that_was_cut_off_is_not_said_to_go_on_for_ever():
    text = text_of(finished_report(samples=[SAMPLE | {"tuned_stopped": None}]))
    assert "Tuned On its way! It was cut off here." in text


def test_what_the_preparation_has_to_say_is_worth_knowing():
    assert "It stamps the date." in text_of(finished_report(prepare={"warnings": [], "notes": ["it stamps the date"]}))


def test_what_the_held_out_loss_made_of_the_training_is_told():
    early = TRAIN | {"steps": 15, "stopped_early": True, "adapter_step": 10, "best_step": 10, "best_loss": 2.25}
    text = text_of(finished_report(train=early))
    assert "Training ended early, after step 15 of 20: the held-out loss fell no more." in text
    assert "The adapter is that of step 10, where the held-out loss was lowest (2.250)." in text
    assert "ended early" not in text_of(finished_report())


def test_a_best_checkpoint_that_was_damaged_is_told():
    spoilt = TRAIN | {"adapter_step": 20, "best_step": 10, "best_loss": 2.25, "best_damaged": True}
    told = "The held-out loss was lowest at step 10 (2.250), but that checkpoint was damaged on the disk"
    assert f"{told}: the adapter is that of the last step, 20." in text_of(finished_report(train=spoilt))
    assert "damaged" not in text_of(finished_report())


def test_a_prompt_of_the_recipe_has_no_wanted_answer():
    text = text_of(finished_report(samples=[SAMPLE | {"row": None, "answer": None}]))
    assert "Prompt 1 of the recipe" in text
    assert "Wanted" not in text


def test_samples_beyond_the_first_are_a_click_away():
    html = render_report(finished_report(samples=[SAMPLE | {"row": row} for row in range(1, 9)]))
    assert "5 more samples" in html
    assert "Held-out row 8" in said(html)


def test_trained_tokens_are_marked():
    assert marked(finished_report()) == ["On its way.<|im_end|>", "Welcome.<|im_end|>"]


def test_brackets_of_the_dataset_do_not_shift_the_marks():
    text = "legend\n\n──── row 1: 4 tokens, 2 trained ────\na ⟧ b ⟦c ⟦ d⟧ e\n"
    assert marked(finished_report(labels_text=text)) == ["c ⟦ d"]


def test_a_long_example_is_cut_and_points_to_the_file():
    text = f"legend\n\n──── row 1: 9000 tokens, 9000 trained ────\n⟦{'word ' * 9000}⟧\n"
    report = finished_report(labels_text=text)
    assert "It goes on in labels.txt." in text_of(report)
    assert len(marked(report)[0]) <= LONGEST_EXAMPLE


def test_dataset_plan_and_origin_are_told():
    text = text_of(finished_report())
    assert "Rows in the dataset 500 Dropped: longer than the max sequence length 3 Kept 497" in text
    assert "In answers, which are trained 22,911 (37 %)" in text
    assert "95 % of the rows have at most 134" in text
    assert "Time of training about 1 min 30 s 1 min 44 s" in text
    assert "Memory at its peak 9.5 GB 8.8 GB" in text
    assert FETCH["base_model_commit"] in text
    assert TRAIN["adapter"]["adapter_model.safetensors"]["sha256"] in text
    assert "learning_rate: 0.0002" in text
    assert 'PeftModel.from_pretrained(base, "adapter")' in text


def test_warnings_and_notes_are_told_once_gravest_first():
    problem = {"file": "support.jsonl", "line": 12, "message": "this row occurs twice"}
    report = finished_report(
        check={**finished_report().check, "warnings": [problem], "notes": ["read as Windows-1252"]},
        prepare={"warnings": [problem]},
        evaluation=EVALUATION | {"warnings": ["forgetting: the loss rose"]},
    )
    text = text_of(report)
    said = ["Forgetting: the loss rose.", "Support.jsonl:12: this row occurs twice.", "Read as Windows-1252."]
    places = [text.lower().index(sentence.lower()) for sentence in said]
    assert places == sorted(places)
    assert text.count("this row occurs twice") == 1


def test_an_empty_dataset_of_a_dry_run_divides_by_nothing():
    assert "Tokens in the kept rows 0" in text_of(checked_report(labels=LABELS | {"tokens_total": 0}))


@pytest.mark.parametrize("report", [finished_report(), checked_report()], ids=["finished", "checked"])
def test_nothing_runs_and_nothing_is_fetched(report):
    html = render_report(report)
    assert_inert(html)
    assert not re.search(r"https?:", html)


def test_hostile_text_is_inert_wherever_it_stands():
    sample = SAMPLE | {
        "messages": [{"role": HOSTILE, "content": HOSTILE}],
        "answer": HOSTILE,
        "base": HOSTILE,
        "tuned": HOSTILE,
    }
    file = finished_job().files[0]
    report = finished_report(
        job=finished_job(id=HOSTILE, files=(file.__class__(**{**vars(file), "name": HOSTILE}),)),
        recipe_yaml=HOSTILE,
        labels=LABELS | {"rows_dropped": {HOSTILE: 1}},
        labels_text=f"x\n──── row 1: 2 tokens, 1 trained ────\n{HOSTILE} ⟦{HOSTILE}⟧",
        check={"dataset": HOSTILE, "dataset_sha256": HOSTILE, "warnings": [{"message": HOSTILE}], "notes": [HOSTILE]},
        fetch=FETCH | {"base_model": HOSTILE, "base_model_loaded": HOSTILE},
        evaluation=EVALUATION | {"verdict": "unproven", "reasons": [HOSTILE], "warnings": [HOSTILE]},
        samples=[sample],
        versions={HOSTILE: HOSTILE},
    )
    html = render_report(report)
    assert_inert(html)
    assert said(html).count("<script>alert(1)</script>") >= 15
    assert "{{ 7*7 }}" in html


def test_text_from_right_to_left_keeps_its_own_direction():
    arabic = "أين طلبي؟"
    html = render_report(finished_report(samples=[SAMPLE | {"tuned": arabic}]))
    assert f'<pre dir="auto">{arabic}</pre>' in html


def test_content_that_is_not_there_is_empty():
    call = {"role": "assistant", "content": None}
    assert "None" not in text_of(finished_report(samples=[SAMPLE | {"messages": [call]}]))


def test_ids_are_unique_so_that_drawings_do_not_borrow_from_each_other():
    elements = read_page(render_report(finished_report())).elements
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert ids
    assert len(ids) == len(set(ids))


def test_every_figure_says_in_words_what_it_shows():
    shown = read_page(render_report(finished_report()))
    assert len(shown.all("figure")) == len(shown.all("figcaption")) == 5
    assert len(shown.all("svg")) == 6
    assert shown.texts("figcaption")[0].startswith("Training loss: 5.600 at step 1 to 0.950 at step 20.")


def test_the_same_job_gives_the_same_bytes():
    assert render_report(finished_report(zone=UTC)) == render_report(finished_report(zone=UTC))
