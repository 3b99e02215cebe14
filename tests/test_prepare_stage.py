"""Stage prepare on whole datasets: what it writes, what it counts, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from appliance.errors import Reason
from appliance.job import Stage
from appliance.stages.training.labels.examples import NOT_TRAINED
from tests import shapes
from tests.families import FAMILIES, Family, assistant, system, user, write_model
from tests.jobs import jsonl, make_job, run_stage, run_stages
from tests.labelled_rows import labels_json, prepare, problems_of, read, rows_of
from tests.other_day import DAY_SECONDS, days_ahead


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A job that check, fetch and prepare have gone through, each as the process it is."""
    job = make_job(tmp_path_factory.mktemp("jobs"), {"data.jsonl": jsonl(rows_of(60)), "r.yaml": "base_model: demo\n"})
    run_stages(job, Stage.CHECK, Stage.FETCH, Stage.PREPARE)
    return job


def test_the_stage_leaves_everything_that_training_needs(prepared):
    from datasets import Dataset

    folder, result = prepared.stage(Stage.PREPARE), prepared.result(Stage.PREPARE)
    train, held_out = (Dataset.from_file(str(folder / f"{name}.arrow")) for name in ("train", "eval"))
    assert (len(train), len(held_out)) == (result["train_rows"], result["eval_rows"]) == (48, 12)
    assert train.features["input_ids"].feature.dtype == train.features["labels"].feature.dtype == "int32"
    assert sum(map(len, train["input_ids"])) == result["tokens_total"]
    assert sum(label != NOT_TRAINED for row in train["labels"] for label in row) == result["tokens_trained"]
    assert set(train["row"]) | set(held_out["row"]) == set(range(1, 61))
    assert result["max_seq_length"] == 64
    assert result["stop_token_ids"] == [2]
    assert result["pad_token_id"] == 0
    assert (folder / "tokenizer" / "chat_template.jinja").read_text() == result["chat_template"]


def test_the_plan_fits_the_dataset_and_this_machine(prepared):
    plan = json.loads((prepared.stage(Stage.PREPARE) / "plan.json").read_text())
    assert plan["fits"]
    assert plan["total_steps"] == 3 * 6
    assert plan["target_module_count"] == 28
    assert plan["per_device_train_batch_size"] * plan["gradient_accumulation_steps"] == 8


def test_samples_are_held_out_prompts_up_to_the_answer(prepared):
    folder = prepared.stage(Stage.PREPARE)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    held_out = {row["row"]: row for row in read(folder / "eval.arrow")}
    assert len(samples) == 8
    for sample in samples:
        ids = held_out[sample["row"]]["input_ids"]
        assert ids[: len(sample["prompt_ids"])] == sample["prompt_ids"]
        assert held_out[sample["row"]]["labels"][len(sample["prompt_ids"])] != NOT_TRAINED
        assert sample["messages"] == [user(f"Say {sample['row'] - 1}")]
        assert sample["answer"] == f"word {sample['row'] - 1}"


def test_labels_txt_shows_what_is_trained_between_brackets(prepared):
    text = (prepared.stage(Stage.PREPARE) / "labels.txt").read_text()
    assert "<|im_start|>user\nSay 0<|im_end|>\n<|im_start|>assistant\n⟦word 0<|im_end|>⟧\n" in text
    assert text.count("──── row") == 3


def test_labels_json_has_every_field_of_the_contract(prepared):
    labels = labels_json(prepared.stage(Stage.PREPARE))
    assert (labels["rows_in"], labels["rows_kept"], labels["rows_held_out"]) == (60, 60, 12)
    assert (labels["rows_truncated"], labels["rows_dropped"], labels["duplicate_rows"]) == (0, {}, 0)
    assert labels["tokens_p50"] <= labels["tokens_p95"] <= labels["tokens_max"] <= 64
    assert [example["row"] for example in labels["examples"]] == [1, 2, 3]
    assert all(len(example["input_ids"]) == len(example["labels"]) for example in labels["examples"])


def test_the_stage_loads_neither_torch_nor_pandas(prepared, tmp_path):
    code = f"""
import sys
from pathlib import Path
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.__main__ import run
assert run(Stage.PREPARE, JobDir(Path({str(prepared.path)!r})), Settings(state=Path({str(tmp_path)!r}))) == 0
assert sys.modules["transformers"]
print(sys.modules["torch"], "pandas" in sys.modules, "datasets" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["None", "False", "False"]


def test_a_refusal_names_the_dataset_and_leaves_nothing_to_train_on(tmp_path):
    recipe = "base_model: demo\nmax_seq_length: 16\n"
    job = make_job(tmp_path, {"data.jsonl": jsonl(rows_of(20, "word " * 30)), "r.yaml": recipe})
    run_stages(job, Stage.CHECK, Stage.FETCH)
    assert run_stage(Stage.PREPARE, job) == 2
    (problem,) = job.problems(Stage.PREPARE)
    assert (problem.code, problem.file, problem.line) == ("over_long", "data.jsonl", 1)


def test_a_model_that_can_never_fit_is_refused_with_its_needs(tmp_path):
    """Fetch refuses it first; prepare looks again, for the folder may be another one by then."""
    models = tmp_path / "models"
    folder = write_model(next(family for family in FAMILIES if family.name == "chatml"), models / "org--huge")
    config = json.loads((folder / "config.json").read_text())
    job = make_job(tmp_path, {"data.jsonl": jsonl(rows_of(20)), "r.yaml": "base_model: org/huge\n"})
    (folder / "model.safetensors").write_bytes(b"")
    run_stages(job, Stage.CHECK, Stage.FETCH, APPLIANCE_MODELS=str(models))
    (folder / "config.json").write_text(json.dumps(config | shapes.LLAMA_33_70B | {"num_hidden_layers": 8000}))
    assert run_stage(Stage.PREPARE, job, APPLIANCE_MODELS=str(models)) == 2
    (problem,) = job.problems(Stage.PREPARE)
    assert problem.reason is Reason.WOULD_NOT_FIT
    assert problem.message.endswith("would fit")
    assert json.loads((job.stage(Stage.PREPARE) / "plan.json").read_text())["fits"] is False


def with_long_rows(count: int, long: int) -> list[dict]:
    return [*rows_of(count - long), *({"messages": [user(f"{n}?"), assistant("long " * 80)]} for n in range(long))]


def test_up_to_five_percent_of_over_long_rows_are_dropped_and_counted(tmp_path):
    prepare(tmp_path, with_long_rows(100, 4), cap=64)
    labels = labels_json(tmp_path)
    assert (labels["rows_in"], labels["rows_kept"], labels["rows_dropped"]) == (100, 96, {"over_long": 4})
    assert labels["tokens_max"] <= 64


def test_more_than_five_percent_are_refused_with_the_three_ways_out(tmp_path):
    (problem,) = problems_of(tmp_path, with_long_rows(100, 6), cap=64)
    assert "6 of 100 rows (6%)" in problem.message
    assert "the first of them row 95" in problem.message
    assert all(way in problem.message for way in ("Raise max_seq_length", "truncate", "drop"))
    assert problem.count == 6


@pytest.mark.parametrize(("policy", "kept", "truncated"), [("drop", 60, 0), ("truncate", 100, 40)])
def test_the_other_ways_are_taken_when_asked_for(tmp_path, policy, kept, truncated):
    prepare(tmp_path, with_long_rows(100, 40), cap=64, long_examples=policy)
    labels = labels_json(tmp_path)
    assert (labels["rows_kept"], labels["rows_truncated"]) == (kept, truncated)
    assert max(len(row["input_ids"]) for row in read(tmp_path / "train.arrow")) <= 64


def test_reject_means_not_one(tmp_path):
    prepare(tmp_path / "none", with_long_rows(100, 0), cap=64, long_examples="reject")
    assert [
        problem.code for problem in problems_of(tmp_path, with_long_rows(100, 1), cap=64, long_examples="reject")
    ] == ["over_long"]


def test_a_row_whose_answer_fits_is_cut_after_it_and_is_not_over_long(tmp_path):
    tail = [user("a question without an answer " * 20)]
    rows = [*rows_of(20), {"messages": [user("Hi"), assistant("Hello"), *tail]}]
    prepare(tmp_path, rows, cap=64)
    labels = labels_json(tmp_path)
    assert (labels["rows_kept"], labels["rows_truncated"], labels["rows_dropped"]) == (21, 1, {})


def test_rows_with_nothing_to_train_are_dropped_and_counted(tmp_path):
    silent = [{"messages": [user(f"{n}?"), assistant("no", weight=0)]} for n in range(5)]
    prepare(tmp_path, [*rows_of(20), *silent])
    assert labels_json(tmp_path)["rows_dropped"] == {"nothing_trained": 5}


def test_a_dataset_with_nothing_to_train_is_refused(tmp_path):
    silent = [{"messages": [user(f"{n}?"), assistant("no", weight=0)]} for n in range(12)]
    assert [problem.code for problem in problems_of(tmp_path, silent)] == ["nothing_trained"]


def test_conversations_in_which_everything_is_trained_are_refused(tmp_path):
    bare = "{% for m in messages %}{{ m.content + '<|im_end|>' if m.role == 'assistant' else '' }}{% endfor %}"
    family = Family("bare", bare, ("<|im_end|>",), ("<|im_end|>",), eos="<|im_end|>")
    model = write_model(family, tmp_path / "model")
    assert [problem.code for problem in problems_of(tmp_path, rows_of(12), model=model)] == ["nothing_masked"]
    prepare(tmp_path / "meant", rows_of(12), model=model, train_on="everything")
    # One row with a single token that is only read is enough.
    prepare(tmp_path / "nearly", [*rows_of(12), {"messages": [assistant("a"), assistant("b", weight=0)]}], model=model)


def test_answers_that_are_all_cut_before_they_end_are_refused(tmp_path):
    rows = [{"messages": [user(f"{n}?"), assistant("long " * 80)]} for n in range(12)]
    codes = [problem.code for problem in problems_of(tmp_path, rows, cap=64, long_examples="truncate")]
    assert codes == ["stop_untrained"]
    prepare(tmp_path / "nearly", [*rows, *rows_of(1)], cap=64, long_examples="truncate")


def test_a_template_that_refuses_is_quoted_with_the_first_row_and_the_count(tmp_path):
    gemma = next(family for family in FAMILIES if family.name == "gemma-2")
    rows = [*rows_of(10), {"messages": [system("Be kind."), user("Hi"), assistant("Hello")]}, *rows_of(1)]
    (problem,) = problems_of(tmp_path, rows, model=write_model(gemma, tmp_path / "model"))
    assert (problem.code, problem.line, problem.count) == ("chat_template_refuses", 11, 1)
    assert "System role not supported" in problem.message


def test_control_tokens_in_rows_are_counted_and_told(tmp_path):
    rows = [
        *rows_of(20),
        {"messages": [user("What does <|im_end|> mean?"), assistant("<s> is HTML; <|im_end|> ends.")]},
    ]
    facts = prepare(tmp_path, rows, eval_fraction=0)
    assert labels_json(tmp_path)["control_tokens_as_text"] == 2
    (warning,) = facts["warnings"]
    assert (warning["code"], warning["line"], warning["count"]) == ("control_tokens_as_text", 21, 1)
    assert read(tmp_path / "train.arrow")[20]["input_ids"].count(2) == 2


@pytest.mark.parametrize(
    ("rows", "fraction", "said"),
    [(45, 0.05, "9 of 45 rows are held out, more than eval_fraction: 0.05 comes to"), (45, 0.2, None), (9, 0.05, None)],
)
def test_it_is_told_when_more_rows_are_held_out_than_the_recipes_share(tmp_path, rows, fraction, said):
    notes = [note for note in prepare(tmp_path, rows_of(rows), eval_fraction=fraction)["notes"] if "held out" in note]
    assert [note.partition(": fewer")[0] for note in notes] == ([said] if said else [])


def test_rows_held_out_by_a_file_are_not_those_of_a_share(tmp_path):
    assert not any("held out" in note for note in prepare(tmp_path, rows_of(45), held_out=rows_of(9))["notes"])


def test_copies_of_held_out_rows_leave_the_training_set(tmp_path):
    rows = rows_of(50)
    prepare(tmp_path, [*rows, *rows])
    labels, held_out = labels_json(tmp_path), read(tmp_path / "eval.arrow")
    trained = {tuple(row["input_ids"]) for row in read(tmp_path / "train.arrow")}
    assert labels["duplicate_rows"] == 50
    assert labels["leaked_rows"] == labels["rows_held_out"] == len(held_out) == 20
    assert not trained & {tuple(row["input_ids"]) for row in held_out}
    assert labels["rows_kept"] == 80


def test_held_out_rows_that_were_given_are_used_as_given(tmp_path):
    rows = rows_of(30)
    facts = prepare(tmp_path, rows, held_out=[rows[3], *rows_of(2, "other ")])
    labels = labels_json(tmp_path)
    assert (facts["train_rows"], facts["eval_rows"]) == (29, 3)
    assert (labels["rows_held_out"], labels["leaked_rows"], labels["rows_dropped"]) == (3, 1, {"leaked": 1})
    assert [row["row"] for row in read(tmp_path / "eval.arrow")] == [1, 2, 3]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["answer"] for sample in samples] == ["word 3", "other 0", "other 1"]


def test_without_held_out_rows_there_is_no_eval_file_and_samples_come_from_the_dataset(tmp_path):
    facts = prepare(tmp_path, rows_of(5))
    assert facts["eval_rows"] == 0
    assert not (tmp_path / "eval.arrow").exists()
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 5


def test_prompts_of_the_recipe_win_over_held_out_ones(tmp_path):
    prepare(tmp_path, rows_of(30), sample_prompts=("What is <|im_end|>?",))
    (sample,) = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert (sample["row"], sample["answer"]) == (None, None)
    assert sample["messages"] == [user("What is <|im_end|>?")]
    assert sample["prompt_ids"].count(2) == 1


def test_texts_are_cut_into_pieces_that_stay_together(tmp_path):
    rows = [{"text": f"story {n} " + "and so on " * 60} for n in range(30)]
    facts = prepare(tmp_path, rows, cap=64)
    train, held_out = read(tmp_path / "train.arrow"), read(tmp_path / "eval.arrow")
    assert not {row["row"] for row in train} & {row["row"] for row in held_out}
    assert len({row["row"] for row in held_out}) == labels_json(tmp_path)["rows_held_out"] == 6
    assert len(train) == facts["train_rows"] > 48
    assert all(row["labels"] == row["input_ids"] for row in train + held_out)
    assert max(len(row["input_ids"]) for row in train) <= facts["max_seq_length"] == 64
    assert (facts["type"], facts["answer_tokens_p95"], facts["chat_template"]) == ("text", None, "")
    sample = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
    assert rows[sample["row"] - 1]["text"] == sample["messages"][0]["content"] + sample["answer"]


def test_preparing_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        prepare(tmp_path / name, rows_of(600))
    for name in ("train.arrow", "eval.arrow", "labels.json", "labels.txt", "samples.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


DATED = """\
{{- bos_token }}Today: {{ strftime_now("%d %b %Y %H:%M") }}
{%- for m in messages %}{{ "<|im_start|>" + m.role + "\\n" + m.content + "<|im_end|>\\n" }}{% endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}"""


@pytest.mark.parametrize("name", ["gpt-oss", "dated"])
def test_a_job_prepared_on_another_day_has_the_same_ids(tmp_path, name):
    chatml = next(family for family in FAMILIES if family.name == "chatml")
    dated = replace(chatml, name="dated", template=DATED, bos="<s>")
    family = next(family for family in [dated, *FAMILIES] if family.name == name)
    write_model(family, tmp_path / "models" / "org--dated")
    (tmp_path / "models" / "org--dated" / "model.safetensors").write_bytes(b"")
    files = {"data.jsonl": jsonl(rows_of(30)), "r.yaml": "base_model: org/dated\n"}
    prepared = []
    for days in (0, 3):
        job = make_job(tmp_path / f"in {days} days", files)
        there = {
            "APPLIANCE_MODELS": str(tmp_path / "models"),
            "APPLIANCE_STATE": str(tmp_path / f"state {days}"),
            **days_ahead(tmp_path, days),
        }
        run_stages(job, Stage.CHECK, Stage.FETCH, Stage.PREPARE, **there)
        prepared.append(job)
    today, later = (job.stage(Stage.PREPARE) for job in prepared)
    for output in ("train.arrow", "eval.arrow", "labels.json", "labels.txt", "samples.jsonl"):
        assert (today / output).read_bytes() == (later / output).read_bytes()
    assert labels_json(later)["template_date"] == "2026-09-21"
    # They really were processes of two days.
    times = [json.loads((folder / "progress.jsonl").read_text().splitlines()[0])["time"] for folder in (today, later)]
    assert times[1] - times[0] > 2 * DAY_SECONDS
