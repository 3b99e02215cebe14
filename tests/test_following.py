"""What a training reports is shown and counted once, whatever became of the books or of the file in between."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.job import Stage
from appliance.job_dir import ProgressWriter
from appliance.running import StopReason
from appliance.store import Store
from tests.box import Box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    box.forgiving = True
    box.drop(train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    yield box
    box.stop()


def train_folder(box: Box) -> Path:
    return box.appliance.places.jobs / "0001-support" / "train"


def report(box: Box, first: int, last: int) -> None:
    """As a training does that begins after the step before `first`."""
    writer = ProgressWriter(train_folder(box))
    writer.write("start", attempt_step=first - 1, total_steps=100)
    for step in range(first, last + 1):
        counts = {"content_tokens": 10 * step, "padding_tokens": 0, "target_tokens": 5 * step, "samples": 2 * step}
        writer.write("step", step=step, epoch=0.1, loss=1.0, seconds=1.0, **counts)
    writer.close()


def counted(box: Box) -> dict[str, float]:
    """Steps and samples, each once; and seconds, also of the steps that were done again."""
    return {name: value for name, _, value in box.appliance.store.counters() if name in counts(0, 0)}


def counts(steps: int, seconds: int) -> dict[str, float]:
    return {
        "train_steps_total": steps,
        "train_samples_total": 2 * steps,
        "train_step_duration_seconds_sum": seconds,
    }


def step_shown(box: Box) -> int | None:
    running = box.appliance.crew.running.get(1)
    return running.progress.step if running is not None else None


@pytest.mark.parametrize("times", [1, 3])
def test_a_start_that_meets_a_locked_database_counts_nothing_twice(
    box: Box, monkeypatch: pytest.MonkeyPatch, times: int
):
    report(box, 1, 10)
    box.turn_until(lambda: step_shown(box) == 10)
    assert counted(box) == counts(10, 10)
    real, failures = Store.note_process, []

    def note_process(self: Store, *arguments: object, **facts: object) -> None:
        if len(failures) < times:
            failures.append(self)
            raise sqlite3.OperationalError("database is locked")
        real(self, *arguments, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "note_process", note_process)
    for number in range(1, times + 1):
        box.appliance.crew.ask_gpu_to_stop(time.monotonic(), StopReason.PREEMPTED)
        box.turn_until(lambda number=number: len(failures) == number)
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        assert step_shown(box) == 10
    report(box, 11, 12)
    box.turn_until(lambda: step_shown(box) == 12)
    assert counted(box) == counts(12, 12)


# How much of the file is left, in parts of three; and the step after the checkpoint from which it goes on.
@pytest.mark.parametrize(("left", "goes_on"), [(0, 1), (1, 8), (1, 25), (2, 31)])
def test_what_is_reported_after_a_power_cut_took_the_end_of_the_file_is_shown_and_counted_once(
    box: Box, left: int, goes_on: int
):
    report(box, 1, 30)
    box.turn_until(lambda: step_shown(box) == 30)
    box.crash()
    file = train_folder(box) / "progress.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * left // 3])
    box.start()
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    report(box, goes_on, 32)
    box.turn_until(lambda: step_shown(box) == 32)
    assert counted(box) == counts(32, 30 + 33 - goes_on)
    # Killed right after that, it is so still.
    box.crash()
    box.start()
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    assert counted(box) == counts(32, 30 + 33 - goes_on)


def test_what_was_counted_by_an_earlier_version_is_not_counted_again(box: Box):
    report(box, 1, 10)
    box.turn_until(lambda: step_shown(box) == 10)
    box.crash()
    store = Store(box.settings.state / "appliance.sqlite")
    store.connection.execute("DELETE FROM facts WHERE name LIKE '% tally'")
    store.close()
    box.start()
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    report(box, 6, 12)
    box.turn_until(lambda: step_shown(box) == 12)
    assert counted(box) == counts(12, 17)
