"""Checkpoints: complete or not there, undamaged or passed over, and the last good one never thrown away."""

import errno
import json
import os
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import files
from appliance.errors import StageFailure
from appliance.exits import RETRIED
from appliance.job_dir import ProgressWriter
from appliance.stages.training import checkpoints
from appliance.stages.training.attempt import Attempt
from appliance.stages.training.checkpoints import (
    amend_checkpoint,
    assemble_adapter,
    complete_checkpoints,
    describe,
    final_checkpoint,
    forget_later_checkpoints,
    newest_good_checkpoint,
    rotate_checkpoints,
    write_checkpoint,
)
from appliance.stages.training.standing import BatchCount, Standing


def write(folder, step, *, loss=1.0):
    parts = {
        "adapter_model.safetensors": lambda: b"weights" * step,
        "adapter_config.json": lambda: b"{}",
        "optimizer.pt": lambda: b"state",
    }
    return write_checkpoint(folder, Standing(step=step, loss=loss), parts)


def steps_in(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_complete_json_carries_sizes_hashes_and_the_standing(tmp_path):
    standing = Standing(step=20, loss=1.5, content_tokens=900, padding_tokens=10, target_tokens=300, samples=160)

    checkpoint = write_checkpoint(tmp_path, standing, {"optimizer.pt": lambda: b"abc"})

    complete = json.loads((tmp_path / "step-000020" / "COMPLETE.json").read_text())
    assert complete["step"] == 20
    assert complete["loss"] == 1.5
    assert complete["content_tokens"] == 900
    assert complete["files"] == {"optimizer.pt": describe(checkpoint.path / "optimizer.pt")}
    assert newest_good_checkpoint(tmp_path).standing == standing


def test_without_its_last_word_a_checkpoint_does_not_count(tmp_path):
    write(tmp_path, 10)
    (write(tmp_path, 20).path / "COMPLETE.json").unlink()

    assert newest_good_checkpoint(tmp_path).step == 10


@pytest.mark.parametrize("cut", ["", "{", '{"step": 20}', "[]", "\0" * 40])
def test_half_a_last_word_does_not_count_either(tmp_path, cut):
    write(tmp_path, 10)
    (write(tmp_path, 20).path / "COMPLETE.json").write_text(cut)

    assert newest_good_checkpoint(tmp_path).step == 10


@pytest.mark.parametrize("damage", [b"weightsweight", b"weightsweighsT", None])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    write(tmp_path, 1)
    weights = write(tmp_path, 2).path / "adapter_model.safetensors"
    weights.unlink()
    if damage is not None:
        weights.write_bytes(damage)

    assert newest_good_checkpoint(tmp_path).step == 1


@pytest.fixture
def unreadable(monkeypatch):
    """Paths that the disk does not give back any more, by what the system says of it."""
    said = {}
    read_text = Path.read_text

    def refuse(path):
        if path in said:
            raise OSError(said[path], os.strerror(said[path]), str(path))

    def hash_unless_refused(path):
        refuse(path)
        return files.sha256_of(path)

    def read_unless_refused(path, *arguments):
        refuse(path)
        return read_text(path, *arguments)

    monkeypatch.setattr(checkpoints, "sha256_of", hash_unless_refused)
    monkeypatch.setattr(Path, "read_text", read_unless_refused)
    return said


@pytest.mark.parametrize("name", ["optimizer.pt", "COMPLETE.json"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EBADMSG])
def test_a_checkpoint_that_the_disk_does_not_give_back_is_passed_over_too(tmp_path, unreadable, name, number):
    write(tmp_path, 1)
    unreadable[write(tmp_path, 2).path / name] = number

    assert newest_good_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("name", ["optimizer.pt", "COMPLETE.json"])
def test_one_that_may_not_be_read_is_not_taken_for_a_damaged_one(tmp_path, unreadable, name):
    """Somebody gives the access back, and nothing was lost."""
    write(tmp_path, 1)
    unreadable[write(tmp_path, 2).path / name] = errno.EACCES

    with pytest.raises(PermissionError):
        newest_good_checkpoint(tmp_path)


def test_the_adapter_is_that_of_the_best_step_where_there_is_one(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)

    assert final_checkpoint(tmp_path, best=1, last=3).step == 1
    assert final_checkpoint(tmp_path, best=None, last=3).step == 3
    # What only a resume would need does not matter any more.
    (tmp_path / "step-000001" / "optimizer.pt").unlink()
    assert final_checkpoint(tmp_path, best=1, last=3).step == 1


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "COMPLETE.json"])
def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_last(tmp_path, name):
    for step in (1, 2, 3):
        write(tmp_path, step)
    (tmp_path / "step-000001" / name).write_bytes(b"Weights")

    assert final_checkpoint(tmp_path, best=1, last=3).step == 3


def test_a_last_checkpoint_that_is_damaged_is_trained_again_from_the_one_before(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    (tmp_path / "step-000003" / "adapter_model.safetensors").write_bytes(b"weights" * 2 + b"Weights")

    with pytest.raises(StageFailure) as failed:
        final_checkpoint(tmp_path, best=None, last=3)
    assert failed.value.failure in RETRIED
    assert newest_good_checkpoint(tmp_path).step == 2


def test_there_is_none_before_the_first(tmp_path):
    assert newest_good_checkpoint(tmp_path / "checkpoints") is None


def test_a_checkpoint_written_again_replaces_its_unfinished_self(tmp_path):
    folder = tmp_path / "step-000003"
    folder.mkdir()
    (folder / "leftover.tmp").write_text("of a crash")

    assert write(tmp_path, 3).is_undamaged()
    assert not (folder / "leftover.tmp").exists()


def test_amending_changes_what_is_known_and_not_the_files(tmp_path):
    before = write(tmp_path, 5)

    amend_checkpoint(before, replace(before.standing, best_step=5, best_loss=0.5))

    after = newest_good_checkpoint(tmp_path)
    assert after.standing.best_loss == 0.5
    assert after.files == before.files


def test_rotation_keeps_the_newest_two_and_the_best(tmp_path):
    for step in range(1, 7):
        write(tmp_path, step)

    rotate_checkpoints(tmp_path, also_keep=[2, None])

    assert steps_in(tmp_path) == [2, 5, 6]


def test_rotation_never_removes_the_last_finite_checkpoint(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    for step in range(3, 7):
        write(tmp_path, step, loss=None)

    rotate_checkpoints(tmp_path)

    assert steps_in(tmp_path) == [2, 5, 6]
    assert newest_good_checkpoint(tmp_path).step == 2


def test_rotation_removes_unfinished_ones(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step-000002").mkdir()
    write(tmp_path, 3)

    rotate_checkpoints(tmp_path)

    assert steps_in(tmp_path) == [1, 3]


def test_what_lies_beyond_the_resumed_step_is_forgotten(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)

    forget_later_checkpoints(tmp_path, 2)

    assert [one.step for one in complete_checkpoints(tmp_path)] in ([1, 2], [2, 1])


def test_an_adapter_is_assembled_whole_and_replaces_an_older_one(tmp_path):
    checkpoint, tokenizer = write(tmp_path / "checkpoints", 7), tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    (tmp_path / ".adapter.partial").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "old").write_text("of an earlier run")

    files = assemble_adapter(checkpoint, tokenizer, tmp_path / "adapter")

    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert {path.name: describe(path) for path in (tmp_path / "adapter").iterdir()} == files
    assert not (tmp_path / ".adapter.partial").exists()


# Counts over all attempts, and what a loss that is not a number does.


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def new_attempt(tmp_path, folder):
    with closing(ProgressWriter(tmp_path)) as progress:
        yield lambda: Attempt(
            folder,
            progress,
            checkpoint_seconds=600,
            stopping=threading.Event(),
            resumed=newest_good_checkpoint(folder),
        )


def train_step(attempt, step, loss):
    attempt.collated += [BatchCount(10, 2, 5, 4), BatchCount(20, 0, 7, 4)]
    attempt.end_micro_batch()
    attempt.end_step(step, step / 10)
    attempt.report_step(loss=loss, grad_norm=1.0, learning_rate=1e-3, memory={"memory_bytes": 1})


def test_counts_go_on_across_attempts(new_attempt):
    first = new_attempt()
    train_step(first, 1, 2.0)
    first.save({"optimizer.pt": lambda: b"state"})
    train_step(first, 2, 1.0)

    second = new_attempt()
    train_step(second, 2, 1.0)

    assert second.standing.step == 2
    assert second.standing.content_tokens == 60
    assert second.standing.padding_tokens == 4
    assert second.standing.target_tokens == 24
    assert second.standing.samples == 16
    assert second.standing.loss_sum == 3.0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_a_number_ends_the_job_and_spares_the_checkpoint(tmp_path, folder, new_attempt, loss):
    attempt = new_attempt()
    train_step(attempt, 1, 2.0)
    attempt.save({"optimizer.pt": lambda: b"state"})

    with pytest.raises(StageFailure) as failed:
        train_step(attempt, 2, loss)

    assert failed.value.failure == "nonfinite_loss"
    assert newest_good_checkpoint(folder).step == 1
    event = json.loads((tmp_path / "progress.jsonl").read_text().splitlines()[-1])
    assert (event["step"], event["loss"], event["nonfinite"]) == (2, None, True)


def test_the_best_evaluation_is_remembered_and_patience_runs_out():
    standing = Standing(step=10).after_evaluation(2.0)
    standing = replace(standing, step=20).after_evaluation(1.5)
    standing = replace(standing, step=30).after_evaluation(1.6)
    standing = replace(standing, step=40).after_evaluation(float("nan"))

    assert (standing.best_step, standing.best_loss, standing.evaluated_step) == (20, 1.5, 40)
    assert standing.has_lost_patience(2)
    assert not standing.has_lost_patience(3)
    assert not standing.has_lost_patience(None)
