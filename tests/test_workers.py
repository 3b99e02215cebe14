"""The same work on every core: in order, whole, and without a word lost when a worker dies."""

import multiprocessing
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.errors import StageFailure
from appliance.exits import RETRIED
from appliance.job import FailureClass, Stage
from appliance.settings import Settings
from appliance.stages import check
from appliance.stages.__main__ import run
from appliance.stages.training.labels import labelling
from appliance.workers import spread
from tests.jobs import jsonl, make_job, start_stage
from tests.labelled_rows import prepare, rows_of


def squares(batch: list[int]) -> tuple[int, list[int]]:
    return os.getpid(), [number * number for number in batch]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 23])
def test_results_come_in_order_whatever_the_number_of_workers(workers, count):
    batches = [[n, n + 1] for n in range(count)]
    found = list(spread(squares, iter(batches), workers))
    assert [result for _, result in found] == [squares(batch)[1] for batch in batches]
    assert len({pid for pid, _ in found}) == min(workers, count)
    assert os.getpid() not in {pid for pid, _ in found}
    assert multiprocessing.active_children() == []


def test_large_batches_and_results_do_not_wait_for_each_other():
    found = spread(lambda batch: batch * 2, (bytes(1 << 20) for _ in range(6)), 2)
    assert [len(result) for result in found] == [2 << 20] * 6


def run_out(batch: int) -> None:
    raise MemoryError


def fail(batch: int) -> None:
    raise KeyError(batch)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda batch: os.kill(os.getpid(), signal.SIGKILL), "ended by SIGKILL"),
        # As earlyoom asks first; a stage that is stopped by us would go by its own handler.
        (lambda batch: os.kill(os.getpid(), signal.SIGTERM), "ended by SIGTERM"),
        (run_out, "memory ran out"),
    ],
    ids=["killed", "asked to end", "out of memory"],
)
def test_a_worker_that_is_killed_ends_the_work_with_a_failure_that_is_tried_again(work, said):
    handler = signal.signal(signal.SIGTERM, lambda number, frame: os._exit(4))
    try:
        with pytest.raises(StageFailure, match=said) as caught:
            list(spread(work, range(9), 2))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert caught.value.failure in RETRIED
    assert multiprocessing.active_children() == []


def test_an_error_in_a_worker_is_ours_and_not_tried_again(capfd):
    with pytest.raises(EOFError):
        list(spread(fail, range(9), 2))
    assert "KeyError: 0" in capfd.readouterr().err
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="on one core the stage works alone")
def test_a_stage_that_loses_a_worker_says_so(tmp_path):
    job = make_job(tmp_path, {"a.jsonl": jsonl(rows_of(450_000)), "a.yaml": "base_model: demo\n"})
    # A worker may have done its part before the signal comes: then the stage ends well.
    for _ in range(5):
        process = start_stage(Stage.CHECK, job)
        with suppress(OSError):
            os.kill(a_child_of(process), signal.SIGKILL)
        if process.wait(120) != 0:
            break
        (job.stage(Stage.CHECK) / "result.json").unlink()

    assert process.returncode == 1
    failure = job.failure(Stage.CHECK)
    assert failure is not None
    assert (failure["failure"], "SIGKILL" in failure["message"]) == (FailureClass.WORKER_CRASHED, True)


def a_child_of(process: subprocess.Popen[bytes]) -> int:
    """The first child that is seen. Raises ProcessLookupError when the process ends without one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        if process.poll() is not None:
            raise ProcessLookupError
    return int(found[0])


def test_a_stage_that_runs_out_of_memory_says_so(tmp_path, monkeypatch):
    job = make_job(tmp_path, {"a.jsonl": "{}\n", "a.yaml": "base_model: demo\n"})
    monkeypatch.setattr(check, "run", lambda job, settings: run_out(0))

    assert run(Stage.CHECK, job, Settings(state=tmp_path)) == 1
    failure = job.failure(Stage.CHECK)
    assert failure is not None
    assert failure["failure"] == FailureClass.WORKER_CRASHED
    assert failure["message"] == "memory ran out in the check stage"


def test_a_dataset_is_labelled_the_same_by_one_process_and_by_several(tmp_path, monkeypatch):
    rows = rows_of(labelling.BATCH_ROWS * (labelling.FEW_BATCHES + 2) + 7)
    facts = {}
    for name, few in (("several", labelling.FEW_BATCHES), ("one", len(rows))):
        monkeypatch.setattr(labelling, "FEW_BATCHES", few)
        facts[name] = prepare(tmp_path / name, rows)
    assert facts["one"] == facts["several"]
    for output in ("train.arrow", "eval.arrow", "labels.json", "labels.txt", "samples.jsonl"):
        assert (tmp_path / "one" / output).read_bytes() == (tmp_path / "several" / output).read_bytes()
