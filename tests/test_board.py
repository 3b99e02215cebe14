"""The board in the outbox: what runs, what waits and why, what came of the rest, for people with only the folder."""

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from appliance.job import JobState, Outcome, Push, Stage, Verdict, Waiting
from appliance.settling import DropState
from appliance.status_files import AT_LEAST_EVERY_SECONDS
from appliance.texts.board import (
    REFRESH_SECONDS,
    Board,
    InboxRow,
    QueuedRow,
    ResultRow,
    RunningRow,
    status_html,
    why_waiting,
)
from appliance.texts.board import status_markdown as markdown
from tests.page_reader import assert_inert, read_page

NOW = 1_790_000_000.0
RUNNING = RunningRow("0012-support", Stage.TRAIN, "demo", NOW - 1300, 0.3, "step 120 of 400", 1942.3, 0.8123, 4300)
GOOD = ResultRow("0011-mails", JobState.SUCCEEDED, Outcome.SUCCEEDED, NOW - 9000, Verdict.IMPROVED, 2.314, 0.871)
REJECTED = ResultRow(
    "0010-faq", JobState.REJECTED, Outcome.REJECTED, NOW - 9900, message="faq.yaml:2: no\nfaq.yaml:3: no"
)
FULL = Board(
    updated=NOW,
    running=(RUNNING,),
    queued=(QueuedRow("0014-notes", NOW - 900, Waiting.MEMORY, "needs 44 GB, 31 GB are free"),),
    results=(GOOD, REJECTED),
    inbox=(InboxRow("new.yaml", DropState.AWAITING_PAIR, "waits for other.jsonl"),),
    troubles=("the inbox cannot be read",),
    paused=True,
    zone=ZoneInfo("Europe/Berlin"),
)
HOSTILE = "<script>alert(1)</script> [a](javascript:x) \u202egnp.`"


@pytest.mark.parametrize("write", [markdown, status_html])
def test_everything_that_matters_stands_on_the_board(write):
    text = write(FULL)

    for fact in (
        "2026-09-21 16:13 CEST",
        "0012-support",
        "training",
        "tep 120 of 400, 1,942 tokens/s, loss 0.812, about 1 h 11 min left",
        "0014-notes",
        "aits for memory: needs 44 GB, 31 GB are free",
        "new.yaml",
        "aits for other.jsonl",
        "t fits your held-out rows better than the base does (loss 2.314 → 0.871)",
        "The inbox cannot be read",
        "The queue is paused",
    ):
        assert fact in text


@pytest.mark.parametrize("write", [markdown, status_html])
def test_who_dropped_a_job_stands_beside_it(write):
    people = ("anna", "ben")
    board = Board(
        NOW,
        running=(replace(RUNNING, people=people),),
        queued=(replace(FULL.queued[0], people=people),),
        results=(replace(GOOD, people=people),),
    )

    assert write(board).count("dropped by anna and ben") == 3
    assert "dropped by" not in write(FULL)


def test_results_are_linked_relative_to_the_outbox():
    assert read_page(status_html(FULL)).links() == ["0011-mails/report.html", "0010-faq.rejected/WHY.html"]
    assert "[0011-mails](0011-mails/report.html)" in markdown(FULL)


@pytest.mark.parametrize(
    ("outcome", "page"),
    [
        (Outcome.SUCCEEDED, "0001-a/report.html"),
        (Outcome.CHECKED, "0001-a.checked/report.html"),
        (Outcome.REJECTED, "0001-a.rejected/WHY.html"),
        (Outcome.FAILED, "0001-a.failed/WHY.html"),
        (Outcome.CANCELLED, "0001-a.cancelled/WHY.html"),
    ],
)
def test_the_page_to_open_first_depends_on_the_outcome(outcome, page):
    assert ResultRow("0001-a", JobState.SUCCEEDED, outcome, NOW).page == page


@pytest.mark.parametrize("waiting", Waiting)
def test_every_reason_to_wait_has_words(waiting):
    board = Board(NOW, queued=(QueuedRow("0001-a", NOW, waiting),))

    assert "**0001-a** waits " in markdown(board)


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_words(stage):
    board = Board(NOW, running=(RunningRow("0001-a", stage, None, NOW),))

    assert "**0001-a** is " in markdown(board)
    assert "ing" in read_page(status_html(board)).text


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_words_and_no_losses_where_there_are_none(verdict):
    text = markdown(Board(NOW, results=(replace(GOOD, verdict=verdict, base_loss=None),)))

    assert "[0011-mails]" in text
    assert "loss" not in text


@pytest.mark.parametrize("push", Push)
def test_a_result_says_how_its_push_stands(push):
    line = next(
        line for line in markdown(Board(NOW, results=(replace(GOOD, push=push),))).splitlines() if "0011" in line
    )

    assert ("Hub" in line) == (push is not Push.OFF)


def test_the_held_out_loss_is_told_once_there_is_one():
    board = Board(NOW, running=(replace(RUNNING, eval_loss=0.9),))
    assert "loss 0.812, held-out loss 0.900, about" in markdown(board)


def test_only_the_first_of_many_problems_is_shown():
    line = next(line for line in markdown(FULL).splitlines() if "0010-faq" in line)

    assert line.endswith("Rejected: faq.yaml:2: no (and 1 more).")


def test_until_when_a_dataset_is_kept():
    board = replace(FULL, results=(replace(GOOD, kept_until=NOW + 30 * 86_400),))

    for text in (markdown(board), " ".join(read_page(status_html(board)).text.split())):
        assert "Its dataset is kept until 2026-10-21 16:13 CEST." in text


@pytest.mark.parametrize("write", [markdown, status_html])
def test_a_dry_run_that_waits_can_be_told_from_a_training(write):
    row = replace(FULL.queued[0], dry_run=True)

    assert "31 GB are free; it is only checked, not trained" in write(Board(NOW, queued=(row,)))
    assert "only checked" not in write(FULL)


def test_an_idle_board_says_so():
    assert "Nothing is being worked on." in markdown(Board(NOW))
    assert read_page(status_html(Board(NOW))).texts("h2") == ["Now"]


def test_progress_is_told_to_screen_readers():
    [bar] = read_page(status_html(FULL)).all("progress")

    assert bar.attributes["value"] == "0.3000"
    assert bar.attributes["aria-label"] == "How far 0012-support is"


def test_the_page_refreshes_itself():
    refresh = [m for m in read_page(status_html(FULL)).all("meta") if m.attributes.get("http-equiv") == "refresh"]

    assert [m.attributes["content"] for m in refresh] == [str(REFRESH_SECONDS)]


def test_a_stale_board_can_be_told_from_a_quiet_one():
    assert AT_LEAST_EVERY_SECONDS <= 60
    for text in (markdown(FULL), status_html(FULL)):
        assert "If that is more than two minutes ago, the appliance is not running." in text


def test_the_page_needs_nothing_from_outside():
    assert_inert(status_html(FULL))


def test_hostile_names_are_shown_and_do_nothing():
    board = replace(
        FULL,
        running=(replace(RUNNING, base_model=HOSTILE, how_far=HOSTILE),),
        queued=(QueuedRow("0014-notes", NOW, Waiting.DISK, HOSTILE),),
        results=(replace(REJECTED, message=HOSTILE),),
        inbox=(InboxRow(HOSTILE, DropState.SETTLING, HOSTILE),),
        troubles=(HOSTILE,),
    )
    page = assert_inert(status_html(board))

    assert page.text.count("<script>alert(1)</script>") == 7
    assert "\u202e" not in markdown(board)


def test_a_job_whose_result_is_known_waits_for_the_outbox_and_not_to_be_trained():
    row = QueuedRow("0001-a", NOW, Waiting.NONE, made_ready=True, ended=True)
    assert why_waiting(row) == "waits to be put into the outbox"
    full = QueuedRow("0001-a", NOW, Waiting.DISK, "the outbox cannot be used", ended=True)
    assert why_waiting(full) == "waits for the disk: the outbox cannot be used"
