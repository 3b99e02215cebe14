"""The publish stage where something stands in its way: what is there is published, and what is not is said."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from appliance.files import sha256_of
from appliance.job import JobState, Outcome, Stage, Waiting
from appliance.outbox import read_manifest
from appliance.processes import stage_command
from appliance.stages.results import Ending, fill
from appliance.stages.training import checkpoints
from appliance.stages.training.standing import Standing
from tests.box import Box, fake_command
from tests.jobs import jsonl, make_job, run_stage, run_stages
from tests.labelled_rows import rows_of


def fake_but_publish(stage: Stage, job: Path) -> list[str]:
    """Made-up stages; only publishing is the real thing."""
    return stage_command(stage, job) if stage is Stage.PUBLISH else fake_command(stage, job)


@pytest.fixture
def held(tmp_path):
    """A job that waits, ready to be cancelled; its result comes from the real stage."""
    box = Box(tmp_path, command=fake_but_publish)
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop("a.jsonl")
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.PAUSED)
    yield box
    box.stop()


def test_a_dropped_file_that_is_gone_is_named_and_the_rest_is_given_back(tmp_path):
    job = make_job(tmp_path / "jobs", {"a.jsonl": "{}\n", "a.yaml": "base_model: demo\n"})
    job.write_outcome({"outcome": "cancelled", "stage": None, "failure": None, "message": "", "hint": None})
    (job.dropped / "a.jsonl").unlink()
    outbox = tmp_path / "outbox"
    outbox.mkdir()

    assert run_stage(Stage.PUBLISH, job, APPLIANCE_OUTBOX=str(outbox)) == 0

    result = outbox / "0001-test.cancelled"
    assert [path.name for path in (result / "dropped").iterdir()] == ["a.yaml"]
    assert "a.jsonl cannot be given back" in (result / "WHY.md").read_text()
    assert {entry["path"] for entry in read_manifest(result)["files"]} == {"WHY.md", "WHY.html", "dropped/a.yaml"}


def test_a_result_that_was_published_without_the_dataset_says_so_whatever_the_setting_is_now(tmp_path):
    """The daemon went down between the rename and the word of it, and was started with another setting."""
    job = make_job(tmp_path / "jobs", {"a.jsonl": "{}\n", "a.yaml": "base_model: demo\n"})
    job.write_outcome({"outcome": "cancelled", "stage": None, "failure": None, "message": "", "hint": None})
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    assert run_stage(Stage.PUBLISH, job, APPLIANCE_OUTBOX=str(outbox)) == 0
    assert job.result(Stage.PUBLISH)["with_dataset"] is True
    shutil.rmtree(outbox / "0001-test.cancelled" / "dropped")
    assert run_stage(Stage.PUBLISH, job, APPLIANCE_OUTBOX=str(outbox), APPLIANCE_KEEP_DATASETS="outbox") == 0
    assert job.result(Stage.PUBLISH)["with_dataset"] is False


def test_a_job_whose_only_file_is_gone_ends_all_the_same(held: Box):
    (held.appliance.places.jobs / "0001-a" / "dropped" / "a.jsonl").unlink()
    held.appliance.store.ask("cancel", "1", now=0.0)

    assert held.ended(1).state is JobState.CANCELLED


def test_a_name_that_is_taken_in_the_outbox_is_said_on_the_board_until_it_is_free(held: Box):
    foreign = held.outbox / "0001-a.cancelled"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("somebody's")
    held.appliance.store.ask("cancel", "1", now=0.0)
    told = "stands in the outbox already and is not of this job; move it out of there"

    held.turn_until(lambda: told in (held.outbox / "STATUS.md").read_text())
    job = held.job(1)
    assert job is not None
    assert (job.waiting, held.appliance.store.attempts(1, Stage.PUBLISH)) == (Waiting.DISK, 0)
    assert (foreign / "mine.txt").read_text() == "somebody's"

    shutil.rmtree(foreign)
    assert held.ended(1, seconds_a_turn=1.0).state is JobState.CANCELLED


def test_what_a_stage_did_not_foresee_is_said_in_the_words_of_the_error(tmp_path):
    job = make_job(tmp_path / "jobs", {"data.jsonl": jsonl(rows_of(20)), "r.yaml": "base_model: demo\n"})
    run_stages(job, Stage.CHECK, Stage.FETCH)
    fetched = job.path / "fetch" / "result.json"
    fetched.write_text(json.dumps(json.loads(fetched.read_text()) | {"path": str(tmp_path)}))
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").touch()

    assert run_stage(Stage.PREPARE, job) == 1

    failure = job.failure(Stage.PREPARE)
    assert failure is not None
    assert failure["failure"] == "internal"
    assert "config.json" in failure["message"]
    assert failure["message"] in (job.path / "prepare" / "stage.log").read_text()


def refuse_hashes(monkeypatch, path: Path) -> None:
    def hash_unless_refused(asked: Path) -> str:
        if asked == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return sha256_of(asked)

    monkeypatch.setattr(checkpoints, "sha256_of", hash_unless_refused)


def refuse_copies(monkeypatch, path: Path) -> None:
    """It breaks just after it was found undamaged."""
    copyfile = shutil.copyfile

    def copy_unless_refused(source, target, **how):
        if Path(source) == path:
            refuse_hashes(monkeypatch, path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return copyfile(source, target, **how)

    monkeypatch.setattr(shutil, "copyfile", copy_unless_refused)


@pytest.mark.parametrize("refuse", [refuse_hashes, refuse_copies])
def test_a_failed_job_whose_checkpoint_cannot_be_read_gives_its_files_back_and_says_so(tmp_path, monkeypatch, refuse):
    job = make_job(tmp_path / "jobs", {"a.jsonl": "{}\n"})
    (job.stage(Stage.PREPARE) / "tokenizer").mkdir()
    parts = {name: lambda: b"x" for name in checkpoints.ADAPTER_FILES}
    kept = job.stage(Stage.TRAIN) / "checkpoints"
    checkpoint = checkpoints.write_checkpoint(kept, Standing(step=10, loss=1.0), parts)
    facts = {"outcome": "failed", "stage": "train", "failure": "disk_full", "message": "broken", "hint": None}
    ending = Ending(job.read_job(), job, Outcome.FAILED, facts, 0.0, with_dataset=True)

    def result(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        fill(folder, ending)
        return folder

    assert (result("whole") / "adapter" / "adapter_config.json").exists()
    assert "cannot be read" not in (tmp_path / "whole" / "WHY.md").read_text()
    refuse(monkeypatch, checkpoint.path / "adapter_model.safetensors")
    assert sorted(path.name for path in result("spoilt").iterdir()) == ["WHY.html", "WHY.md", "dropped"]
    assert (tmp_path / "spoilt" / "dropped" / "a.jsonl").exists()
    assert "checkpoints cannot be read" in (tmp_path / "spoilt" / "WHY.md").read_text()


def test_an_outbox_that_refuses_once_costs_no_adapter(tmp_path, monkeypatch):
    """What cannot be written there is tried again, and is no damage to the checkpoint."""
    job = make_job(tmp_path / "jobs", {"a.jsonl": "{}\n"})
    (job.stage(Stage.PREPARE) / "tokenizer").mkdir()
    (job.stage(Stage.PREPARE) / "tokenizer" / "tokenizer.json").write_text("{}")
    parts = {name: lambda: b"x" for name in checkpoints.ADAPTER_FILES}
    checkpoints.write_checkpoint(job.stage(Stage.TRAIN) / "checkpoints", Standing(step=10, loss=1.0), parts)
    facts = {"outcome": "failed", "stage": "train", "failure": "worker_crashed", "message": "x", "hint": None}
    ending = Ending(job.read_job(), job, Outcome.FAILED, facts, 0.0, with_dataset=True)

    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    (tmp_path / "result").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            fill(tmp_path / "result", ending)
    (tmp_path / "again").mkdir()
    fill(tmp_path / "again", ending)
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").exists()


def test_a_training_whose_checkpoints_hold_no_numbers_is_not_blamed_on_the_disk(tmp_path):
    job = make_job(tmp_path / "jobs", {"a.jsonl": "{}\n"})
    (job.stage(Stage.PREPARE) / "tokenizer").mkdir()
    parts = {name: lambda: b"x" for name in checkpoints.ADAPTER_FILES}
    checkpoints.write_checkpoint(job.stage(Stage.TRAIN) / "checkpoints", Standing(step=10, loss=None), parts)
    facts = {"outcome": "failed", "stage": "train", "failure": "nonfinite_loss", "message": "NaN", "hint": None}
    (tmp_path / "result").mkdir()
    fill(tmp_path / "result", Ending(job.read_job(), job, Outcome.FAILED, facts, 0.0, with_dataset=True))
    assert not (tmp_path / "result" / "adapter").exists()
    assert "cannot be read" not in (tmp_path / "result" / "WHY.md").read_text()
