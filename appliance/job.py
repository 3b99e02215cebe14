"""A job's record and the states it can be in. Plain data: no files, no clock, no processes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from appliance.errors import ApplianceError


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Stage(StrEnum):
    CHECK = "check"
    FETCH = "fetch"
    PREPARE = "prepare"
    TRAIN = "train"
    VERIFY = "verify"
    PUBLISH = "publish"
    PUSH = "push"


class Lane(StrEnum):
    """What a stage occupies. Stages of different lanes run side by side."""

    CPU = "cpu"
    NET = "net"
    GPU = "gpu"
    OUT = "out"


LANES: Final[Mapping[Stage, Lane]] = {
    Stage.CHECK: Lane.CPU,
    Stage.FETCH: Lane.NET,
    Stage.PREPARE: Lane.CPU,
    Stage.TRAIN: Lane.GPU,
    Stage.VERIFY: Lane.GPU,
    # A lane of its own: a finished job never waits behind the check of a large file.
    Stage.PUBLISH: Lane.OUT,
    # After the end of the job, one at a time, beside the fetches of others.
    Stage.PUSH: Lane.NET,
}


class Outcome(StrEnum):
    """How a job ends, as the suffix of its directory in the outbox tells."""

    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CHECKED = "checked"


class Waiting(StrEnum):
    NONE = "none"
    PAUSED = "paused"
    WINDOW = "window"
    MEMORY = "memory"
    DISK = "disk"
    NETWORK = "network"
    GPU = "gpu"
    APPROVAL = "approval"


class Verdict(StrEnum):
    IMPROVED = "improved"
    UNPROVEN = "unproven"
    NO_BETTER = "no_better"
    BROKEN = "broken"


class Push(StrEnum):
    OFF = "off"
    PENDING = "pending"
    PUSHED = "pushed"
    WITHHELD = "withheld"
    BLOCKED = "blocked"


class FailureClass(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"
    MEMORY_GUARD = "memory_guard"
    NONFINITE_LOSS = "nonfinite_loss"
    STALLED = "stalled"
    DISK_FULL = "disk_full"
    MODEL_UNAVAILABLE = "model_unavailable"
    BROKEN_ADAPTER = "broken_adapter"
    WORKER_CRASHED = "worker_crashed"
    HOST_CRASHED = "host_crashed"
    INTERNAL = "internal"


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Role(StrEnum):
    """What a dropped file is for."""

    DATASET = "dataset"
    EVAL = "eval"
    RECIPE = "recipe"
    CHECKSUM = "checksum"
    OTHER = "other"


@dataclass(frozen=True)
class DroppedFile:
    """One file of a drop as it was taken in.

    `name` is what the person called it, relative to the drop; `path` is where the copy lies, relative to the job
    directory. `device`, `inode` and `mtime_ns` are the source's: the key by which a leftover is known again.
    """

    name: str
    role: Role
    path: str
    bytes: int
    sha256: str
    source: str
    device: int
    inode: int
    mtime_ns: int
    owner: str | None = None


@dataclass(frozen=True)
class Job:
    """One drop's way through the appliance. Times are Unix seconds."""

    number: int
    id: str
    uuid: str
    name: str
    state: JobState
    created: float
    files: tuple[DroppedFile, ...] = ()
    dry_run: bool = False
    library_recipe: str | None = None
    priority: Priority = Priority.NORMAL
    stage: Stage | None = None
    outcome: Outcome | None = None
    waiting: Waiting = Waiting.NONE
    waiting_detail: str = ""
    attempt: int = 0
    """Which attempt at its stage this is."""
    trainings: int = 0
    """How often its training was begun."""
    started: float | None = None
    finished: float | None = None
    base_model: str | None = None
    method: str | None = None
    verdict: Verdict | None = None
    push: Push = Push.OFF
    failure: FailureClass | None = None
    message: str = ""
    cancel_requested: bool = False
    approved: bool = False
    """Somebody has let it start although it takes longer than `MAX_JOB_HOURS`."""
    not_before: float = 0.0
    installation: str = ""

    @property
    def dropped_by(self) -> tuple[str, ...]:
        """Who owned its files in the inbox."""
        return tuple(sorted({file.owner for file in self.files if file.owner}))


NEXT: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING}),
    # Back to queued: between two stages, or the machine went down under it.
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED}
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.REJECTED: frozenset({JobState.QUEUED}),
}

ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED})

END_STATE: Final[Mapping[Outcome, JobState]] = {
    Outcome.SUCCEEDED: JobState.SUCCEEDED,
    Outcome.CHECKED: JobState.SUCCEEDED,
    Outcome.REJECTED: JobState.REJECTED,
    Outcome.FAILED: JobState.FAILED,
    Outcome.CANCELLED: JobState.CANCELLED,
}


def move(job: Job, to: JobState, **changes: object) -> Job:
    """The same job in its next state, or an ApplianceError if it cannot go there."""
    if to not in NEXT[job.state]:
        raise ApplianceError(f"job {job.id} is {job.state} and cannot become {to}")
    return replace(job, state=to, **changes)  # type: ignore[arg-type]


def lost(job: Job, message: str, *, now: float) -> Job:
    """A job whose folder is gone: it ends where it stands, and no stage can publish anything of it."""
    ended = replace(job, state=JobState.FAILED, stage=None, outcome=Outcome.FAILED, finished=now)
    return replace(ended, failure=FailureClass.INTERNAL, message=message)


def outbox_name(job_id: str, outcome: Outcome) -> str:
    """The name of a job's directory in the outbox: the bare id means success."""
    return job_id if outcome is Outcome.SUCCEEDED else f"{job_id}.{outcome}"
