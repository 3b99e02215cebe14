"""Stages that hang, do not listen, or leave something behind; and what a stage sets up for itself before it works."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.job import FailureClass, JobState, Stage
from tests.box import Box
from tests.jobs import make_job, start_stage
from tests.waiting import until

STALL = 20 * 60.0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop()


@pytest.mark.parametrize("stage", [Stage.CHECK, Stage.TRAIN, Stage.VERIFY])
def test_a_stage_that_hangs_is_found_killed_and_replaced(box: Box, stage: Stage):
    box.drop(**{stage: "sleep once"})
    box.turn_until(lambda: box.runs(stage))
    hung = box.appliance.crew.running[1].process.pid
    os.kill(hung, signal.SIGSTOP)
    box.turn_until(lambda: psutil.Process(hung).status() == psutil.STATUS_STOPPED)
    box.tick()
    while box.appliance.crew.running[1].stop_asked is None:
        # Twice for a stage that reports little: the first look only notes how much it has read and written.
        assert box.shift < 3 * STALL
        box.shift += STALL + 60
        box.tick()
    assert box.appliance.crew.running[1].stop_reason == "stalled"
    assert psutil.pid_exists(hung)
    # It cannot listen to SIGTERM either.
    box.shift += 61.0
    assert box.ended().state is JobState.SUCCEEDED
    assert not psutil.pid_exists(hung)
    ends = [event for event in box.history() if event["event"] == "stage_ended" and event["stage"] == stage]
    assert [event["failure"] for event in ends] == ["stalled", None]


def test_a_stage_that_always_hangs_fails_with_its_class(box: Box):
    box.drop(train="ignore")
    for _ in range(3):
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        hung = box.appliance.crew.running[1].process.pid
        box.shift += STALL + 60
        box.turn_until(lambda: box.appliance.crew.running[1].stop_asked is not None)
        box.shift += 61.0
        box.turn_until(lambda hung=hung: hung not in [r.process.pid for r in box.appliance.crew.running.values()])
        # The pause before the next try.
        box.shift += 3600.0
    job = box.ended()
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.STALLED)
    assert "made no progress for 20 minutes" in job.message


def test_who_reports_or_works_the_disk_is_not_hung(box: Box):
    box.drop(train="talk")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    for _ in range(4):
        seen = box.appliance.crew.running[1].offset
        box.turn_until(lambda seen=seen: box.appliance.crew.running[1].offset > seen)
        box.shift += STALL - 60
        box.tick()
    assert box.appliance.crew.running[1].stop_asked is None


def test_nothing_that_a_stage_started_outlives_it(box: Box):
    box.drop(train="family")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    family = psutil.Process(box.appliance.crew.running[1].process.pid)
    until(lambda: len(family.children()) == 1)
    (child,) = family.children()
    assert os.getpgid(child.pid) == os.getsid(child.pid) == family.pid
    family.kill()
    box.turn_until(
        lambda: 1 not in box.appliance.crew.running or box.appliance.crew.running[1].process.pid != family.pid
    )
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_the_real_stages_die_first_when_memory_runs_out_and_with_their_parent(tmp_path: Path):
    """What a real stage does before anything else, in a process whose parent is then killed."""
    parent = """
import subprocess, sys, os
from appliance.job import Stage
environment = {**os.environ, "_APPLIANCE_PARENT_PID": str(os.getpid())}
program = '''
import sys, time
from appliance.job import Stage
from appliance.processes import die_with_parent
from appliance.stages.__main__ import _die_first
die_with_parent()
_die_first(Stage.TRAIN)
print(open("/proc/self/oom_score_adj").read().strip(), flush=True)
time.sleep(120)
'''
child = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
os.kill(os.getpid(), 9)
"""
    said = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60, check=False)
    pid, score = said.stdout.split()
    assert int(score) >= 500
    until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)


def test_a_real_stage_on_a_full_disk_says_so(tmp_path: Path):
    from tests.small_disk import small_disk

    with small_disk(tmp_path, 1 << 20):
        job = make_job(tmp_path, {"a.jsonl": '{"text": "x"}\n'})
        job.stage(Stage.CHECK)
        with (tmp_path / "film").open("wb", buffering=0) as film:
            while os.statvfs(tmp_path).f_bavail:
                film.write(b"\0" * min(65536, os.statvfs(tmp_path).f_bavail * 4096))
        assert start_stage(Stage.CHECK, job).wait(60) == 5
