"""What the end of a stage means: for the job, for the person, and whether to try again. Pure."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from appliance.job import FailureClass, Stage, Waiting

STOPPED: Final = 4

# Faults of the machine or of the moment: the same stage may get further next time, in a new process.
# A wrong input, a diverged loss or a fault in our own code would only repeat itself.
RETRIED: Final = frozenset(
    {
        FailureClass.WORKER_CRASHED,
        FailureClass.HOST_CRASHED,
        FailureClass.STALLED,
        FailureClass.MEMORY_GUARD,
        FailureClass.OUT_OF_MEMORY,
    }
)


class EndKind(StrEnum):
    DONE = "done"
    REJECTED = "rejected"
    WAITS = "waits"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class StageEnd:
    """How a stage ended. `failure` is set for FAILED, `waiting` for WAITS."""

    kind: EndKind
    message: str = ""
    hint: str | None = None
    failure: FailureClass | None = None
    waiting: Waiting = Waiting.NONE

    @property
    def retried(self) -> bool:
        return self.failure in RETRIED


def explain_exit(
    stage: Stage, code: int, *, has_result: bool, has_problems: bool, failure: Mapping[str, Any] | None
) -> StageEnd:
    """What a stage's exit code means together with what the stage left behind."""
    if code == 0 and has_result:
        return StageEnd(EndKind.DONE)
    if code == 2 and has_problems:
        return StageEnd(EndKind.REJECTED)
    if code == 3 and failure is not None:
        waiting = Waiting(failure["waiting"])
        return StageEnd(EndKind.WAITS, failure["message"], failure.get("hint"), waiting=waiting)
    if code == STOPPED:
        return StageEnd(EndKind.STOPPED)
    if failure is not None and "failure" in failure:
        return StageEnd(EndKind.FAILED, failure["message"], failure.get("hint"), FailureClass(failure["failure"]))
    return _unexplained(stage, code)


def _unexplained(stage: Stage, code: int) -> StageEnd:
    if code == -signal.SIGKILL:
        message = f"the {stage} stage was killed by the system, most likely because memory ran out"
        return StageEnd(EndKind.FAILED, message, failure=FailureClass.WORKER_CRASHED)
    if code < 0:
        message = f"the {stage} stage was ended by {_signal_name(-code)}"
        return StageEnd(EndKind.FAILED, message, failure=FailureClass.WORKER_CRASHED)
    if code == 0:
        message = f"the {stage} stage ended without a result"
        return StageEnd(EndKind.FAILED, message, failure=FailureClass.WORKER_CRASHED)
    message = f"the {stage} stage met a fault of the appliance's own (exit code {code})"
    hint = "worker.log holds the details; please report it with the job directory."
    return StageEnd(EndKind.FAILED, message, hint, FailureClass.INTERNAL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def backoff_seconds(tries: int, *, first: float = 60.0, longest: float = 3600.0) -> float:
    """How long to wait after `tries` tries: nothing after none, then doubling from `first` up to `longest`."""
    return min(longest, first * 2.0 ** min(tries - 1, 30)) if tries > 0 else 0.0
