"""Which trainings start: what fits into the free memory now, and what nobody has to approve."""

import os
import subprocess
import sys
import threading

import pytest

from appliance.admission import Admission, largest_process
from appliance.hardware import free_memory_bytes, this_machine
from appliance.job import JobState, Stage, Waiting
from appliance.memory import read_memory
from appliance.settings import Settings
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
