"""The same work on every core: in order, whole, and without a word lost when a worker dies."""

import multiprocessing
import os
import signal

import pytest

from appliance.stages.training.labels import labelling
from appliance.workers import spread
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


def test_a_worker_that_dies_ends_the_work_and_leaves_no_other():
    with pytest.raises(EOFError):
        list(spread(lambda batch: os.kill(os.getpid(), signal.SIGKILL), range(9), 2))
    assert multiprocessing.active_children() == []


def test_a_dataset_is_labelled_the_same_by_one_process_and_by_several(tmp_path, monkeypatch):
    rows = rows_of(labelling.BATCH_ROWS * (labelling.FEW_BATCHES + 2) + 7)
    facts = {}
    for name, few in (("several", labelling.FEW_BATCHES), ("one", len(rows))):
        monkeypatch.setattr(labelling, "FEW_BATCHES", few)
        facts[name] = prepare(tmp_path / name, rows)
    assert facts["one"] == facts["several"]
    for output in ("train.arrow", "eval.arrow", "labels.json", "labels.txt", "samples.jsonl"):
        assert (tmp_path / "one" / output).read_bytes() == (tmp_path / "several" / output).read_bytes()
