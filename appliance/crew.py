"""The crew: the stages that run now. Starts them, follows what they report, reaps them, stops them."""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from appliance import processes
from appliance.exits import STOPPED, EndKind, StageEnd
from appliance.job import LANES, Job, JobState, Lane, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.metric_table import CHECKPOINT_BUCKETS, STEP_BUCKETS
from appliance.pipeline import Pipeline, next_stage, startable
from appliance.processes import StageProcess
from appliance.progress import Progress, Tally, fold, parse_lines
from appliance.store import Store

logger = logging.getLogger(__name__)

# How much of a progress file is read in one turn; the rest waits for the next.
READ_BYTES: Final = 1 << 20
# A training needs one micro-batch and one save to stop well; the other stages only have to notice.
STOP_SECONDS: Final = {Stage.TRAIN: 420.0, Stage.VERIFY: 60.0}
STOP_SECONDS_DEFAULT: Final = 10.0

Start = Callable[[Stage, JobDir], StageProcess]


@dataclass
class Running:
    """One stage at work. `began` and `stop_asked` are monotonic seconds."""

    job: Job
    stage: Stage
    process: StageProcess
    began: float
    progress: Progress = field(default_factory=Progress)
    tally: Tally = field(default_factory=Tally)
    offset: int = 0
    stop_asked: float | None = None


class Crew:
    """At most one running stage a job, at most as many a lane as it has room for."""

    def __init__(self, pipeline: Pipeline, store: Store, *, start: Start) -> None:
        self.running: dict[int, Running] = {}
        self.trained: dict[int, Progress] = {}
        """The training progress of jobs, also between and after their stages; `forget` takes a job out."""
        self._pipeline = pipeline
        self._store = store
        self._start = start

    def follow(self) -> None:
        """Read what the running stages reported since the last turn, and count it."""
        for running in self.running.values():
            self._follow(running)
            if running.stage is Stage.TRAIN:
                self.trained[running.job.number] = running.progress

    def forget(self, keep: Iterable[int]) -> None:
        """Drop the training progress of every job but these."""
        self.trained = {number: self.trained[number] for number in set(keep) & set(self.trained)}

    def reap(self, now: float, *, wall: float) -> list[tuple[Job, Stage, StageEnd]]:
        """Take note of every stage that has ended. Returns the jobs as they are afterwards."""
        ended = []
        for number, running in list(self.running.items()):
            code = running.process.poll()
            if code is None:
                self._hurry(running, now)
                continue
            self._follow(running)
            del self.running[number]
            if running.stop_asked is not None and code != 0:
                code = STOPPED
            job = self._store.job(number) or running.job
            seconds = now - running.began
            job, end = self._pipeline.end(job, running.stage, code, seconds=seconds, now=wall)
            _log_end(job, running.stage, end, seconds)
            ended.append((job, running.stage, end))
        return ended

    def start(self, waiting: Iterable[Job], now: float, *, wall: float, gpu: Waiting = Waiting.NONE) -> None:
        """Start the next stage of every job that there is room for. `gpu` says why the GPU lane is closed, if it is."""
        jobs = [(job, next_stage(job, self._pipeline.dir(job))) for job in waiting]
        if gpu is not Waiting.NONE:
            self._mark_waiting([job for job, stage in jobs if LANES[stage] is Lane.GPU], gpu)
            jobs = [(job, stage) for job, stage in jobs if LANES[stage] is not Lane.GPU]
        busy = [LANES[running.stage] for running in self.running.values()]
        for job, stage in startable(jobs, busy, now=wall):
            begun = self._pipeline.begin(job, stage, now=wall)
            if begun is not None:
                self._launch(begun, stage, now)

    def ask_to_stop(self, number: int, now: float) -> bool:
        """Ask the stage of one job to stop; False when it has none running."""
        running = self.running.get(number)
        if running is None:
            return False
        if running.stop_asked is None:
            running.stop_asked = now
            running.process.ask_to_stop()
        return True

    def stop_all(self, now: float) -> None:
        for number in self.running:
            self.ask_to_stop(number, now)

    def recover(self, *, boot_id: str, wall: float) -> list[Job]:
        """Put back to the queue what ran when the daemon or the host went down, and end what is left of it."""
        recovered = []
        for attempt in self._store.open_attempts():
            same_boot = attempt["boot_id"] == boot_id
            if same_boot and attempt["pid"] is not None:
                processes.kill_leftover(attempt["pid"], attempt["pid_started"])
            job = self._store.job(attempt["number"])
            if job is not None:
                stage = Stage(attempt["stage"])
                recovered.append(self._pipeline.interrupted(job, stage, same_boot=same_boot, now=wall))
        return recovered

    def _launch(self, job: Job, stage: Stage, now: float) -> None:
        job_dir = self._pipeline.dir(job)
        process = self._start(stage, job_dir)
        self._store.note_process(job.number, stage, pid=process.pid, pid_started=processes.started_at(process.pid) or 0)
        running = Running(job, stage, process, began=now)
        self._replay(running, job_dir)
        if stage is Stage.TRAIN:
            running.progress = replace(running.progress, **_planned(job_dir))
        self.running[job.number] = running
        logger.info("%s started, attempt %d", stage, job.attempt, extra={"job": job.id})

    def _replay(self, running: Running, job_dir: JobDir) -> None:
        """Fold in the events of earlier attempts, which are counted already."""
        running.offset = self._store.progress_offset(running.job.number, running.stage)
        try:
            with (job_dir.stage(running.stage) / "progress.jsonl").open("rb") as file:
                text = file.read(running.offset)
        except FileNotFoundError:
            return
        for event in parse_lines(text.decode(errors="replace")):
            running.progress = fold(running.progress, event)
            running.tally = running.tally.raised_by(event)
        running.progress = replace(running.progress, last_event=None, pace=())

    def _follow(self, running: Running) -> None:
        path = self._pipeline.dir(running.job).path / running.stage / "progress.jsonl"
        text = _new_lines(path, running.offset)
        if not text:
            return
        before = running.tally
        with self._store.transaction():
            for event in parse_lines(text.decode(errors="replace")):
                running.progress = fold(running.progress, event)
                running.tally = running.tally.raised_by(event)
                self._observe(event)
            self._count(before, running.tally, running.progress.model_flops_per_token or 0.0)
            running.offset += len(text)
            self._store.set_progress_offset(running.job.number, running.stage, running.offset)

    def _observe(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self._store.observe("train_step_duration_seconds", event["seconds"], STEP_BUCKETS)
        elif event["event"] == "checkpoint":
            self._store.observe("checkpoint_duration_seconds", event["seconds"], CHECKPOINT_BUCKETS)

    def _count(self, before: Tally, after: Tally, flops_per_token: float) -> None:
        content_tokens = after.content_tokens - before.content_tokens
        for name, labels, more in (
            ("train_steps_total", {}, after.steps - before.steps),
            ("train_tokens_total", {"kind": "content"}, content_tokens),
            ("train_model_flops_total", {}, content_tokens * flops_per_token),
            ("train_tokens_total", {"kind": "padding"}, after.padding_tokens - before.padding_tokens),
            ("train_target_tokens_total", {}, after.target_tokens - before.target_tokens),
            ("train_samples_total", {}, after.samples - before.samples),
        ):
            if more > 0:
                self._store.count(name, labels, more)

    def _mark_waiting(self, jobs: Iterable[Job], reason: Waiting) -> None:
        for job in jobs:
            if job.waiting is not reason and job.state is JobState.QUEUED:
                self._store.save(replace(job, waiting=reason, waiting_detail=""))

    def _hurry(self, running: Running, now: float) -> None:
        """A stage that was asked to stop and does not is killed after its grace time."""
        grace = STOP_SECONDS.get(running.stage, STOP_SECONDS_DEFAULT)
        if running.stop_asked is not None and now - running.stop_asked > grace:
            running.process.kill()


def _new_lines(path: Path, offset: int) -> bytes:
    """The whole lines that were appended to a file since `offset`."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read(READ_BYTES)
    except FileNotFoundError:
        return b""
    return text[: text.rfind(b"\n") + 1]


def _planned(job_dir: JobDir) -> dict[str, Any]:
    """What the plan says that the training's progress is seen against."""
    try:
        plan = json.loads((job_dir.path / Stage.PREPARE / "plan.json").read_text())
    except (OSError, ValueError):
        return {}
    return {
        "memory_estimate_bytes": plan.get("memory", {}).get("total_bytes"),
        "model_flops_per_token": plan.get("model_flops_per_token"),
    }


def _log_end(job: Job, stage: Stage, end: StageEnd, seconds: float) -> None:
    words = {
        EndKind.DONE: "finished",
        EndKind.REJECTED: "refused the input",
        EndKind.WAITS: f"waits for {end.waiting}: {end.message}",
        EndKind.STOPPED: "stopped as asked",
        EndKind.FAILED: f"failed ({end.failure}): {end.message}",
    }
    level = logging.WARNING if end.kind is EndKind.FAILED else logging.INFO
    logger.log(level, "%s %s after %.1f s", stage, words[end.kind], seconds, extra={"job": job.id})
