"""What the end of a stage means: for the job, for the person, and whether to try again. Pure."""

import errno
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Final

from appliance.job import FailureClass, Stage, Waiting

STOPPED: Final = 4
DISK: Final = 5
OUTBOX: Final = "the outbox"
LONGEST_PAUSE_SECONDS: Final = 3600.0

# Faults of the machine or of the moment: the same stage may get further next time, in a new process.
# A wrong input, a diverged loss or a fault in our own code would only repeat itself.
RETRIED: Final = frozenset(
    {
        FailureClass.WORKER_CRASHED,
        FailureClass.HOST_CRASHED,
        FailureClass.STALLED,
        FailureClass.MEMORY_GUARD,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.DISK_FULL,
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
    stage: Stage,
    code: int,
    *,
    has_result: bool,
    has_problems: bool,
    failure: Mapping[str, Any] | None,
    asked: bool = True,
) -> StageEnd:
    """What a stage's exit code means together with what the stage left behind. `asked`: we asked it to stop."""
    if has_result:
        # Written last: whatever ended the process after that, the stage was done.
        return StageEnd(EndKind.DONE)
    if code == 2 and has_problems:
        return StageEnd(EndKind.REJECTED)
    if failure is not None and "waiting" in failure:
        # Whatever the exit code: a process that has lost its GPU may be aborted while it ends.
        waiting = Waiting(failure["waiting"])
        return StageEnd(EndKind.WAITS, failure["message"], failure.get("hint"), waiting=waiting)
    if code == 3:
        return StageEnd(EndKind.WAITS, "a folder of the appliance cannot be written", waiting=Waiting.DISK)
    if code == STOPPED:
        return StageEnd(EndKind.STOPPED) if asked else _stopped_by_others(stage)
    if failure is not None and "failure" in failure:
        return StageEnd(EndKind.FAILED, failure["message"], failure.get("hint"), FailureClass(failure["failure"]))
    return _unexplained(stage, code)


# No room, or a disk that cannot write: tried again when there is room, and given up after a few times.
_DISK: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EIO: "the disk reports an error",
}
# Somebody has to do something about a folder; until then every try would end the same.
_FOLDER: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ENODEV)


def explain_refusal(error: OSError) -> tuple[int, dict[str, str | None] | None]:
    """The exit code and the content of `failure.json` for what the operating system refused a stage.

    None: there is nothing to say about it that the class of an unexplained end does not say.
    """
    number = number_of(error)
    name = _what(error)
    if number in _DISK:
        message = _DISK[number] + (f" ({name})" if name else "")
        return DISK, {"failure": FailureClass.DISK_FULL, "message": message, "hint": None}
    if number in _FOLDER or (number == errno.ENOENT and name == OUTBOX):
        message = f"{name or 'a folder of the appliance'} cannot be used: {os.strerror(number or 0)}"
        hint = "Give the appliance's user access to it, or mount it again; it is tried again by itself."
        return 3, {"waiting": Waiting.DISK, "message": message, "hint": hint}
    if number in (errno.EMFILE, errno.ENFILE):
        message = "too many files were open at once on this machine"
        return 1, {"failure": FailureClass.WORKER_CRASHED, "message": message, "hint": None}
    return 1, None


def _what(error: OSError) -> str:
    """What was refused, without its folders: they may carry what a person called something."""
    name = PurePath(os.fsdecode(error.filename)).name if error.filename else ""
    # The folder that a result is put together in: nobody knows it by its name.
    return OUTBOX if re.fullmatch(r"\..+\.partial", name) else name


def number_of(error: OSError) -> int | None:
    """What the system said. Copying a tree collects many refusals, of which only the words are left."""
    words = re.search(r"\[Errno (\d+)\]", str(error))
    return int(words[1]) if error.errno is None and words else error.errno


def explain_no_start(stage: Stage, error: OSError) -> StageEnd:
    """Why the process of a stage could not be started: the machine is short of something for a while."""
    number, why = number_of(error), error.strerror or str(error)
    if number in _DISK or number in _FOLDER:
        return StageEnd(EndKind.WAITS, f"the {stage} stage could not be started: {why}", waiting=Waiting.DISK)
    message = f"the {stage} stage could not be started: {why} (out of processes, open files or memory)"
    return StageEnd(EndKind.WAITS, message, waiting=Waiting.MEMORY)


def _stopped_by_others(stage: Stage) -> StageEnd:
    message = f"something else on this machine asked the {stage} stage to stop (SIGTERM), and not the appliance"
    hint = "If it was earlyoom: docs/operations.md says how to set it up. The system's journal names who sent it."
    return StageEnd(EndKind.FAILED, message, hint, FailureClass.WORKER_CRASHED)


def _unexplained(stage: Stage, code: int) -> StageEnd:
    if code == DISK:
        message = "the disk is full, or cannot write"
        return StageEnd(EndKind.FAILED, message, failure=FailureClass.DISK_FULL)
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


def is_over(pause_until: float, now: float, *, longest: float = LONGEST_PAUSE_SECONDS) -> bool:
    """Whether a pause is over. One that would be longer than the longest means that the clock was set back."""
    return not 0 < pause_until - now <= longest


def backoff_seconds(tries: int, *, first: float = 60.0, longest: float = LONGEST_PAUSE_SECONDS) -> float:
    """How long to wait after `tries` tries: nothing after none, then doubling from `first` up to `longest`."""
    return min(longest, first * 2.0 ** min(tries - 1, 30)) if tries > 0 else 0.0
