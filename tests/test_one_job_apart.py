"""What the machine refuses about one job costs that job something, and no other job anything."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.exits import EndKind
from appliance.job import FailureClass, JobState, Push, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.memory import Reading, read_machine
from appliance.push_store import PushStore
from tests.box import Box
from tests.published import ORG, WRITE


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop()


def waits(box: Box, reason: Waiting, number: int = 1) -> bool:
    job = box.job(number)
    return job is not None and job.waiting is reason


def paused(box: Box) -> None:
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop("a.jsonl")
    box.turn_until(lambda: waits(box, Waiting.PAUSED))


def refuse_reads(path: Path) -> Callable[[], None]:
    """Have the system refuse to read a file, root or not: a folder stands in its place. Returns what undoes that."""
    kept = path.with_name(f".{path.name}.kept")
    if path.exists():
        path.rename(kept)
    path.mkdir()

    def undo() -> None:
        path.rmdir()
        if kept.exists():
            kept.rename(path)

    return undo


@pytest.mark.parametrize("name", ["outcome.json", "check/result.json", "prepare/plan.json"])
def test_a_file_that_cannot_be_read_holds_up_its_own_job_until_it_can(box: Box, name: str):
    paused(box)
    undo = refuse_reads(box.folder() / name)
    box.appliance.store.ask("resume", "queue", now=0.0)
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    job = box.job(1)
    assert job is not None
    assert (job.state, job.waiting) == (JobState.QUEUED, Waiting.DISK)
    assert Path(name).name in job.waiting_detail
    undo()
    assert box.ended(1).state is JobState.SUCCEEDED


def test_an_end_that_cannot_be_written_down_holds_up_no_other_training(box: Box):
    box.drop("a.jsonl", train="nap")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    # The record of the job can neither be replaced nor be written beside itself.
    undo = refuse_reads(box.folder() / "job.json")
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    undo()
    assert box.ended(1).state is JobState.SUCCEEDED


def test_an_end_that_cannot_be_written_down_is_told_on_the_board(box: Box):
    box.drop("a.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    undo = refuse_reads(box.folder() / "job.json")
    box.appliance.crew.running[1].process.kill()
    box.turn_until(lambda: "0001-a: job.json in its folder cannot be used" in str(box.appliance.view.trouble))
    undo()
    assert box.ended(1).state is JobState.SUCCEEDED
    assert box.appliance.view.trouble is None


def test_a_job_whose_folder_goes_while_a_stage_works_ends(box: Box):
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    shutil.rmtree(box.folder())
    box.appliance.crew.running[1].process.kill()
    job = box.ended(1)
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.INTERNAL)
    assert (box.appliance.crew.running, box.appliance.store.open_attempts()) == ({}, [])
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED


def test_a_bad_sector_in_one_file_is_no_full_disk(box: Box, monkeypatch: pytest.MonkeyPatch):
    paused(box)
    bad, read = box.folder() / "check" / "result.json", Path.read_text

    def read_text(path: Path, *arguments: Any, **more: Any) -> str:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    box.appliance.store.ask("resume", "queue", now=0.0)
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    assert waits(box, Waiting.DISK)
    assert (box.settings.state / "ballast").exists()


def test_a_push_that_was_asked_for_waits_for_its_folder_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    box = Box(tmp_path, hub_org=ORG)
    box.drop("a.jsonl", verdict="no_better")
    assert box.ended(1).push is Push.WITHHELD
    bad, touch = box.folder() / "push", Path.touch

    def refuse(path: Path, *arguments: Any, **more: Any) -> None:
        if path.parent == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        touch(path, *arguments, **more)

    monkeypatch.setattr(Path, "touch", refuse)
    box.appliance.store.ask("push", "1", now=0.0)
    box.appliance.store.ask("resume", "queue", now=0.0)
    box.drop("b.jsonl", verdict="no_better")
    assert box.ended(2).state is JobState.SUCCEEDED
    box.shift += 100.0
    box.turn_until(lambda: "0001-a: push was asked for and waits: " in str(box.appliance.view.trouble))
    assert [request.action for request in box.appliance.store.requests()] == ["push"]
    assert caplog.text.count("push was asked for and waits") == 1
    assert (box.settings.state / "ballast").exists()
    box.crash()
    box.start()
    monkeypatch.setattr(Path, "touch", touch)
    box.turn_until(lambda: (job := box.job(1)) is not None and job.push is Push.PENDING)
    box.turn_until(lambda: box.appliance.view.trouble is None)
    assert box.appliance.store.requests() == []
    box.stop()


@pytest.mark.parametrize("crashed", [True, False])
def test_a_push_whose_result_cannot_be_read_holds_nothing_up_and_is_noted_once_it_can(tmp_path: Path, crashed: bool):
    box = Box(tmp_path, hub_org=ORG)
    box.drop("a.jsonl")
    assert box.ended(1).push is Push.PENDING
    pushed = {"repository": "acme/a", "url": "https://hub/acme/a", "commit": "1", "bytes": 1}
    JobDir(box.folder()).write_result(Stage.PUSH, pushed)
    undo = refuse_reads(box.folder() / "push" / "result.json")
    if crashed:
        rows = PushStore(box.appliance.store)
        rows.begin(1, next_try=0.0, boot_id="of another time")
        rows.note_process(1, pid=1, pid_started=1)
    box.stop()
    box = Box(tmp_path, hub_org=ORG, hub_token=WRITE)
    box.drop("b.jsonl", verdict="no_better")
    assert box.ended(2).state is JobState.SUCCEEDED
    box.turn_until(lambda: "0001-a: its push waits: result.json in its folder" in str(box.appliance.view.trouble))
    undo()
    box.shift += 100.0
    box.turn_until(lambda: (job := box.job(1)) is not None and job.push is Push.PUSHED)
    box.turn_until(lambda: box.appliance.view.trouble is None)
    box.stop()


def test_what_cannot_be_removed_of_an_ended_job_stops_no_start_and_keeps_no_other_from_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    box = Box(tmp_path, keep_datasets="state", keep_finished_days=1)
    box.drop("a.jsonl")
    box.turn_until(lambda: (tmp_path / "state" / "jobs" / "0001-a" / "check" / "result.json").exists())
    bad, unlink = box.folder() / "check" / "rows.jsonl", Path.unlink
    bad.write_text("{}")

    def refuse(path: Path, *arguments: Any, **more: Any) -> None:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, *arguments, **more)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert box.ended(1).state is JobState.SUCCEEDED
    box.crash()
    caplog.clear()
    box.start()
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    first, second = (box.folder(number) / "dropped" for number in (1, 2))
    for _ in range(5):
        box.shift += 30 * 3600.0
        box.tick()
    assert (first.exists(), second.exists()) == (True, False)
    assert caplog.text.count("can be removed") == 1
    monkeypatch.setattr(Path, "unlink", unlink)
    box.shift += 3601.0
    box.turn_until(lambda: not bad.exists() and not first.exists())
    box.stop()


@pytest.mark.parametrize("keep", ["outbox", "state"])
def test_a_folder_of_an_ended_job_that_cannot_be_removed_is_tried_again_every_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, keep: str
):
    monkeypatch.setenv("APPLIANCE_KEEP_DATASETS", keep)
    box = Box(tmp_path, keep_datasets=keep)
    box.drop("a.jsonl")
    box.turn_until(lambda: (tmp_path / "state" / "jobs" / "0001-a" / "check" / "result.json").exists())
    bad = box.folder() / "train" / "checkpoints" / "optimizer.pt"
    bad.parent.mkdir(parents=True)
    bad.write_text("much")
    rmtree = shutil.rmtree

    def refuse(path: Path, *arguments: Any, **more: Any) -> None:
        if Path(path) == bad.parent:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        rmtree(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        assert box.ended(1).state is JobState.SUCCEEDED
        box.tick()
        assert bad.exists()
        assert caplog.text.count("can be removed") == 1
    box.shift += 3601.0
    box.turn_until(lambda: not bad.exists())
    box.turn_until(lambda: (box.folder() / "dropped").exists() is (keep == "state"))
    box.stop()


def test_a_cancel_is_kept_to_although_it_cannot_be_written_down_at_once(box: Box):
    paused(box)
    undo = refuse_reads(box.folder() / "outcome.json")
    (box.inbox / "0001.cancel").touch()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.cancel_requested)
    box.appliance.store.ask("resume", "queue", now=0.0)
    for _ in range(5):
        box.tick()
    undo()
    assert box.ended(1).state is JobState.CANCELLED
    assert "train" not in [event.get("stage") for event in box.history(1)]


def test_a_daemon_stops_although_an_end_cannot_be_written_down(tmp_path: Path):
    box = Box(tmp_path)
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    undo = refuse_reads(box.folder() / "job.json")
    box.stop()
    undo()
    box.start()
    (box.folder() / "dropped" / "a.jsonl").write_text("{}\n")
    assert box.ended(1).state is JobState.SUCCEEDED
    box.stop()


def test_an_ended_job_whose_figures_cannot_be_read_does_not_keep_the_board_from_the_rest(box: Box):
    box.drop("a.jsonl")
    box.ended(1)
    refuse_reads(box.folder() / "verify" / "result.json")
    box.drop("b.jsonl")
    box.ended(2)
    status = box.outbox / "STATUS.md"
    box.turn_until(lambda: "0002-b" in status.read_text() and "0001-a" in status.read_text())


def test_a_start_after_a_crash_ends_a_job_whose_folder_is_gone_and_goes_on(box: Box):
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.crash()
    shutil.rmtree(box.settings.state / "jobs" / "0001-a")
    box.start()
    job = box.ended(1)
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.INTERNAL)
    assert box.appliance.store.open_attempts() == []
    box.crash()
    box.start()
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED


def test_a_start_after_a_crash_waits_for_a_folder_that_cannot_be_used(box: Box):
    box.drop("a.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.crash()
    undo = refuse_reads(box.settings.state / "jobs" / "0001-a" / "job.json")
    box.start()
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    undo()
    assert box.ended(1).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EAGAIN, Waiting.MEMORY), (errno.ENOMEM, Waiting.MEMORY), (errno.ENOSPC, Waiting.DISK)],
)
def test_a_process_that_cannot_be_started_is_no_attempt(
    box: Box, monkeypatch: pytest.MonkeyPatch, number: int, reason: Waiting
):
    start, refused = box.appliance.crew._start, [0]

    def short_of_something(stage, job_dir):
        if stage is Stage.TRAIN and refused[0] < 5:
            refused[0] += 1
            raise OSError(number, os.strerror(number))
        return start(stage, job_dir)

    monkeypatch.setattr(box.appliance.crew, "_start", short_of_something)
    box.drop("a.jsonl")
    box.turn_until(lambda: waits(box, reason))
    job = box.job(1)
    assert job is not None
    assert os.strerror(number) in job.waiting_detail
    assert job.not_before > time.time()
    assert box.ended(1, seconds_a_turn=5.0).state is JobState.SUCCEEDED
    assert refused == [5]
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 1


def test_a_training_that_somebody_else_ends_is_counted_and_goes_on_after_pauses(box: Box):
    box.drop("a.jsonl", train="sleep")
    for _ in range(3):
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        stopped = box.appliance.crew.running[1]
        stopped.process.ask_to_stop()
        box.turn_until(lambda stopped=stopped: box.appliance.crew.running.get(1) is not stopped)
        box.shift += 300.0
    job = box.ended(1)
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.WORKER_CRASHED)
    assert "SIGTERM" in job.message
    kinds = [event["kind"] for event in box.history(1) if event.get("stage") == "train" and "kind" in event]
    assert kinds == [EndKind.FAILED] * 3


def test_what_is_left_waits_for_its_turn_once_the_lane_is_open(box: Box):
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: waits(box, Waiting.PAUSED, 1))
    box.drop("b.jsonl")
    box.turn_until(lambda: waits(box, Waiting.PAUSED, 2))
    box.appliance.store.ask("resume", "queue", now=0.0)
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.turn_until(lambda: waits(box, Waiting.NONE, 2))
    box.appliance.store.ask("cancel", "1", now=0.0)
    assert box.ended(2).state is JobState.SUCCEEDED


def test_a_cancel_that_a_crash_cut_short_is_kept_to(box: Box):
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.appliance.wishes.act_on_all(time.monotonic(), time.time())
    box.crash()
    box.start()
    assert box.ended(1).state is JobState.CANCELLED
    assert [event["stage"] for event in box.history(1) if event["event"] == "stage_started"].count("train") == 1


def test_a_training_that_gets_further_and_takes_the_machine_down_each_time_waits_for_a_person(
    box: Box, monkeypatch: pytest.MonkeyPatch
):
    box.drop("a.jsonl", train="sleep")
    crashes = 2 * box.settings.max_attempts
    for number in range(crashes):
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        checkpoint = box.folder() / "train" / "checkpoints" / f"step-{number + 1:06}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "COMPLETE.json").write_text("{}")
        box.crash()
        monkeypatch.setattr("appliance.daemon.boot_id", lambda number=number: f"boot {number}")
        box.start()
    box.turn_until(lambda: waits(box, Waiting.APPROVAL))
    job = box.job(1)
    assert job is not None
    assert f"went down {crashes} times" in job.waiting_detail
    assert "appliance approve 1" in job.waiting_detail
    box.drop("b.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN, 2))
    box.appliance.store.ask("approve", "1", now=0.0)
    box.turn_until(lambda: waits(box, Waiting.NONE))
    box.appliance.store.ask("cancel", "2", now=0.0)
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    retries = dict(((name, labels.get("reason")), value) for name, labels, value in box.appliance.store.counters())
    assert retries["job_retries_total", "host_crashed"] == crashes


def test_a_last_attempt_that_the_guard_stopped_keeps_its_class(tmp_path: Path):
    machine = read_machine()
    low = Reading(replace(machine.memory, available_bytes=1))
    readings = [machine]
    box = Box(tmp_path, max_attempts=1, reading=lambda: readings[-1])
    plan = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "gradient_checkpointing": True}
    box.drop("a.jsonl", train="sleep", plan=plan)
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    readings.append(low)
    box.turn_until(lambda: not box.runs(Stage.TRAIN))
    readings.append(machine)
    job = box.ended(1, seconds_a_turn=5.0)
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.MEMORY_GUARD)
    assert "memory" in job.message
    box.stop()


def test_an_outbox_that_is_not_there_is_waited_for_and_called_by_its_name(box: Box):
    box.drop("a.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    away = box.outbox.rename(box.outbox.with_name("away"))
    # The board has no place to be written to, either.
    box.forgiving = True
    box.appliance.crew.running[1].process.kill()
    box.turn_until(lambda: waits(box, Waiting.DISK))
    job = box.job(1)
    assert job is not None
    assert job.waiting_detail.startswith("the outbox cannot be used: No such file or directory. Give")
    away.rename(box.outbox)
    assert box.ended(1, seconds_a_turn=5.0).state is JobState.SUCCEEDED
