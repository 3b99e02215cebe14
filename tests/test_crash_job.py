"""SIGKILL at every line of a job's way, its checkpoints, its retry and its publishing, then a start: the promises hold.

And the harness is worth its time: each of four planted bugs makes it fail.
"""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import crew, exits, files, intake, job_dir, order, outbox, pipeline, retries, store, tidying
from appliance.stages.training import attempt, checkpoints, standing
from tests import test_crash
from tests.crash import count_lines, crash_at
from tests.line import Line, closing_line, fast_folder, holds_at_once, holds_in_the_end
from tests.mutants import plant

TRACED = (attempt, checkpoints, crew, exits, files, job_dir, order, outbox, pipeline, retries, standing, store, tidying)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=fast_folder(tmp_path)))
    yield folder
    shutil.rmtree(folder)


def work(root: Path, after_start: Callable[[], None] = lambda: None) -> Callable[[], object]:
    Line.new(root).store.close()
    return lambda: Line(root, after_start=after_start).run()


def crash_at_lines(folder: Path, lines: list[int], after_start: Callable[[], None] = lambda: None) -> None:
    for line in lines:
        root = folder / f"line-{line}"
        crash_at(line, TRACED, work(root, after_start))
        try:
            holds_at_once(root)
            with closing_line(root) as again:
                again.recover()
                job = again.run()
                again.recover()
            holds_in_the_end(root, job)
        except AssertionError as error:
            raise AssertionError(f"killed at line {line}: {error}") from error
        shutil.rmtree(root)


def total_lines(folder: Path) -> int:
    return count_lines(TRACED, work(folder / "count"))


def test_a_crash_at_a_line_of_a_jobs_way_breaks_no_promise(folder: Path, rng: random.Random):
    """A seeded sample; the long tier takes every line."""
    total = total_lines(folder)
    assert total > 1500
    crash_at_lines(folder, sorted(rng.sample(range(1, total + 1), 60)))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_crash_at_every_line_of_a_jobs_way_breaks_no_promise(folder: Path):
    crash_at_lines(folder, list(range(1, total_lines(folder) + 1)))


def test_a_job_that_takes_the_machine_down_is_not_begun_for_ever(folder: Path):
    """Killed each time in mid-training, before its first checkpoint: three attempts are all it gets."""
    root = folder / "again"
    Line.new(root).store.close()
    for boot in range(5):
        line = Line(root, boot=f"boot {boot}", after_start=lambda: None)
        line.store.close()
        crash_at(1, (attempt,), lambda boot=boot: _boot(root, boot))
    with closing_line(root) as line:
        line.recover()
        job = line.run()
        assert (job.state, job.failure) == ("failed", "host_crashed")
        assert line.starts.count("train") == 3


def _boot(root: Path, boot: int) -> None:
    line = Line(root, boot=f"boot {boot}")
    line.recover()
    line.run()


# The four bugs.


def test_the_harness_sees_publishing_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, outbox, "publish", 'staging = outbox / f".{name}.partial"', "staging = final")
    monkeypatch.setattr(outbox.Path, "rename", _rename_unless_the_same)
    total = total_lines(folder)
    with pytest.raises(AssertionError, match="can be seen and has no manifest"):
        crash_at_lines(folder, list(range(total * 3 // 4, total, 25)))


def _rename_unless_the_same(path: Path, target: Path) -> Path:
    return path if target == path else path.replace(target)


def test_the_harness_sees_an_attempt_that_is_counted_after_it_started(folder: Path, monkeypatch: pytest.MonkeyPatch):
    later: list[Callable[[], None]] = []
    line = "self.store.start_attempt(job.number, stage, mark=mark, boot_id=self.boot_id, now=now)"
    plant(monkeypatch, pipeline.Pipeline, "begin", line, f"later.append(lambda: {line})", later=later)

    def count_now() -> None:
        # As a line after the start of the process would: it is not reached when that start takes the machine down.
        files.sync(folder)
        later.pop()()

    with pytest.raises(AssertionError, match="was begun 1 times and counted 0 times"):
        crash_at_lines(folder, list(range(1, 900, 10)), count_now)


def test_the_harness_sees_a_drop_that_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    line = "store.add_job(one.job, copied.keys if one is staged[0] else (), identity=one.identity)"
    plant(monkeypatch, intake, "_record", line, "store.add_job(one.job, (), identity=one.identity)")
    total = test_crash.crash_points(tmp_path, test_crash.DROPS["single"])
    with pytest.raises(AssertionError, match="killed at line"):
        test_crash.crash_everywhere(tmp_path, test_crash.DROPS["single"], list(range(total, total // 2, -2)))


# The fourth, unlinking a source before its row is safe, is planted in test_crash.py.
