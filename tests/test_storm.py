"""Many drops, and daemon and stages killed at random: every job ends exactly once, and nothing is lost."""

import random
import time
from pathlib import Path

import pytest

from appliance.job import ENDED, JobState
from appliance.outbox import read_manifest
from tests.box import Box

# What the scripts of the jobs may make a stage do; most jobs do nothing special.
SCRIPTS = [{}, {}, {}, {"check": "reject"}, {"train": "fail"}, {"train": "crash once"}, {"verify": "crash once"}]
SECONDS_A_JOB = 15.0
# The storm calms down, so that a slow machine gets to the end as well.
KILLS_A_JOB = 3


def storm(root: Path, rng: random.Random, jobs: int) -> None:
    # Killing at random is not the jobs' fault: let nobody be given up for it.
    box = Box(root, max_attempts=1000)
    names = [f"job-{number}.jsonl" for number in range(jobs)]
    waiting = list(names)
    end = time.monotonic() + SECONDS_A_JOB * jobs
    kills = KILLS_A_JOB * jobs
    while True:
        assert time.monotonic() < end, box.appliance.store.count_by_state()
        for name in waiting[: rng.randrange(3)]:
            box.drop(name, **rng.choice(SCRIPTS))
            waiting.remove(name)
        for _ in range(rng.randrange(1, 30)):
            box.tick()
        kills -= meddle(box, rng) if kills > 0 else 0
        if kills <= 0:
            box.shift += 600.0
        counts = box.appliance.store.count_by_state()
        if not waiting and sum(counts[state] for state in ENDED) == jobs:
            break
    every_job_ended_once(box, names)
    box.stop()


def meddle(box: Box, rng: random.Random) -> int:
    """Kill a stage or the daemon now and then, and let time jump. Returns how many were killed."""
    running = list(box.appliance.crew.running.values())
    if rng.random() < 0.3:
        # With time pass the pauses after which something is tried again.
        box.shift += 3600.0
    if running and rng.random() < 0.1:
        rng.choice(running).process.kill()
        return 1
    if rng.random() < 0.05:
        box.crash()
        box.start()
        return 1
    return 0


def every_job_ended_once(box: Box, names: list[str]) -> None:
    jobs = box.appliance.store.recent_jobs(10 * len(names))
    assert sorted(job.files[0].name for job in jobs) == sorted(names)
    results = [path for path in box.outbox.iterdir() if path.name[0].isdigit()]
    assert sorted(read_manifest(path)["job_uuid"] for path in results) == sorted(job.uuid for job in jobs)
    assert all((path / "dropped").is_dir() for path in results)
    assert all(job.state in (JobState.SUCCEEDED, JobState.REJECTED, JobState.FAILED) for job in jobs)
    assert [path.name for path in box.inbox.glob("*.jsonl")] == []
    assert [path for path in box.outbox.glob(".*")] == []


def test_a_storm_of_kills_loses_and_doubles_nothing(tmp_path: Path, rng: random.Random):
    storm(tmp_path, rng, jobs=12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_storm_of_kills_loses_and_doubles_nothing(tmp_path: Path, rng: random.Random):
    storm(tmp_path, rng, jobs=300)
