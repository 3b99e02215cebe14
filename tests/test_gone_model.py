"""A base model that is gone after a job was prepared for it: the very same one is fetched again, or waited for."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.errors import ModelGoneError
from appliance.job import JobState, Stage, Waiting
from appliance.order import has_ended_well, next_stage
from appliance.processes import stage_command
from appliance.stages.fetched import base_model_folder
from tests.box import Box, fake_but_fetch
from tests.jobs import jsonl, make_job
from tests.local_hub import COMMIT, LocalHub, serve_models
from tests.shapes import TINY

MODEL = {
    "config.json": json.dumps(TINY["granite"]).encode(),
    "model.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
    "tokenizer.json": b"{}",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("APPLIANCE_ALLOWED_BASE_MODELS", "org/*")
    with serve_models({"org/tiny": MODEL}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def real_where_the_model_is_gone(model: Callable[[], Path]) -> Callable[[Stage, Path], list[str]]:
    """A training is made up where it would have its model, and the real one where it has to notice that."""
    return lambda stage, job: (
        stage_command(stage, job)
        if stage is Stage.TRAIN and not (model() / "config.json").exists()
        else fake_but_fetch(stage, job)
    )


def hold(box: Box) -> None:
    """A job that is ready to train and is not let."""
    box.appliance.store.ask("pause", "queue", now=0.0)
    (box.inbox / "a.yaml").write_text("base_model: org/tiny\ndataset: a.jsonl\n")
    (box.inbox / "a.jsonl").write_text(
        jsonl([{"prompt": "Where is it?", "completion": f"Here, {n}."} for n in range(3)])
    )
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting == "paused")


def times_started(box: Box, stage: Stage) -> int:
    return [event["stage"] for event in box.history(1) if event["event"] == "stage_started"].count(stage)


def test_a_cache_that_was_cleared_is_filled_again_before_anything_is_trained(tmp_path: Path, hub: LocalHub):
    box = Box(tmp_path, command=fake_but_fetch)
    hold(box)
    fetched = json.loads((box.folder() / "fetch" / "result.json").read_text())
    for times in (2, 3, 4, 5):
        box.stop()
        shutil.rmtree(box.settings.state / "cache")
        hub.requests.clear()
        box.start()
        # By day, while the queue is paused: the night is for training.
        box.turn_until(lambda times=times: times_started(box, Stage.FETCH) == times)
        box.turn_until(lambda: not box.appliance.crew.running)
        # Whatever `main` is by now: labels and checkpoints were made with this one.
        assert hub.asked("GET", f"/api/models/org/tiny/revision/{COMMIT}")
    box.appliance.store.ask("resume", "queue", now=0.0)
    assert box.ended(1).state is JobState.SUCCEEDED
    assert json.loads((box.folder() / "fetch" / "result.json").read_text()) == fetched
    assert times_started(box, Stage.PREPARE) == 1
    box.stop()


def test_a_cache_elsewhere_is_filled_again_when_a_training_finds_it_empty(tmp_path: Path, hub: LocalHub, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "large disk"))
    box = Box(tmp_path, command=real_where_the_model_is_gone(lambda: snapshot))
    snapshot = tmp_path
    hold(box)
    snapshot = Path(json.loads((box.folder() / "fetch" / "result.json").read_text())["path"])
    shutil.rmtree(tmp_path / "large disk")
    box.appliance.store.ask("resume", "queue", now=0.0)
    assert box.ended(1, seconds_a_turn=1.0).state is JobState.SUCCEEDED
    assert [times_started(box, stage) for stage in (Stage.FETCH, Stage.PREPARE, Stage.TRAIN)] == [2, 1, 2]
    box.stop()


def test_a_models_folder_that_is_away_is_waited_for(tmp_path: Path):
    model = tmp_path / "models" / "org--tiny"
    model.mkdir(parents=True)
    for name, data in MODEL.items():
        (model / name).write_bytes(data)
    box = Box(tmp_path, command=real_where_the_model_is_gone(lambda: model))
    hold(box)
    away = (tmp_path / "models").rename(tmp_path / "not mounted")
    box.appliance.store.ask("resume", "queue", now=0.0)

    def waits_for_its_model() -> bool:
        box.shift += 1.0
        job = box.job(1)
        return job is not None and job.waiting is Waiting.DISK and "mount its disk" in job.waiting_detail

    box.turn_until(waits_for_its_model)
    # The GPU was taken for it once; fetch looks again, and nothing else does.
    assert times_started(box, Stage.TRAIN) == 1
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
    away.rename(tmp_path / "models")
    assert box.ended(1, seconds_a_turn=1.0).state is JobState.SUCCEEDED
    assert times_started(box, Stage.PREPARE) == 1
    box.stop()


def test_the_model_is_fetched_again_only_for_a_stage_that_needs_it(tmp_path: Path):
    job_dir = make_job(tmp_path / "jobs", {"a.jsonl": ""})
    job = job_dir.read_job()
    snapshot = tmp_path / "cache" / "huggingface" / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    job_dir.write_result(Stage.CHECK, {})
    job_dir.write_result(Stage.FETCH, {"path": str(snapshot)})
    assert (next_stage(job, job_dir), has_ended_well(Stage.FETCH, job_dir)) == (Stage.PREPARE, True)

    shutil.rmtree(tmp_path / "cache")
    assert (next_stage(job, job_dir), has_ended_well(Stage.FETCH, job_dir)) == (Stage.FETCH, False)
    for stage in (Stage.PREPARE, Stage.TRAIN):
        job_dir.write_result(stage, {})
        assert next_stage(job, job_dir) is Stage.FETCH
    job_dir.write_result(Stage.VERIFY, {})
    assert next_stage(job, job_dir) is Stage.PUBLISH


def test_the_stage_says_which_model_is_gone_from_where(tmp_path: Path):
    with pytest.raises(ModelGoneError) as gone:
        base_model_folder({"base_model_loaded": "org/tiny", "path": str(tmp_path)})
    assert f"org/tiny is no longer in {tmp_path}" in gone.value.message
