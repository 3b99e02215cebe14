"""Running out of memory, for real where this machine can: a training that goes on in smaller pieces, and the guard."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.exits import EndKind, StageEnd
from appliance.gpu_presence import find_fault
from appliance.job import FailureClass, JobState, Stage
from appliance.job_dir import JobDir, read_progress
from appliance.memory import Floors, read_machine, read_memory
from appliance.progress import last_of_each_step
from appliance.retries import again
from appliance.stages.training.checkpoints import Checkpoint, newest_good_checkpoint
from appliance.store import DATABASE, Store
from tests.box import Box
from tests.real_daemon import RealDaemon, rows
from tests.training_jobs import NOISE, events, ready_to_train, start_training

GB = 10**9
DEADLINE_SECONDS = 120.0
SAME = ("step", "learning_rate", "content_tokens", "target_tokens", "samples")


def split(job: JobDir) -> tuple[int, int]:
    """How the plan cuts an optimizer step."""
    plan = json.loads((job.path / "prepare" / "plan.json").read_text())
    return plan["per_device_train_batch_size"], plan["gradient_accumulation_steps"]


@pytest.mark.train
def test_a_training_that_ran_out_of_memory_ends_like_one_that_did_not(tmp_path: Path, trained_job):
    """Real training; the error is injected in mid-step, and the daemon's own code makes the plan smaller."""
    job = ready_to_train(tmp_path, **NOISE)
    micro_batch, accumulation = split(job)
    environment = {**os.environ, "APPLIANCE_STATE": str(tmp_path / "state"), "APPLIANCE_CHECKPOINT_MINUTES": "0.00001"}
    with (job.stage(Stage.TRAIN) / "stage.log").open("ab") as log:
        ran_out = subprocess.run(
            [sys.executable, "-m", "tests.run_out_of_memory", "10", str(job.path)],
            env=environment,
            stdout=log,
            stderr=log,
            timeout=200,
            check=False,
        )
    said = job.failure(Stage.TRAIN)
    assert ran_out.returncode == 1, (job.path / "train" / "stage.log").read_text()[-3000:]
    assert said is not None
    assert said["failure"] == FailureClass.OUT_OF_MEMORY
    newest = newest_good_checkpoint(job.path / "train" / "checkpoints")
    assert newest is not None
    assert newest.step == 10

    store = Store(tmp_path / "appliance.sqlite")
    store.add_job(job.read_job())
    end = StageEnd(EndKind.FAILED, said["message"], failure=FailureClass.OUT_OF_MEMORY)
    store.note(1, "stage_ended", now=0.0, stage=Stage.TRAIN, kind=end.kind, failure=end.failure)
    assert again(job.read_job(), Stage.TRAIN, end, job, store, max_attempts=3) is not None
    store.close()
    assert split(job) == (micro_batch // 2, accumulation * 2)
    assert start_training(job).wait(200) == 0, (job.path / "train" / "stage.log").read_text()[-3000:]

    ours, theirs = last_of_each_step(events(job)), last_of_each_step(events(trained_job))
    assert [event["attempt_step"] for event in events(job) if event["event"] == "start"] == [0, 10]
    assert [[step[field] for field in SAME] for step in ours] == [[step[field] for field in SAME] for step in theirs]
    mine, its = job.result(Stage.TRAIN), trained_job.result(Stage.TRAIN)
    assert [mine[field] for field in ("steps", "samples", "content_tokens")] == [
        its[field] for field in ("steps", "samples", "content_tokens")
    ]


def test_a_gpu_that_is_full_has_its_class():
    if find_fault() is not None:
        pytest.skip("needs an NVIDIA GPU: running out of its memory cannot be had for real without one")
    program = """
import torch
from appliance.errors import StageFailure
from appliance.stages.training.machine import faults_named
torch.cuda.set_per_process_memory_fraction(0.05)
try:
    with faults_named():
        kept = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(10_000)]
except StageFailure as failure:
    print(failure.failure)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout.split() == ["out_of_memory"]


# The guard, with memory that is really gone.


@contextmanager
def eating() -> Iterator[subprocess.Popen[str]]:
    """A process that takes as many megabytes as it is told to, line by line, and keeps them."""
    program = """
import sys
kept = []
for line in sys.stdin:
    for _ in range(int(line) // 32):
        kept.append(bytearray(b"x") * (32 << 20))
    print("full", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]
        process.stdout.close()  # type: ignore[union-attr]


def eat(process: subprocess.Popen[str], megabytes: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{megabytes}\n")


def eat_below(process: subprocess.Popen[str], floor: int) -> float:
    """Take memory piece by piece until less than `floor` is left, and a little more. Returns the moment it was crossed.

    Whoever else runs here gives back and takes meanwhile: no amount that is known before is sure to be enough.
    """
    assert process.stdout is not None
    for _ in range(100):
        eat(process, 64)
        assert process.stdout.readline() == "full\n"
        if below(floor):
            crossed = time.monotonic()
            eat(process, 320)
            return crossed
    raise AssertionError(f"{read_memory().available_bytes} bytes are left")


def below(free: int) -> bool:
    return read_memory().available_bytes < free


# Long and for a quiet machine: it takes gigabytes away from whatever else runs here, and looks at the clock.
@pytest.mark.soak
def test_real_memory_that_runs_out_stops_the_training_in_time_and_the_daemon_lives(tmp_path: Path):
    """Floors relative to what is free now; a process eats its way below them. The training saves a real checkpoint."""
    start = read_memory().available_bytes
    if start < 6 * GB:
        pytest.skip(f"needs 6 GB of free memory to take some of it away, and there are {start / GB:.1f}")
    box = Box(tmp_path, reading=read_machine, memory_floor_gb=0.002, memory_kill_floor_gb=0.001)
    box.looks = False
    box.appliance.guard.start()
    box.drop(train="save once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    free = read_memory().available_bytes
    floors = Floors(first_bytes=free - 1 * GB, second_bytes=free - 3 * GB)
    checkpoints = box.appliance.places.jobs / "0001-support" / "train" / "checkpoints"
    with eating() as eater:
        box.appliance.guard.floors = floors
        eat(eater, 1600)
        crossed = moment_when(box, lambda: below(floors.first_bytes))
        saved = moment_when(box, lambda: newest_good_checkpoint(checkpoints) is not None)
        box.turn_until(lambda: not box.runs(Stage.TRAIN))
        assert saved - crossed < 5.0
        # Nothing begins while the memory is away.
        assert box.appliance.crew.on_gpu == []
    box.appliance.guard.floors = Floors(2, 1)
    assert box.ended().state is JobState.SUCCEEDED
    plan = json.loads((box.outbox / "0001-support" / "plan.json").read_text())
    assert (plan["per_device_train_batch_size"], plan["gradient_accumulation_steps"]) == (4, 2)

    box.drop("deaf.jsonl", train="ignore")
    box.turn_until(lambda: box.runs(Stage.TRAIN, 2))
    process = box.appliance.crew.running[2].process
    free = read_memory().available_bytes
    with eating() as eater:
        floors = box.appliance.guard.floors = Floors(first_bytes=free - 1 * GB, second_bytes=free - 2 * GB)
        # More than it takes: what the first eater held may still be coming back.
        eat(eater, 4600)
        crossed = moment_when(box, lambda: below(floors.second_bytes))
        killed = moment_when(box, lambda: process.poll() is not None)
        assert killed - crossed < 1.0
    box.appliance.guard.floors = Floors(2, 1)
    box.appliance.store.ask("cancel", "2", now=0.0)
    box.turn_until(lambda: box.appliance.store.requests() == [])
    box.turn_until(lambda: not box.runs(Stage.TRAIN, 2) or kill(box))
    box.ended(2)
    box.stop()


RECIPE = "base_model: demo\nmax_steps: 400\nper_device_train_batch_size: 4\neffective_batch_size: 4\n"


# As the one above: not beside other work.
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_real_training_saves_in_time_when_memory_runs_out_and_ends_well_when_it_is_back(tmp_path: Path):
    """The real daemon and Unsloth. The floor lies a little below what is free while it trains, so little is eaten."""
    if read_memory().available_bytes < 6 * GB:
        pytest.skip("needs 6 GB of free memory to train and to take some of it away")
    daemon = RealDaemon(tmp_path, memory_floor_gb="0.002", memory_kill_floor_gb="0.001", memory_reserve_gb="1")
    try:
        (daemon.inbox / "support.yaml").write_text(RECIPE)
        (daemon.inbox / "support.jsonl").write_text(rows(80))
        train = tmp_path / "state" / "jobs" / "0001-support" / "train"
        daemon.wait_for(lambda: newest_step(train) >= 5)
        free = lowest_free_during(daemon, train, steps=10)
        # The floors are read at the start; the training goes on from where it saves now.
        assert daemon.stop() == 0
        floor = free - GB * 8 // 10
        daemon.environment["APPLIANCE_MEMORY_FLOOR_GB"] = str(floor / GB)
        daemon.start()
        served, last = daemon.process.pid, newest_step(train)
        daemon.wait_for(lambda: newest_step(train) > last + 2)
        checkpoint = newest_good_checkpoint(train / "checkpoints")
        assert checkpoint is not None
        with eating() as eater:
            crossed = eat_below(eater, floor)
            saved = moment_of(daemon, lambda: newer_than(checkpoint, train))
            assert saved - crossed < 5.0
            # Nothing begins while the memory is away, and the daemon answers.
            daemon.wait_for(lambda: (job := daemon.job(1)) is not None and job["waiting"] == "memory")
            assert daemon.client.get("/healthz").status == 200
            step = newest_step(train)
        daemon.wait_for(lambda: (daemon.outbox / "0001-support").is_dir(), seconds=900)
        assert step < 400
        plan = json.loads((daemon.outbox / "0001-support" / "plan.json").read_text())
        assert (plan["per_device_train_batch_size"], plan["gradient_accumulation_steps"]) == (2, 2)
        daemon.wait_for(lambda: (job := daemon.job(1)) is not None and job["state"] == "succeeded")
        ends = [event for event in history(tmp_path) if event["event"] == "stage_ended" and event["stage"] == "train"]
        assert [(event["kind"], event["failure"]) for event in ends] == [
            ("stopped", None),
            ("failed", "memory_guard"),
            ("done", None),
        ]
        assert daemon.process.pid == served
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def newest_step(train: Path) -> int:
    return read_progress(train).step or 0


def newer_than(checkpoint: Checkpoint, train: Path) -> bool:
    newest = newest_good_checkpoint(train / "checkpoints")
    return newest is not None and newest.step > checkpoint.step


def lowest_free_during(daemon: RealDaemon, train: Path, *, steps: int) -> int:
    """How little was free at any moment while it trained so many steps."""
    last, seen = newest_step(train) + steps, []
    daemon.wait_for(lambda: seen.append(read_memory().available_bytes) or newest_step(train) >= last)
    return min(seen)


def moment_of(daemon: RealDaemon, condition) -> float:
    """When something was seen to have happened, while the daemon lives."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end
        assert daemon.process.poll() is None, daemon.log()[-3000:]
        time.sleep(0.005)
    return time.monotonic()


def history(root: Path) -> list[dict]:
    store = Store(root / "state" / DATABASE, readonly=True)
    events = store.events(1)
    store.close()
    return events


def kill(box: Box) -> bool:
    """The second try is deaf too."""
    box.appliance.crew.running[2].process.kill()
    return False


def moment_when(box: Box, condition) -> float:
    """Turn the box, as its daemon would, until something has happened; when that was seen."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end
        box.tick()
        time.sleep(0.005)
    return time.monotonic()
