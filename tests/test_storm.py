"""Many drops; the real daemon and its stages killed at random, disks that fill up, a clock that jumps: every job ends
exactly once, nothing is lost, and `/metrics` answers throughout."""

import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from appliance.database import DATABASE
from appliance.job import ENDED, JobState
from appliance.outbox import read_manifest
from appliance.store import Store
from tests.clock import Clock
from tests.small_disk import small_disk
from tests.waiting import until

# What the scripts of the jobs may make a stage do; most jobs do nothing special.
SCRIPTS = [
    *({}, {}, {}, {"check": "reject"}, {"train": "fail"}, {"train": "crash once"}, {"verify": "crash once"}),
    *({"train": "need 2"}, {"priority": "high"}, {"fetch": "nap once"}),
]
SECONDS_A_JOB = 30.0
DEADLINE_SECONDS = 120.0
DISKS = ["state", "outbox", "state/cache"]
DISK_BYTES = 96 * 10**6
HOUR = 3600.0


class Storm:
    def __init__(self, root: Path, rng: random.Random, clock: Clock) -> None:
        self.root, self.rng, self.clock = root, rng, clock
        (root / "recipes").mkdir()
        (root / "recipes" / "default.yaml").write_text("base_model: demo\n")
        (root / "inbox").mkdir()
        self.seconds: list[float] = []
        self.kills = 0
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.root / "address").unlink(missing_ok=True)
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "tests.storm_daemon", str(self.root)],
                env={**os.environ, **self.clock.environment},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.kills += 1

    def scrape(self) -> None:
        """Ask for the metrics once, if anybody listens. What takes long counts, a daemon that is down does not."""
        try:
            address = (self.root / "address").read_text()
            began = time.monotonic()
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
                assert b"appliance_jobs" in answer.read()
            self.seconds.append(time.monotonic() - began)
        except (OSError, ValueError, http.client.HTTPException):
            # The last: it was killed while it answered.
            return

    def drop(self, name: str) -> None:
        inbox = self.root / "inbox"
        row = json.dumps(self.rng.choice(SCRIPTS)) + f'\n{{"text": "{name}"}}\n'
        (inbox / f".{name}.tmp").write_text(row)
        (inbox / f".{name}.tmp").rename(inbox / name)

    def meddle(self, film: Path) -> None:
        """Kill a stage or the daemon, fill or empty the disk, let the clock jump."""
        chance = self.rng.random()
        assert self.daemon is not None
        if chance < 0.08 or self.daemon.poll() is not None:
            self.kill()
            self.start()
        elif chance < 0.35:
            self._kill_a_stage()
        elif chance < 0.45:
            self._fill(film)
        elif chance < 0.65:
            film.unlink(missing_ok=True)
        else:
            self.clock.jump(self.rng.choice([-2 * HOUR, HOUR, 2 * HOUR, 3 * HOUR]))

    def _kill_a_stage(self) -> None:
        assert self.daemon is not None
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.daemon.pid).children()
            stages = [child for child in children if "fake_stage.py" in str(child.cmdline())]
            if stages:
                self.rng.choice(stages).kill()
                self.kills += 1

    def _fill(self, film: Path) -> None:
        with contextlib.suppress(OSError), film.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 20))

    def ended(self) -> int:
        try:
            store = Store(self.root / "state" / DATABASE, readonly=True)
        except Exception:
            return 0
        try:
            counts = store.count_by_state()
            return sum(counts[state] for state in ENDED)
        except sqlite3.Error:
            return 0
        finally:
            store.close()


@contextmanager
def scraping(storm: Storm) -> Iterator[None]:
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.05):
            storm.scrape()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def storm_over(root: Path, rng: random.Random, jobs: int, disk: str) -> Storm:
    (root / disk).mkdir(parents=True)
    storm = Storm(root, rng, Clock(root))
    names = [f"job-{number}.jsonl" for number in range(jobs)]
    waiting = list(names)
    with small_disk(root / disk, DISK_BYTES), scraping(storm):
        film = root / disk / "somebody's film"
        storm.start()
        try:
            end = time.monotonic() + DEADLINE_SECONDS + SECONDS_A_JOB * jobs
            while storm.ended() < jobs:
                assert time.monotonic() < end, (storm.ended(), (root / "daemon.log").read_text()[-3000:])
                for name in waiting[: rng.randrange(3)]:
                    storm.drop(name)
                    waiting.remove(name)
                # The storm calms down, so that a slow machine gets to the end as well.
                if storm.kills < jobs // 2:
                    storm.meddle(film)
                else:
                    film.unlink(missing_ok=True)
                    storm.clock.jump(HOUR)
                    if storm.daemon is not None and storm.daemon.poll() is not None:
                        storm.start()
                time.sleep(rng.random() / 2)
            every_job_ended_once(root, names)
            # One that has only just begun does not listen yet.
            until((root / "address").exists)
        finally:
            assert storm.daemon is not None
            storm.daemon.send_signal(signal.SIGTERM)
            storm.daemon.wait(DEADLINE_SECONDS)
    assert storm.daemon.returncode == 0
    return storm


def every_job_ended_once(root: Path, names: list[str]) -> None:
    store = Store(root / "state" / DATABASE, readonly=True)
    jobs = store.recent_jobs(10 * len(names))
    store.close()
    assert sorted(job.files[0].name for job in jobs) == sorted(names)
    results = [path for path in (root / "outbox").iterdir() if path.name[0].isdigit()]
    assert sorted(read_manifest(path)["job_uuid"] for path in results) == sorted(job.uuid for job in jobs)
    assert all((path / "dropped").is_dir() for path in results)
    assert all(job.state in (JobState.SUCCEEDED, JobState.REJECTED, JobState.FAILED) for job in jobs)
    assert [path.name for path in (root / "inbox").glob("*.jsonl")] == []
    assert [path.name for path in (root / "outbox").glob(".0*")] == []


def percentile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


@pytest.mark.timeout(1800)
def test_a_storm_of_forty_jobs_loses_and_doubles_nothing(tmp_path: Path, rng: random.Random):
    storm = storm_over(tmp_path, rng, jobs=40, disk=rng.choice(DISKS))
    assert storm.kills > 5
    assert len(storm.seconds) > 20
    assert max(storm.seconds) < 30


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("disk", DISKS)
def test_a_storm_of_three_hundred_jobs_loses_and_doubles_nothing(tmp_path: Path, rng: random.Random, disk: str):
    storm = storm_over(tmp_path, rng, jobs=300, disk=disk)
    print(f"{storm.kills} kills, {len(storm.seconds)} scrapes, p99 {percentile(storm.seconds, 0.99):.3f} s")
    assert percentile(storm.seconds, 0.99) < 1.0
