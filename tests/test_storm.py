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
SECONDS_A_JOB = 10.0


def storm(root: Path, rng: random.Random, jobs: int) -> None:
    # Killing at random is not the jobs' fault: let nobody be given up for it.
    box = Box(root, max_attempts=1000)
    names = [f"job-{number}.jsonl" for number in range(jobs)]
    waiting = list(names)
    end = time.monotonic() + SECONDS_A_JOB * jobs
    while True:
        assert time.monotonic() < end, box.appliance.store.count_by_state()
        for name in waiting[: rng.randrange(3)]:
            box.drop(name, **rng.choice(SCRIPTS))
            waiting.remove(name)
        for _ in range(rng.randrange(1, 30)):
            box.tick()
        meddle(box, rng)
        counts = box.appliance.store.count_by_state()
        if not waiting and sum(counts[state] for state in ENDED) == jobs:
            break
    every_job_ended_once(box, names)
    box.stop()


def meddle(box: Box, rng: random.Random) -> None:
    running = list(box.appliance.crew.running.values())
    if running and rng.random() < 0.1:
        rng.choice(running).process.kill()
    if rng.random() < 0.05:
        box.crash()
        box.start()


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
