"""One attempt at training a job: what it has done so far, and the marks it leaves for who watches and who resumes.

Imports no torch. The trainer's callback (callbacks.py) says what happened; this writes it down.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from appliance.errors import StageFailure, Stopped
from appliance.job import FailureClass
from appliance.job_dir import ProgressWriter
from appliance.stages.training.checkpoints import (
    Checkpoint,
    Content,
    amend_checkpoint,
    rotate_checkpoints,
    write_checkpoint,
)
from appliance.stages.training.standing import BatchCount, Standing

HEARTBEAT_SECONDS = 1.0


class Attempt:
    """Keeps the standing, the progress file and the checkpoints of one attempt."""

    def __init__(
        self,
        checkpoints: Path,
        progress: ProgressWriter,
        *,
        checkpoint_seconds: float,
        stopping: threading.Event,
        resumed: Checkpoint | None,
    ) -> None:
        self.checkpoints = checkpoints
        self.progress = progress
        self.standing = resumed.standing if resumed else Standing()
        # Filled by the collator, which works one batch ahead; emptied as the batches are trained on.
        self.collated: deque[BatchCount] = deque()
        # What this attempt did itself, for the comparison with the plan.
        self.startup_seconds: float | None = None
        self._paces: list[tuple[float, int]] = []
        self.began_at_step = self.standing.step
        self._newest = resumed
        self._step_batches: list[BatchCount] = []
        self._step_tokens = 0
        self._checkpoint_seconds = checkpoint_seconds
        self._stopping = stopping
        self._step_began = self._saved_at = self._heartbeat = time.monotonic()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def begin(self, *, startup_seconds: float, **facts: object) -> None:
        """Training starts now, at the step the job had reached."""
        self.startup_seconds = startup_seconds
        self.progress.write("start", attempt_step=self.standing.step, startup_seconds=startup_seconds, **facts)
        self._step_began = self._saved_at = time.monotonic()

    def end_micro_batch(self) -> None:
        """A micro-batch was trained on."""
        self._step_batches.append(self.collated.popleft())
        self.show_life()

    def show_life(self) -> None:
        """Tell who watches for stalls that work goes on, at most once a second."""
        now = time.monotonic()
        if now - self._heartbeat >= HEARTBEAT_SECONDS:
            self._heartbeat = now
            step = self.standing.step + bool(self._step_batches)
            self.progress.write("micro_batch", step=step, micro_batch=len(self._step_batches))

    def end_step(self, step: int, epoch: float) -> None:
        """The last micro-batch of an optimizer step was trained on and the weights were updated."""
        self._step_batches.append(self.collated.popleft())
        before = self.standing.content_tokens
        self.standing = self.standing.after_step(step, epoch, self._step_batches)
        self._step_tokens = self.standing.content_tokens - before
        self._step_batches = []

    def report_step(
        self, *, loss: float, grad_norm: float | None, learning_rate: float, memory: Mapping[str, int]
    ) -> None:
        """Write down the finished step. Raises StageFailure when its loss or gradient is not a number."""
        now = time.monotonic()
        seconds, self._step_began, self._heartbeat = now - self._step_began, now, now
        finite = math.isfinite(loss) and (grad_norm is None or math.isfinite(grad_norm))
        self.standing = self.standing.after_loss(loss if finite else None, seconds)
        self._paces.append((seconds, self._step_tokens))
        self.progress.write(
            "step",
            step=self.standing.step,
            epoch=self.standing.epoch,
            loss=_number(loss),
            learning_rate=learning_rate,
            grad_norm=_number(grad_norm),
            content_tokens=self.standing.content_tokens,
            padding_tokens=self.standing.padding_tokens,
            target_tokens=self.standing.target_tokens,
            samples=self.standing.samples,
            seconds=seconds,
            **memory,
            **({} if finite else {"nonfinite": True}),
        )
        if not finite:
            raise nonfinite(self.standing.step)

    def report_evaluation(self, loss: float, *, rows: int) -> bool:
        """Write down a held-out loss. True when it is the best so far."""
        nonfinite = {} if math.isfinite(loss) else {"nonfinite": True}
        self.progress.write("eval", step=self.standing.step, loss=_number(loss), rows=rows, **nonfinite)
        self._step_began = time.monotonic()
        self.standing = self.standing.after_evaluation(loss)
        return self.standing.best_step == self.standing.step

    def steady_pace(self) -> tuple[float, float] | None:
        """Tokens a second of the later half of this attempt's steps, and the seconds that the earlier half took longer
        than that: kernels are made and caches filled then. None after less than two steps."""
        half = len(self._paces) // 2
        if half == 0:
            return None
        seconds, tokens = (sum(part) for part in zip(*self._paces[half:], strict=True))
        early_seconds, early_tokens = (sum(part) for part in zip(*self._paces[:half], strict=True))
        rate = tokens / seconds
        return rate, max(0.0, early_seconds - early_tokens / rate)

    def finish(self) -> None:
        """No step is left to do, or none is worth doing."""
        self.standing = replace(self.standing, finished=True)

    @property
    def is_checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._checkpoint_seconds

    @property
    def has_unsaved_steps(self) -> bool:
        return self.standing.step > (self._newest.step if self._newest else 0)

    def save(self, parts: Mapping[str, Content]) -> Checkpoint:
        """Make the last finished step resumable. Its files are written once; what is learnt later is added to them."""
        began = time.monotonic()
        if self._newest is not None and not self.has_unsaved_steps:
            self._newest = amend_checkpoint(self._newest, self.standing)
            return self._newest
        self._newest = write_checkpoint(self.checkpoints, self.standing, parts)
        rotate_checkpoints(self.checkpoints, also_keep=[self.standing.best_step])
        self._step_began = self._saved_at = time.monotonic()
        self.progress.write(
            "checkpoint", step=self.standing.step, seconds=self._saved_at - began, bytes=self._newest.bytes
        )
        return self._newest

    def stop(self) -> Stopped:
        """Say that the attempt ends here because it was asked to; the caller raises what this returns."""
        self.progress.write("stopped", step=self.standing.step, why="asked to stop")
        return Stopped()


def nonfinite(step: int) -> StageFailure:
    return StageFailure(
        FailureClass.NONFINITE_LOSS,
        f"the loss or its gradient was not a number at step {step}; the last good checkpoint was kept",
        hint="A lower learning_rate, or a longer warm-up, keeps training stable.",
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
