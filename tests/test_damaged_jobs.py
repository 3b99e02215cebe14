"""What a bad disk or somebody's hand leaves of one job's files costs that job something, and no other job anything."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.job import FailureClass, JobState, Push, Stage
from appliance.machine_watch import Watched
from appliance.outbox import MANIFEST, read_manifest
from appliance.store import Store
from appliance.watching import count_gpu_error
from tests.box import Box
from tests.published import ORG, WRITE
from tests.waiting import until

DEEP = "[" * 100_000


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path, hub_org=ORG, hub_token=WRITE)
    yield box
    box.stop()


def held(box: Box) -> None:
    """A job that is ready to train and is not let."""
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop("a.jsonl")
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting == "paused")


@pytest.mark.parametrize("spoilt", ["\0" * 200, '{"rows": ', "[]", DEEP])
@pytest.mark.parametrize("stage", [Stage.CHECK, Stage.PREPARE])
def test_a_stage_whose_result_is_damaged_is_done_again(box: Box, stage: Stage, spoilt: str):
    held(box)
    (box.folder() / stage / "result.json").write_text(spoilt)
    box.appliance.store.ask("resume", "queue", now=0.0)
    assert box.ended(1).state is JobState.SUCCEEDED
    assert [event["stage"] for event in box.history(1) if event["event"] == "stage_started"].count(stage) == 2


def test_a_job_whose_folder_goes_ends_and_the_next_one_trains(box: Box):
    held(box)
    shutil.rmtree(box.folder())
    box.appliance.store.ask("resume", "queue", now=0.0)
    box.drop("b.jsonl")
    job = box.ended(1)
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.INTERNAL)
    assert "drop its files again" in job.message
    assert box.ended(2).state is JobState.SUCCEEDED


def test_no_job_ends_while_the_folder_of_all_jobs_is_away(box: Box):
    held(box)
    away = box.appliance.places.jobs.rename(box.settings.state / "away")
    box.forgiving = True
    for _ in range(3):
        box.tick()
    away.rename(box.appliance.places.jobs)
    box.appliance.store.ask("resume", "queue", now=0.0)
    assert box.ended(1, seconds_a_turn=1.0).state is JobState.SUCCEEDED


@pytest.mark.parametrize("record", ['{"number": 50', "[]", '{"id": "0050-old"}', DEEP])
def test_an_orphan_without_a_record_is_left_alone_and_the_work_goes_on(box: Box, record: str):
    box.stop()
    orphan = box.settings.state / "jobs" / "0050-old"
    (orphan / "dropped").mkdir(parents=True)
    (orphan / "dropped" / "rows.jsonl").write_text("{}\n")
    (orphan / "job.json").write_text(record)
    box.start()
    box.drop("a.jsonl")
    assert box.ended(51).state is JobState.SUCCEEDED
    assert (orphan / "dropped" / "rows.jsonl").exists()


def test_the_board_shows_an_ended_job_whose_figures_are_damaged(box: Box):
    box.drop("a.jsonl")
    box.ended(1)
    (box.folder() / Stage.VERIFY / "result.json").write_text("\0" * 200)
    box.drop("b.jsonl")
    box.ended(2)
    status = box.outbox / "STATUS.md"
    box.turn_until(lambda: "0002-b" in status.read_text() and "0001-a" in status.read_text())


def test_a_push_asked_for_without_its_folder_needs_a_person_and_holds_nothing_up(box: Box):
    box.drop("a.jsonl", verdict="no_better")
    assert box.ended(1).push is Push.WITHHELD
    shutil.rmtree(box.folder())
    box.appliance.store.ask("push", "1", now=0.0)
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.turn_until(lambda: box.appliance.store.requests() == [])
    job = box.job(1)
    assert job is not None
    assert (job.push, box.appliance.store.fact("paused")) == (Push.BLOCKED, "True")
    (blocked,) = [event for event in box.history(1) if event["event"] == "push_blocked"]
    assert "folder in the state folder is gone" in blocked["message"]


def test_a_pending_push_without_its_folder_needs_a_person(tmp_path: Path):
    box = Box(tmp_path, hub_org=ORG)
    box.drop("a.jsonl")
    assert box.ended(1).push is Push.PENDING
    box.stop()
    shutil.rmtree(tmp_path / "state" / "jobs" / "0001-a")
    box = Box(tmp_path, hub_org=ORG, hub_token=WRITE)
    box.turn_until(lambda: (job := box.job(1)) is not None and job.push is Push.BLOCKED)
    box.stop()


def test_a_request_that_cannot_be_done_is_dropped_and_the_next_one_is_done(box: Box, caplog):
    # A digit to Python, and no number.
    box.appliance.store.ask("push", "²", now=0.0)
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.turn_until(lambda: box.appliance.store.requests() == [])
    assert box.appliance.store.fact("paused") == "True"
    assert "push of ² was asked for and cannot be done" in caplog.text


def test_a_manifest_that_somebody_made_deep_is_none(tmp_path: Path):
    (tmp_path / MANIFEST).write_text(DEEP)
    with pytest.raises(ValueError, match="deeply"):
        read_manifest(tmp_path)


def test_a_watch_goes_on_after_a_fault_of_its_reader():
    answers = iter([sqlite3.OperationalError("full"), 7])

    def read() -> int:
        answer = next(answers, 7)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watched = Watched(read, name="watch", every_seconds=0.01)
    watched.start()
    until(lambda: watched.value() == 7)
    watched.stop()


def test_an_error_of_the_driver_that_cannot_be_counted_ends_no_watch(tmp_path: Path, caplog):
    store = Store(tmp_path / "appliance.sqlite")
    store.connection.execute(
        "CREATE TRIGGER uncountable BEFORE INSERT ON counters BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    count_gpu_error(store, "power")
    assert "(power) could not be counted: full" in caplog.text
