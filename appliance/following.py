"""Following what the running stages report: folded into a picture for readers, and counted once, whatever is killed."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.metric_table import CHECKPOINT_BUCKETS, STEP_BUCKETS
from appliance.processes import io_bytes
from appliance.progress import Tally, fold, parse_lines
from appliance.running import Running
from appliance.store import Store

# How much of a progress file is read in one turn; the rest waits for the next.
READ_BYTES: Final = 1 << 20


class Follower:
    """Reads progress files from where they were last read to, and counts what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def replay(self, running: Running, job_dir: JobDir) -> None:
        """Fold in the events of earlier attempts, which are counted already."""
        number, stage = running.job.number, running.stage
        offset = self._store.progress_offset(number, stage)
        try:
            with (job_dir.stage(stage) / "progress.jsonl").open("rb") as file:
                text = file.read(offset)
        except FileNotFoundError:
            text = b""
        if len(text) < offset:
            # A power cut took its end, which was counted. What comes now is new, and stands behind what is left.
            self._store.set_progress_offset(number, stage, len(text))
        progress, tally = running.progress, running.tally
        for event in parse_lines(text.decode(errors="replace")):
            progress = fold(progress, event)
            tally = tally.raised_by(event)
        planned = _planned(job_dir) if stage is Stage.TRAIN else {}
        running.progress = replace(progress, last_event=None, pace=(), **planned)
        running.tally = self._store.tally(number, stage) or tally
        running.offset, running.replayed = len(text), True

    def follow(self, running: Running, job_dir: JobDir, now: float) -> None:
        """Fold in and count what was reported since the last turn."""
        if not running.replayed:
            # The turn that started it met a fault. Counted from the beginning, all of it would count twice.
            self.replay(running, job_dir)
        text = _new_lines(job_dir.path / running.stage / "progress.jsonl", running.offset)
        if not text:
            return
        running.alive = now
        progress, before, tally = running.progress, running.tally, running.tally
        with self._store.transaction():
            for event in parse_lines(text.decode(errors="replace")):
                progress = fold(progress, event)
                tally = tally.raised_by(event)
                self._observe(event)
            self._count(before, tally, progress.model_flops_per_token or 0.0)
            self._store.set_progress_offset(running.job.number, running.stage, running.offset + len(text))
            if tally != before:
                self._store.set_tally(running.job.number, running.stage, tally)
        # Only once it is counted: a turn that fails here is gone through again.
        running.progress, running.tally, running.offset = progress, tally, running.offset + len(text)

    def is_silent(self, running: Running, now: float, seconds: float) -> bool:
        """Whether a stage has shown no sign of life for so long: no event, nor, before the first, bytes moved."""
        if now - running.alive < seconds:
            return False
        # Looked at only now: loading a model and copying a result report nothing, but read and write.
        if running.stage not in (Stage.TRAIN, Stage.VERIFY) or running.progress.last_event is None:
            moved = io_bytes(running.process.pid)
            if moved is not None and moved != running.io_bytes:
                running.io_bytes, running.alive = moved, now
                return False
        return True

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


def _planned(job_dir: JobDir) -> dict[str, Any]:
    """What the plan says that the training's progress is seen against."""
    try:
        plan = job_dir.plan() or {}
    except (OSError, ValueError):
        return {}
    return {
        "memory_estimate_bytes": plan.get("memory", {}).get("total_bytes"),
        "model_flops_per_token": plan.get("model_flops_per_token"),
    }


def _new_lines(path: Path, offset: int) -> bytes:
    """The whole lines that were appended to a file since `offset`."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read(READ_BYTES)
    except FileNotFoundError:
        return b""
    return text[: text.rfind(b"\n") + 1]
