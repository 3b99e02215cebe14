"""SIGKILL at every line of the intake, then a restart: no drop lost, none doubled, nothing left over."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import copying, files, inbox, intake, job_dir, places, store
from appliance.job import Job
from appliance.names import job_number
from appliance.reception import SURVEYS_ABSENT, Reception
from appliance.settling import DropState
from tests.crash import count_lines, crash_at
from tests.door import RECIPE, RULES, Door

TRACED = (copying, files, inbox, intake, job_dir, store)
DEADLINE_SECONDS = 60.0
ROW = '{"text": "the only copy"}\n'

Drop = dict[str, str]
DROPS: dict[str, Drop] = {
    "single": {"a.jsonl": ROW},
    "pair": {"a.jsonl": ROW, "a.yaml": RECIPE},
    "folder": {"f/train.jsonl": ROW, "f/eval.jsonl": ROW, "f/recipe.yaml": RECIPE},
    "two recipes": {
        "a.jsonl": ROW,
        "a.yaml": "base_model: demo\ndataset: a.jsonl\n",
        "b.yaml": RECIPE + "dataset: a.jsonl\n",
    },
}
WANTED = {"a.yaml": "a.jsonl", "b.yaml": "a.jsonl"}


def make_door(root: Path, drop: Drop) -> Door:
    door = Door(root)
    for name, content in drop.items():
        door.put(name, content)
    return door


def take_in_everything(door: Door) -> None:
    """What the reception does, in one thread: the copies and their recording, until nothing is left to do."""
    for drop in door.drops(**WANTED):
        if drop.state is DropState.READY:
            door.record(door.copy(drop))


def restart(root: Path) -> Door:
    """A new door on the same folders, after what a start does."""
    door = reopened(root)
    for unfinished in door.places.incoming.iterdir():
        shutil.rmtree(unfinished)
    reception = Reception(door.inbox, door.store, door.places, RULES, scan_seconds=0)
    surveys, end = 0, time.monotonic() + DEADLINE_SECONDS
    while surveys < SURVEYS_ABSENT or reception.busy or reception.drops or door.store.unremoved():
        assert time.monotonic() < end, (reception.drops, door.store.unremoved())
        # A survey without news takes a moment of its thread: let it have the processor.
        surveys += reception.look(1000.0 + time.monotonic())
        reception.take_in(1000.0 + time.monotonic(), wall=1.0)
        time.sleep(0.001)
    reception.close()
    return door


def promises_hold(door: Door, drop: Drop, expected: int) -> None:
    jobs = door.store.active_jobs()
    assert len(jobs) == expected, [job.id for job in jobs]
    assert all(job.outcome is None for job in jobs), "a drop was doubled: the second copy was refused"
    for job in jobs:
        assert_whole(door, job, drop)
    assert sorted(path.name for path in door.places.jobs.iterdir()) == sorted(job.id for job in jobs)
    assert list(door.places.incoming.iterdir()) == []
    assert [path for path in door.inbox.listing() if path != "f"] == []
    assert door.store.unremoved() == []


def assert_whole(door: Door, job: Job, drop: Drop) -> None:
    content = {Path(name).name: text for name, text in drop.items()}
    for file in job.files:
        assert (door.dir(job).path / file.path).read_text() == content[file.name]
    assert job_number(job.id) == job.number


def crash_points(root: Path, drop: Drop) -> int:
    return count_lines(TRACED, _work(root / "count", drop))


def _work(root: Path, drop: Drop) -> Callable[[], None]:
    make_door(root, drop).store.close()
    return lambda: take_in_everything(reopened(root))


def reopened(root: Path) -> Door:
    door = Door.__new__(Door)
    door.inbox = inbox.Inbox(root / "inbox", "installation")
    door.store = store.Store(root / "state" / "appliance.sqlite")
    door.places = places.Places(root / "state", root / "outbox", root / "recipes")
    return door


def crash_everywhere(root: Path, drop: Drop, lines: list[int]) -> None:
    expected = max(1, sum(name.endswith(".yaml") for name in drop))
    for line in lines:
        folder = root / f"line-{line}"
        crash_at(line, TRACED, _work(folder, drop))
        door = restart(folder)
        try:
            promises_hold(door, drop, expected)
        except AssertionError as error:
            raise AssertionError(f"killed at line {line}: {error}") from error
        door.store.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", DROPS)
def test_a_crash_at_a_line_of_the_intake_neither_loses_nor_doubles_a_drop(
    tmp_path: Path, kind: str, rng: random.Random
):
    """A seeded sample; the long tier takes every line."""
    total = crash_points(tmp_path, DROPS[kind])
    assert total > 100
    lines = sorted(rng.sample(range(1, total + 1), total // 10))
    crash_everywhere(tmp_path, DROPS[kind], lines)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", DROPS)
def test_a_crash_at_every_line_of_the_intake_neither_loses_nor_doubles_a_drop(tmp_path: Path, kind: str):
    total = crash_points(tmp_path, DROPS[kind])
    crash_everywhere(tmp_path, DROPS[kind], list(range(1, total + 1)))


def test_the_harness_sees_a_source_that_goes_before_its_row_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A planted bug: unlink before commit. The same harness must find it."""

    def unlink_first(door: Door, copied: copying.Copied):
        for path, entry in copied.sources:
            intake.remove_source(door.inbox, path, entry)
        return intake.record(copied, installation="x", store=door.store, places=door.places, now=1.0)

    monkeypatch.setattr(Door, "record", unlink_first)
    total = crash_points(tmp_path, DROPS["single"])
    with pytest.raises(AssertionError, match="killed at line"):
        crash_everywhere(tmp_path, DROPS["single"], list(range(total // 4, total, 2)))
