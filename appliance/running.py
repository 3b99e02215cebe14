"""A stage at work, as the loop keeps it: its process, what it has reported, and what was asked of it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.exits import StageEnd
from appliance.job import Job, Stage
from appliance.processes import StageProcess
from appliance.progress import Progress, Tally

# A training needs one micro-batch and one save to stop well; the other stages only have to notice.
STOP_SECONDS: Final = {Stage.TRAIN: 420.0, Stage.VERIFY: 60.0}
STOP_SECONDS_DEFAULT: Final = 10.0
# Who has shown no sign of life for many minutes is given less time to save.
STALLED_STOP_SECONDS: Final = 60.0


class StopReason(StrEnum):
    """Why a stage was asked to stop. Only the first two are a fault of the stage."""

    STALLED = "stalled"
    MEMORY_GUARD = "memory_guard"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    WINDOW = "window"
    PREEMPTED = "preempted"


FAULTS: Final = frozenset({StopReason.STALLED, StopReason.MEMORY_GUARD})


@dataclass
class Running:
    """One stage at work. `began`, `stop_asked` and `alive` (its last sign of life) are monotonic seconds."""

    job: Job
    stage: Stage
    process: StageProcess
    began: float
    progress: Progress = field(default_factory=Progress)
    tally: Tally = field(default_factory=Tally)
    offset: int = 0
    replayed: bool = False
    """Whether what earlier attempts reported is folded in."""
    stop_asked: float | None = None
    stop_reason: StopReason | None = None
    alive: float = 0.0
    io_bytes: int | None = None
    over: bool = False
    """It has ended. One that is over and still here has an end that could not be written down yet."""
    ended_by_us: StageEnd | None = None
    """What ended it where its exit code does not tell, as seen when it was over."""

    def ask_to_stop(self, reason: StopReason, now: float, *, signal: bool = True) -> None:
        """SIGTERM, once; a cancel takes the place of a milder reason."""
        if reason is StopReason.CANCELLED or self.stop_reason is None:
            self.stop_reason = reason
        if self.stop_asked is None:
            self.stop_asked = now
            if signal:
                self.process.ask_to_stop()

    def hurry(self, now: float) -> None:
        """Kill it when it was asked to stop and has not done so within its grace time."""
        if self.stop_asked is not None and now - self.stop_asked > self._grace_seconds:
            self.process.kill()

    @property
    def _grace_seconds(self) -> float:
        if self.stop_reason is StopReason.STALLED:
            return STALLED_STOP_SECONDS
        return STOP_SECONDS.get(self.stage, STOP_SECONDS_DEFAULT)
