"""What may start on the GPU now: what fits into the free memory, and trainings that are not too long to go unasked."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from appliance.job import LANES, Job, Lane, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.texts.wording import duration, size

HOUR: Final = 3600.0
# How long a look holds: asking every process of the machine is not free.
LOOK_SECONDS: Final = 5.0
NO_ANSWER: Final = "the GPU's driver does not say how much memory is free; docs/operations.md says what to look at"


Answer = tuple[Waiting, str]
"""Why a job waits, and the details in the words that its board shows."""


class Look:
    """The machine as it was at one moment. What takes most of its memory is looked for when somebody has to be told."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes

    @cached_property
    def largest(self) -> "Process | None":
        return largest_process()


class Admission:
    """Asked before every training and verification; looks at the machine once in a few seconds, whoever asks."""

    def __init__(self, settings: Settings, *, free_bytes: Callable[[], int | None]) -> None:
        """`free_bytes` answers at once, and with None where the GPU's driver does not tell."""
        self._settings = settings
        self._free_bytes = free_bytes
        self._looked, self._seen = float("-inf"), Look(0)

    def held_back(self, job: Job, job_dir: JobDir) -> Answer | None:
        """Why a training starts only when a person lets it: it takes too long to start by itself. None when it may.

        Raises OSError when the plan cannot be read.
        """
        seconds = (job_dir.plan() or {}).get("seconds_estimate")
        if job.approved or seconds is None or seconds <= self._settings.max_job_hours * HOUR:
            return None
        return Waiting.APPROVAL, self._too_long(job, seconds)

    def obstacle(self, stage: Stage, job_dir: JobDir, now: float) -> Answer | None:
        """Why the next stage of a job does not fit into memory yet; None when it does. `now` is monotonic."""
        if LANES[stage] is not Lane.GPU:
            return None
        memory = _plan(job_dir).get("memory", {})
        if "total_bytes" not in memory:
            return None
        # Of a verification too: it holds the same model and one row, without what is kept for learning.
        needs, reserve, look = memory["total_bytes"], memory["reserve_bytes"], self._look(now)
        if look is None:
            return Waiting.GPU, NO_ANSWER
        return None if needs <= look.free_bytes - reserve else (Waiting.MEMORY, _too_large(needs, reserve, look))

    def _look(self, now: float) -> Look | None:
        if now - self._looked >= LOOK_SECONDS:
            free_bytes = self._free_bytes()
            if free_bytes is None:
                return None
            self._looked, self._seen = now, Look(free_bytes)
        return self._seen

    def _too_long(self, job: Job, seconds: float) -> str:
        hours = f"{self._settings.max_job_hours:g} h"
        return (
            f"it would take about {duration(seconds)} by estimate, longer than the {hours} that start by themselves; "
            f"`appliance approve {job.number}` lets it start, or a file {job.number:04}.approve in the inbox"
        )


def _plan(job_dir: JobDir) -> dict[str, Any]:
    try:
        return job_dir.plan() or {}
    except (OSError, ValueError):
        return {}


def _too_large(needs: int, reserve: int, look: Look) -> str:
    free = max(0, look.free_bytes - reserve)
    text = f"needs {size(needs)}, {size(free)} are free beside the {size(reserve)} in reserve"
    other = look.largest
    return (
        f"{text}; the largest other process is {other.name} ({other.pid}) with {size(other.bytes)}" if other else text
    )


@dataclass(frozen=True)
class Process:
    """A process by what it holds in memory."""

    pid: int
    name: str
    bytes: int


def largest_process(proc: Path = Path("/proc")) -> Process | None:
    """The process besides this one that holds the most memory; None where none can be seen."""
    others = (path for path in proc.glob("[0-9]*") if path.name != str(os.getpid()))
    seen = (process for path in others if (process := _read_process(path)) is not None)
    return max(seen, key=lambda process: process.bytes, default=None)


def _read_process(path: Path) -> Process | None:
    try:
        resident = int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return Process(int(path.name), (path / "comm").read_text().strip(), resident)
    except (OSError, ValueError, IndexError):
        # It has ended meanwhile, or is none of ours to see.
        return None
