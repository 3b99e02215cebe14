"""A job on its line without a daemon: real store, pipeline, crew, checkpoints and outbox; every stage in this process.

So a crash harness can kill it at any line of them. The training is made up but for its checkpoints, which are written,
rotated, found again and assembled by the real code; it runs out of memory once, at a third of the way.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import outbox
from appliance.crew import Crew
from appliance.errors import StageFailure
from appliance.exits import explain_refusal
from appliance.files import write_json
from appliance.gate import PushRules
from appliance.job import ENDED, FailureClass, Job, Outcome, Stage, outbox_name
from appliance.job_dir import JobDir, ProgressWriter
from appliance.pipeline import Pipeline
from appliance.stages.training import checkpoints
from appliance.stages.training.attempt import Attempt
from appliance.stages.training.standing import BatchCount
from appliance.store import Store
from appliance.tidying import clean
from tests.jobs import make_job

STEPS, FITS, TURNS = 6, 4, 60
ROWS = '{"text": "the only copy"}\n'
# No process has such a number: whoever is to be killed by it is nobody.
NOBODY = 1 << 22
RULES = PushRules(None, False, "not_worse")


@dataclass(frozen=True)
class Done:
    """A stage that has ended already."""

    code: int
    pid: int = NOBODY

    def poll(self) -> int:
        return self.code

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None: ...


class Line:
    """The folders, the store and the crew of one job; opening it again is what a start does."""

    def __init__(self, root: Path, *, boot: str = "boot", after_start: Callable[[], None] = lambda: None) -> None:
        self.root, self.outbox = root, root / "outbox"
        self.store = Store(root / "state" / "appliance.sqlite")
        self.pipeline = Pipeline(self.store, root / "state" / "jobs", 3, boot, RULES)
        self.crew = Crew(self.pipeline, self.store, start=self._start)
        self._after_start = after_start

    @classmethod
    def new(cls, root: Path) -> "Line":
        for folder in ("outbox", "state/jobs"):
            (root / folder).mkdir(parents=True)
        line = cls(root)
        line.store.add_job(make_job(root / "state" / "jobs", {"a.jsonl": ROWS}).read_job())
        return line

    def recover(self) -> None:
        self.crew.recover(1.0)
        outbox.remove_partials(self.outbox)
        for job in self.store.ended_since(0.0):
            clean(job, self.pipeline.dir(job), self.store)

    def run(self, *, patient: bool = False) -> Job:
        """Turn until the job has ended, as the daemon's loop turns; patiently, past every fault of the machine."""
        for turn in range(TURNS):
            wall = 10_000.0 * (turn + 1)
            try:
                self._turn(wall)
                if not self.crew.running and not self.store.active_jobs():
                    break
            except (OSError, sqlite3.Error):
                if not patient:
                    raise
        job = self.store.job(1)
        assert job is not None
        assert patient or job.state in ENDED, (job, self.store.events(1))
        return job

    def _turn(self, wall: float) -> None:
        for job, _, _ in self.crew.reap(wall, wall=wall):
            if job.state in ENDED:
                clean(job, self.pipeline.dir(job), self.store)
        self.crew.start(self.crew.waiting(wall), wall, wall=wall)

    @property
    def starts(self) -> list[str]:
        """Every stage that was really begun, in order."""
        path = self.root / "starts"
        return path.read_text().split() if path.exists() else []

    def _start(self, stage: Stage, job_dir: JobDir) -> Done:
        with contextlib.suppress(OSError), (self.root / "starts").open("a") as file:
            file.write(f"{stage}\n")
        self._after_start()
        try:
            return Done(self._work(stage, job_dir))
        except OSError as error:
            # As the stages' own main module answers.
            code, word = explain_refusal(error)
            with contextlib.suppress(OSError):
                job_dir.write_failure(stage, word or {})
            return Done(code)

    def _work(self, stage: Stage, job_dir: JobDir) -> int:
        (job_dir.stage(stage) / "failure.json").unlink(missing_ok=True)
        try:
            result = WORK[stage](job_dir, self)
        except StageFailure as failure:
            job_dir.write_failure(stage, failure.as_json())
            return 1
        job_dir.write_result(stage, result)
        return 0


def check(job_dir: JobDir, line: Line) -> dict[str, Any]:
    recipe = {"gradient_checkpointing": "auto", "hub": {"push": None}}
    (job_dir.stage(Stage.CHECK) / "recipe.json").write_text(json.dumps(recipe))
    return {"base_model": "demo", "method": "sft", "priority": "normal"}


def prepare(job_dir: JobDir, line: Line) -> dict[str, Any]:
    tokenizer = job_dir.stage(Stage.PREPARE) / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    plan = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    write_json(job_dir.plan_file, plan)
    return {}


def train(job_dir: JobDir, line: Line) -> dict[str, Any]:
    """The life of a training as sft.py leads it, with numbers for weights."""
    folder, plan = job_dir.stage(Stage.TRAIN), job_dir.plan()
    assert plan is not None
    kept = folder / "checkpoints"
    resumed = checkpoints.newest_good_checkpoint(kept)
    checkpoints.forget_later_checkpoints(kept, resumed.step if resumed else 0)
    with closing(ProgressWriter(folder)) as progress:
        attempt = Attempt(kept, progress, checkpoint_seconds=0, stopping=threading.Event(), resumed=resumed)
        attempt.begin(total_steps=STEPS, startup_seconds=0.0)
        for step in range(attempt.standing.step + 1, STEPS + 1):
            if plan["per_device_train_batch_size"] > FITS and step == STEPS // 3 + 1:
                raise StageFailure(FailureClass.OUT_OF_MEMORY, "it did not fit")
            attempt.collated.append(BatchCount(10, 1, 5, 8))
            attempt.end_step(step, step / STEPS)
            attempt.report_step(loss=1.0 / step, grad_norm=1.0, learning_rate=1e-3, memory={"memory_bytes": 1})
            attempt.save(parts(step))
        attempt.finish()
        attempt.save(parts(STEPS))
    chosen = checkpoints.final_checkpoint(kept, best=None, last=STEPS)
    adapter = checkpoints.assemble_adapter(chosen, job_dir.path / "prepare" / "tokenizer", folder / "adapter")
    return {"steps": attempt.standing.step, "samples": attempt.standing.samples, "adapter": adapter}


def parts(step: int) -> dict[str, Callable[[], bytes]]:
    return {
        "adapter_model.safetensors": lambda: weights(step),
        "adapter_config.json": lambda: b"{}",
        "optimizer.pt": lambda: b"state" * step,
    }


def weights(step: int) -> bytes:
    return b"weights of step %d " % step * 100


def publish(job_dir: JobDir, line: Line) -> dict[str, Any]:
    facts = job_dir.outcome() or {}
    job = job_dir.read_job()

    def fill(staging: Path) -> None:
        (staging / "dropped").mkdir()
        for file in job.files:
            shutil.copyfile(job_dir.path / file.path, staging / file.path)
        if (job_dir.path / "train" / "adapter").exists():
            shutil.copytree(job_dir.path / "train" / "adapter", staging / "adapter")
            shutil.copyfile(job_dir.plan_file, staging / "plan.json")

    name = outbox_name(job.id, Outcome(facts["outcome"]))
    outbox.publish(line.outbox, name, job_uuid=job.uuid, fill=fill, facts=lambda: {"job_uuid": job.uuid})
    return {"path": name, "manifest_sha256": ""}


WORK: dict[Stage, Callable[[JobDir, Line], dict[str, Any]]] = {
    Stage.CHECK: check,
    Stage.FETCH: lambda job_dir, line: {},
    Stage.PREPARE: prepare,
    Stage.TRAIN: train,
    Stage.VERIFY: lambda job_dir, line: {"verdict": "improved"},
    Stage.PUBLISH: publish,
}


# What has to hold.


def holds_at_once(root: Path) -> None:
    """What must be true the moment after the crash, before anything is put right."""
    for path in (root / "outbox").iterdir():
        if not path.name.startswith("."):
            whole(path)
    with closing_line(root) as line:
        for stage in Stage:
            # Those that were told to wait are written down as well, though they do not count.
            rows = line.store.connection.execute("SELECT count(*) FROM attempts WHERE stage = ?", (stage,))
            begun, counted = line.starts.count(stage), rows.fetchone()[0]
            assert begun <= counted, f"{stage} was begun {begun} times and counted {counted} times"
        newest = checkpoints.newest_good_checkpoint(root / "state" / "jobs" / "0001-test" / "train" / "checkpoints")
        if newest is not None:
            found = (newest.path / "adapter_model.safetensors").read_bytes()
            assert found == weights(newest.step), "half a checkpoint is used"
        job = line.store.job(1)
        assert job is not None
        dropped = (
            root / "state" / "jobs" / "0001-test" / "dropped" / "a.jsonl",
            *root.glob("outbox/0*/dropped/a.jsonl"),
        )
        assert any(path.exists() and path.read_text() == ROWS for path in dropped), "the dropped file is lost"


def holds_in_the_end(root: Path, job: Job) -> None:
    """What must be true when the job has ended after all."""
    assert job.outcome is Outcome.SUCCEEDED, job
    (result,) = (root / "outbox").iterdir()
    assert result.name == "0001-test"
    whole(result)
    assert outbox.read_manifest(result)["job_uuid"] == job.uuid
    assert (result / "dropped" / "a.jsonl").read_text() == ROWS
    assert (result / "adapter" / "adapter_model.safetensors").read_bytes() == weights(STEPS)
    plan = json.loads((result / "plan.json").read_text())
    assert (plan["per_device_train_batch_size"], plan["gradient_accumulation_steps"]) == (FITS, 2)
    job_dir = JobDir(root / "state" / "jobs" / "0001-test")
    assert job_dir.read_job().state is job.state
    trained = job_dir.result(Stage.TRAIN)
    assert trained is not None
    assert (trained["steps"], trained["samples"]) == (STEPS, 8 * STEPS)
    with closing_line(root) as line:
        ended = {labels["outcome"]: v for name, labels, v in line.store.counters() if name == "jobs_finished_total"}
        assert ended == {"succeeded": 1.0}
        assert line.store.open_attempts() == []


def whole(directory: Path) -> None:
    """A directory that can be seen in the outbox is complete."""
    manifest = directory / outbox.MANIFEST
    assert manifest.exists(), f"{directory.name} can be seen and has no manifest"
    for entry in outbox.read_manifest(directory)["files"]:
        found = checkpoints.describe(directory / entry["path"])
        assert found == {"bytes": entry["bytes"], "sha256": entry["sha256"]}, entry["path"]


class closing_line:
    def __init__(self, root: Path) -> None:
        self.line = Line(root)

    def __enter__(self) -> Line:
        return self.line

    def __exit__(self, *exc: object) -> None:
        self.line.store.close()


def fast_folder(fallback: Path) -> Path:
    """Where an fsync costs nothing: thousands of crash points are thousands of databases."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else fallback
