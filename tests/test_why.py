"""`WHY.md` and `WHY.html` say what happened, what to do and where every problem is, and hostile text stays text."""

import re
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from markdown_it import MarkdownIt

from appliance.drop_problems import not_a_dataset
from appliance.drops import JOB_BUTTONS, QUEUE_BUTTONS, is_button
from appliance.errors import Problem, Reason
from appliance.job import FailureClass, Outcome, Stage
from appliance.texts.remedies import FAILURES, NO_BUTTON, NOT_DATA, OTHER_FORM, REJECTIONS
from appliance.texts.why import SHOWN_OF_A_KIND, Why, gist, why_html, why_markdown
from tests.page_reader import assert_inert, read_page

UNKNOWN_KEY = Problem(
    "unknown_key",
    "learning_rte is not a recipe key; did you mean learning_rate?",
    Reason.RECIPE_SCHEMA,
    file="support.yaml",
    line=4,
    key="learning_rte",
    found="learning_rte",
    expected="learning_rate",
)
BAD_JSON = Problem(
    "json_syntax",
    "a colon is missing at column 23",
    Reason.DATASET_FORMAT,
    file="support.jsonl",
    line=2,
    found='{"role" "user"}',
    expected="one JSON object on each line",
)
REJECTED = Why(
    job_id="0008-support",
    name="support",
    outcome=Outcome.REJECTED,
    finished=1_790_000_000.0,
    stage=Stage.CHECK,
    problems=(UNKNOWN_KEY, BAD_JSON),
    files=("support.jsonl", "support.yaml"),
    zone=ZoneInfo("Europe/Berlin"),
)
FAILED = replace(
    REJECTED,
    outcome=Outcome.FAILED,
    stage=Stage.TRAIN,
    failure=FailureClass.NONFINITE_LOSS,
    message="the loss was not a number at step 32",
    problems=(),
    attempts=2,
    has_adapter=True,
    log_tail=True,
)
CANCELLED = replace(REJECTED, outcome=Outcome.CANCELLED, stage=Stage.TRAIN, problems=(), has_adapter=True)
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://x/y.png) \u202egnp."
)


def rendered(markdown: str) -> str:
    """As a viewer shows it that lets raw HTML through."""
    return MarkdownIt("commonmark", {"html": True}).render(markdown)


def test_the_first_sentence_says_what_happened():
    assert "Nothing was trained: 2 problems must be solved first." in why_markdown(REJECTED).split("\n\n")[1]
    assert "out of bounds" in why_markdown(FAILED).split("\n\n")[1]
    assert "cancelled this job while it was training" in why_markdown(CANCELLED).split("\n\n")[1]


@pytest.mark.parametrize("why", [REJECTED, FAILED, CANCELLED], ids=lambda why: str(why.outcome))
def test_page_and_text_say_the_same(why):
    page, text = read_page(why_html(why)), read_page(rendered(why_markdown(why)))

    assert page.texts("h1") == text.texts("h1")
    assert page.texts("h3") == text.texts("h3")
    assert page.texts("li") == text.texts("li")[: len(page.texts("li"))]


def test_every_problem_stands_there_as_file_line_message():
    text = why_markdown(REJECTED)

    assert "`support.yaml:4`: learning_rte is not a recipe key; did you mean learning_rate?" in text
    assert "`support.jsonl:2`: a colon is missing at column 23" in text
    assert '  Found: `{"role" "user"}`' in text
    assert "  Would work: one JSON object on each line" in text


def test_what_the_message_says_already_is_not_said_twice():
    text = why_markdown(replace(REJECTED, problems=(UNKNOWN_KEY,)))

    assert "Found:" not in text
    assert "Would work:" not in text


def test_problems_stand_by_kind_with_their_number():
    text = why_markdown(replace(REJECTED, problems=(UNKNOWN_KEY, BAD_JSON, replace(BAD_JSON, line=9))))

    assert "### Unknown key (1)" in text
    assert "### JSON syntax (2)" in text


def test_a_long_list_is_cut_and_says_how_much_is_missing():
    problems = tuple(replace(BAD_JSON, line=line) for line in range(1, 251))
    text, page = (write(replace(REJECTED, problems=problems)) for write in (why_markdown, why_html))

    assert text.count("a colon is missing") == page.count("a colon is missing") == SHOWN_OF_A_KIND
    assert "… and 150 more of this kind. `problems.json` lists them all." in text
    assert "… and 150 more of this kind." in page


def test_what_the_check_only_counted_is_counted_here_too():
    rest = Problem("json_syntax", "... and 303 more like this", Reason.DATASET_FORMAT, file="support.jsonl", count=303)
    text = why_markdown(replace(REJECTED, problems=(BAD_JSON, rest)))

    assert "### JSON syntax (304)" in text
    assert "… and 303 more of this kind.\n" in text
    assert "Nothing was trained: 304 problems" in text


def test_a_problem_that_stands_for_many_rows_alone_keeps_its_message():
    over_long = Problem("over_long", "400 rows are longer than 8,192 tokens", Reason.LABELS, count=400)

    assert "400 rows are longer than 8,192 tokens" in why_markdown(replace(REJECTED, problems=(over_long,)))


def test_the_gist_is_the_first_problem_in_a_line_and_the_number_of_the_others():
    many = replace(BAD_JSON, message="... and 40 more like this", line=None, count=40)
    assert gist([BAD_JSON]) == "support.jsonl:2: a colon is missing at column 23"
    assert gist([BAD_JSON, UNKNOWN_KEY, many]) == "support.jsonl:2: a colon is missing at column 23 (and 41 more)"
    assert gist([]) == ""


def test_the_gist_is_short_and_quotes_no_row():
    long = replace(BAD_JSON, message="this is a link;\nonly files are taken. Copy the file itself.", file="n" * 300)
    assert gist([long]) == f"{'n' * 39}…:2: this is a link; only files are taken"
    assert len(gist([replace(BAD_JSON, message="word " * 90)])) <= 160
    assert "role" not in gist([BAD_JSON])


@pytest.mark.parametrize("failure", FailureClass)
def test_every_failure_is_explained_and_has_a_next_step(failure):
    text = why_markdown(replace(FAILED, failure=failure, message=""))

    assert FAILURES[failure].happened in text
    assert FAILURES[failure].to_do in text
    assert "while it was training, after 2 attempts" in text


@pytest.mark.parametrize("reason", Reason)
def test_every_rejection_has_a_next_step(reason):
    assert REJECTIONS[reason] in why_markdown(replace(REJECTED, problems=(replace(BAD_JSON, reason=reason),)))


@pytest.mark.parametrize("name", ["docs.zip", "notes.docx", "rows"])
def test_who_drops_no_data_is_told_to_drop_the_data(name: str):
    text = why_markdown(replace(REJECTED, problems=(not_a_dataset(name),), files=(name,)))

    assert NOT_DATA in text
    assert "rows named below" not in text
    assert NO_BUTTON not in text


def test_a_file_that_is_wrong_as_a_whole_is_not_said_to_have_rows_named():
    whole = Problem("spreadsheet", "this is a spreadsheet; save it as CSV", Reason.DATASET_FORMAT, file="rows.xlsx")
    rest = Problem("json_syntax", "... and 303 more like this", Reason.DATASET_FORMAT, file="support.jsonl", count=303)

    assert OTHER_FORM in (text := why_markdown(replace(REJECTED, problems=(whole,))))
    assert "rows named below" not in text
    assert OTHER_FORM not in (text := why_markdown(replace(REJECTED, problems=(BAD_JSON, rest))))
    assert "rows named below" in text


@pytest.mark.parametrize(
    "name", ["pause.queue", "0013.delete", "13.stop.txt", "0013-support.push", "Cancel", "queue.stop"]
)
def test_who_may_have_meant_a_button_is_told_which_there_are(name: str):
    text = why_markdown(replace(REJECTED, problems=(not_a_dataset(name),), files=(name,)))

    assert NO_BUTTON in text
    assert "rows named below" not in text
    assert "Correct them" not in text


def test_the_buttons_that_are_named_are_those_there_are():
    named = re.findall(r"`([^`]+)`", NO_BUTTON)

    assert [is_button(name) for name in named] == [
        *((action, "0007") for action in JOB_BUTTONS),
        *((action, "queue") for action in QUEUE_BUTTONS),
    ]


def test_file_names_stand_there_as_they_are_called():
    problem = not_a_dataset("0013.a*b_c.docx")

    assert "- `0013.a*b_c.docx`: files ending in" in why_markdown(replace(REJECTED, problems=(problem,)))


def test_the_hint_of_a_stage_comes_first():
    steps = read_page(why_html(replace(FAILED, hint="set `learning_rate` to 1e-4"))).texts("li")

    assert steps[0] == "Set learning_rate to 1e-4."


def test_a_duplicate_asks_for_nothing():
    duplicate = Problem("duplicate", "the same data is already job 0007-support", file="support.jsonl")
    steps = read_page(why_html(replace(REJECTED, problems=(duplicate,)))).texts("li")

    assert len(steps) == 1
    assert "nothing to do" in steps[0]


def test_the_files_beside_it_are_named():
    text = why_markdown(FAILED)

    for name in ("`dropped/support.jsonl`", "`dropped/support.yaml`", "`adapter/`", "`worker.log`"):
        assert name in text
    assert "unfinished and was not compared" in text
    assert "`adapter/`" not in why_markdown(replace(FAILED, has_adapter=False))
    assert "`worker.log`:" not in why_markdown(replace(FAILED, log_tail=False))


def test_a_file_that_is_gone_is_named_and_does_not_lie_beside_it():
    gone = replace(CANCELLED, files=(), missing=("support.jsonl",), has_adapter=False)

    for text in (why_markdown(gone), why_html(gone)):
        assert "The file support.jsonl cannot be given back" in text
        assert "What lies beside" not in text


def test_no_traceback_is_ever_shown():
    message = 'the training ended\nTraceback (most recent call last):\n  File "train.py", line 3\nKeyError: 1'
    for text in (why_markdown(replace(FAILED, message=message)), why_html(replace(FAILED, message=message))):
        assert "The training ended." in text
        assert "Traceback" not in text
        assert "KeyError" not in text


def test_times_have_their_zone():
    assert "2026-09-21 16:13 CEST" in why_markdown(REJECTED)
    assert '<time datetime="2026-09-21T16:13:20+02:00">2026-09-21 16:13 CEST</time>' in why_html(REJECTED)


@pytest.mark.parametrize("why", [REJECTED, FAILED, CANCELLED], ids=lambda why: str(why.outcome))
def test_a_page_needs_nothing_from_outside(why):
    page = assert_inert(why_html(why))

    assert all(":" not in link for link in page.links())


def test_hostile_text_is_shown_and_does_nothing():
    problem = Problem(HOSTILE, HOSTILE, Reason.OTHER, HOSTILE, 1, HOSTILE, HOSTILE + "x", HOSTILE + "y")
    why = replace(REJECTED, problems=(problem,), files=(HOSTILE, "odd\udcff\n# name"), message=HOSTILE, hint=HOSTILE)

    page = assert_inert(why_html(why))
    assert "<script>alert(1)</script>" in page.text
    assert "\\u202egnp." in page.text
    assert "odd\\udcff\\n# name" in page.text

    text = why_markdown(why)
    text.encode()
    shown = read_page(rendered(text))
    assert {e.tag for e in shown.elements} <= {"h1", "h2", "h3", "p", "ul", "li", "code", "br"}
    assert "<script>alert(1)</script>" in shown.text
    assert "\u202e" not in text


def test_the_same_job_gives_the_same_bytes():
    assert why_html(REJECTED) == why_html(replace(REJECTED))
    assert why_markdown(REJECTED) == why_markdown(replace(REJECTED))
