"""Which trainings start: what fits into the free memory now, and what nobody has to approve."""

import errno
import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta

import pytest

from appliance.actions import why_not
from appliance.admission import Admission, largest_process
from appliance.hardware import free_memory_bytes, this_machine
from appliance.job import JobState, Stage, Waiting
from appliance.memory import read_memory
from appliance.settings import Settings
from appliance.window import Window
from tests.box import Box

GB = 10**9
HOUR = 3600.0


@pytest.fixture
def box(tmp_path):
    box = Box(tmp_path, max_job_hours=72)
    yield box
    box.stop()


def plan(needs: int = 0, seconds: float = 60.0) -> dict:
    return {"memory": {"total_bytes": needs, "reserve_bytes": GB}, "seconds_estimate": seconds}


def waits_for(box: Box, reason: Waiting, number: int = 1):
    def is_held() -> bool:
        job = box.job(number)
        return job is not None and job.waiting is reason

    box.turn_until(is_held)
    job = box.job(number)
    assert job is not None
    assert job.state is JobState.QUEUED
    return job


def test_what_does_not_fit_now_waits_visibly_and_starts_when_memory_is_free(box):
    free = [31 * GB]
    box.appliance.starter.admission = Admission(box.settings, free_bytes=lambda: free[0])
    box.drop("large.jsonl", plan=plan(needs=44 * GB))
    held = waits_for(box, Waiting.MEMORY)
    assert "needs 44.0 GB, 30.0 GB are free beside the 1.0 GB in reserve" in held.waiting_detail
    assert "the largest other process is" in held.waiting_detail
    box.turn_until(lambda: "waits for memory" in (box.outbox / "STATUS.md").read_text())

    # A smaller one behind it does not wait with it.
    box.drop("small.jsonl", plan=plan(needs=2 * GB))
    assert box.ended(2).state is JobState.SUCCEEDED
    assert box.job(1).state is JobState.QUEUED

    free[0] = 46 * GB
    box.shift += 10
    assert box.ended(1).state is JobState.SUCCEEDED


def test_a_trained_job_waits_for_memory_to_be_verified_in_and_no_attempt_is_lost(box):
    free = [100 * GB]
    box.appliance.starter.admission = Admission(box.settings, free_bytes=lambda: free[0])
    box.drop(train="sleep once", plan=plan(needs=44 * GB, seconds=81 * HOUR))
    waits_for(box, Waiting.APPROVAL)
    box.appliance.store.ask("approve", "1", now=0.0)
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    # The server by day comes back while it trains.
    free[0] = 20 * GB
    box.shift += 10
    (box.appliance.places.jobs / "0001-support" / "train" / "result.json").write_text("{}")
    box.appliance.crew.running[1].process.ask_to_stop()
    held = waits_for(box, Waiting.MEMORY)
    assert "needs 44.0 GB, 19.0 GB are free" in held.waiting_detail
    for _ in range(10):
        box.tick()
    assert box.appliance.store.attempts(1, Stage.VERIFY) == 0
    free[0] = 46 * GB
    box.shift += 10
    assert box.ended().state is JobState.SUCCEEDED


def test_the_machine_is_looked_at_once_for_all_who_wait(box):
    looks = []
    box.appliance.starter.admission = Admission(box.settings, free_bytes=lambda: looks.append("free") or 31 * GB)
    box.drop("a.jsonl", plan=plan(needs=44 * GB))
    assert "needs 44.0 GB" in waits_for(box, Waiting.MEMORY, 1).waiting_detail
    box.drop("b.jsonl", plan=plan(needs=45 * GB))
    box.turn_until(lambda: (box.appliance.places.jobs / "0002-b" / "prepare" / "result.json").exists())
    box.shift += 10
    looks.clear()
    assert "needs 45.0 GB" in waits_for(box, Waiting.MEMORY, 2).waiting_detail
    box.tick()
    assert looks == ["free"]


def test_a_driver_that_hangs_holds_the_job_and_not_the_loop(tmp_path, monkeypatch):
    answers = threading.Event()
    asked_by = []

    def hang() -> int:
        asked_by.append(threading.current_thread())
        answers.wait(30.0)
        return 100 * GB

    monkeypatch.setattr("appliance.gpu_presence.free_memory_bytes", hang)
    box = Box(tmp_path)
    box.appliance.gpu.start()
    box.drop(plan=plan(needs=44 * GB))
    assert "driver does not say" in waits_for(box, Waiting.GPU).waiting_detail
    box.drop("other.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    answers.set()
    assert box.ended(1).state is JobState.SUCCEEDED
    assert threading.main_thread() not in asked_by
    box.stop()


def test_what_takes_longer_than_the_limit_is_held_until_somebody_approves(box):
    box.drop("long.jsonl", plan=plan(seconds=81 * HOUR))
    held = waits_for(box, Waiting.APPROVAL)
    assert "about 3 d 9 h by estimate, longer than the 72 h" in held.waiting_detail
    assert "`appliance approve 1`" in held.waiting_detail

    box.appliance.store.ask("approve", "1", now=0.0)
    assert box.ended(1).state is JobState.SUCCEEDED
    assert [event["event"] for event in box.history()].count("approved") == 1


@pytest.mark.parametrize("closed_by", ["a pause", "the window", "another training"])
def test_what_waits_for_approval_says_so_and_is_approved_while_the_gpu_is_closed_anyway(box, closed_by):
    """People decide by day, when the window is closed, so that it begins at night."""
    if closed_by == "a pause":
        box.appliance.store.ask("pause", "queue", now=0.0)
    if closed_by == "the window":
        box.appliance.lane._window = closed_now()
    if closed_by == "another training":
        box.drop("first.jsonl", train="sleep")
        box.turn_until(lambda: box.runs(Stage.TRAIN))
    number = 2 if closed_by == "another training" else 1
    box.drop("long.jsonl", plan=plan(seconds=81 * HOUR))
    waits_for(box, Waiting.APPROVAL, number)
    for _ in range(5):
        box.tick()
    assert why_not(waits_for(box, Waiting.APPROVAL, number), "approve", hub=False) is None
    (box.inbox / f"{number}.approve").touch()
    box.turn_until(lambda: box.job(number).approved)
    expected = {"a pause": Waiting.PAUSED, "the window": Waiting.WINDOW, "another training": Waiting.NONE}[closed_by]
    waits_for(box, expected, number)
    for _ in range(5):
        box.tick()
    assert box.job(number).waiting is expected


def closed_now() -> Window:
    now = datetime.now().astimezone()
    return Window.parse(f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M}")


def test_hundreds_that_wait_for_approval_are_looked_up_once_each(box, monkeypatch):
    box.appliance.store.ask("pause", "queue", now=0.0)
    for name in "ab":
        box.drop(f"{name}.jsonl", plan=plan(seconds=81 * HOUR))
    for number in (1, 2):
        waits_for(box, Waiting.APPROVAL, number)
    box.tick()
    asked = []
    monkeypatch.setattr(box.appliance.starter.admission, "held_back", lambda job, job_dir: asked.append(job.number))
    for _ in range(5):
        box.tick()
    assert asked == []
    assert {box.job(number).waiting for number in (1, 2)} == {Waiting.APPROVAL}


def test_a_plan_that_cannot_be_read_starts_no_long_training_unasked(box, monkeypatch):
    refused = OSError(errno.EIO, "Input/output error", "plan.json")

    def refuse(job, job_dir):
        raise refused

    with monkeypatch.context() as patch:
        patch.setattr(box.appliance.starter.admission, "held_back", refuse)
        box.drop("long.jsonl", plan=plan(seconds=81 * HOUR))
        assert "plan.json" in waits_for(box, Waiting.DISK).waiting_detail
    waits_for(box, Waiting.APPROVAL)


def test_a_job_that_waits_is_approved_by_the_command_line(box):
    box.drop("long.jsonl", plan=plan(seconds=81 * HOUR))
    waits_for(box, Waiting.APPROVAL)
    environment = {**os.environ, "APPLIANCE_STATE": str(box.settings.state)}
    command = [sys.executable, "-m", "appliance", "approve", "1"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "job 0001-long may take longer than 72 h\n"
    box.turn_until(lambda: box.job(1).approved)
    # Approval outlives a restart.
    box.crash()
    box.start()
    assert box.job(1).approved


def test_a_job_without_an_estimate_is_not_held(box):
    box.drop("plain.jsonl")
    assert box.ended(1).state is JobState.SUCCEEDED


def test_the_largest_other_process_is_named(tmp_path):
    processes = {"7": ("python3", 1000), "8": ("llama-server", 9000), str(os.getpid()): ("us", 10**6)}
    for pid, (name, pages) in processes.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(name + "\n")
        (tmp_path / pid / "statm").write_text(f"99999 {pages} 3 4 0 5 0\n")
    (tmp_path / "9").mkdir()
    found = largest_process(tmp_path)
    assert found is not None
    assert (found.pid, found.name, found.bytes) == (8, "llama-server", 9000 * os.sysconf("SC_PAGE_SIZE"))
    assert largest_process(tmp_path / "nothing") is None


def test_free_memory_and_reserve_are_those_of_where_training_happens(tmp_path):
    settings = Settings(state=tmp_path, memory_reserve_gb=1e6)
    machine, memory = this_machine(settings), read_memory()
    if machine.kind == "gpu":
        pytest.skip("there is a GPU")
    assert machine.memory_bytes == memory.total_bytes
    # Without one memory that both share, running out of it is an ordinary error.
    assert machine.reserve_bytes == memory.total_bytes // 8
    assert 0 < free_memory_bytes() <= memory.total_bytes
