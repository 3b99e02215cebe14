"""Showing how a job goes on: a bar on a terminal, a line a stage elsewhere."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from appliance.job import Job, Stage, Waiting
from appliance.job_dir import read_progress
from appliance.progress import Progress as StageProgress
from appliance.progress import how_far
from appliance.texts.board import WAITS
from appliance.texts.wording import duration, rate


class Follower:
    """Follows one job by the files of its stages, on standard error."""

    def __init__(self, jobs: Path) -> None:
        self._jobs = jobs
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<9}"),
            BarColumn(),
            TextColumn("{task.fields[how_far]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._stage: Stage | None = None
        self._why = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, job: Job) -> None:
        """Bring the picture up to date."""
        why = why_waiting(job)
        if why and why != self._why:
            self._console.print(why, markup=False, soft_wrap=True)
        self._why = why
        if job.stage is not None and job.stage is not self._stage:
            self._begin(job.stage)
        if self._task is not None and self._stage is not None:
            progress = read_progress(self._jobs / job.id / self._stage)
            fraction = progress.fraction
            self._bar.update(self._task, completed=100 * (fraction or 0.0), how_far=how_it_goes(progress))

    def _begin(self, stage: Stage) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=100)
            self._bar.stop_task(self._task)
        self._stage = stage
        self._task = self._bar.add_task("", total=100, stage=stage, how_far="")
        if not sys.stderr.isatty():
            self._console.print(f"{stage} …")


def why_waiting(job: Job) -> str:
    """What a job waits for besides its turn, in one line; empty when nothing holds it."""
    if job.waiting is Waiting.NONE:
        return ""
    return f"{WAITS[job.waiting]}: {job.waiting_detail}" if job.waiting_detail else WAITS[job.waiting]


def how_it_goes(progress: StageProgress) -> str:
    """How far a stage has come, how fast it is and when it is done, in one line."""
    words = [how_far(progress)]
    if progress.tokens_per_second is not None:
        words.append(f"{rate(progress.tokens_per_second)} tokens/s")
    if progress.seconds_left is not None:
        words.append(f"about {duration(progress.seconds_left)} left")
    return ", ".join(word for word in words if word)
