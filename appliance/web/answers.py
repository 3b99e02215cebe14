"""What the API answers, as types: the OpenAPI document is made from them."""

from typing import Self

from pydantic import BaseModel

from appliance.job import FailureClass, Job, JobState, Outcome, Priority, Push, Role, Stage, Verdict, Waiting
from appliance.progress import Progress, how_far


class FileAnswer(BaseModel):
    """A file as it was dropped."""

    name: str
    role: Role
    bytes: int
    sha256: str


class ProgressAnswer(BaseModel):
    """How far a stage has come. `fraction` is 0 to 1; times are Unix seconds; tokens per second exclude padding."""

    how_far: str
    fraction: float | None
    done: float | None
    total: float | None
    unit: str
    step: int | None
    total_steps: int | None
    epoch: float | None
    loss: float | None
    eval_loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    content_tokens: int
    memory_bytes: int | None
    cuda_reserved_bytes: int | None
    last_event: float | None

    @classmethod
    def of(cls, progress: Progress) -> Self:
        own = {name: getattr(progress, name) for name in cls.model_fields if name != "how_far"}
        return cls(how_far=how_far(progress), **own)


class JobAnswer(BaseModel):
    """One job. Times are Unix seconds; `result` is its folder in the outbox once it has ended."""

    id: str
    number: int
    name: str
    state: JobState
    stage: Stage | None
    created: float
    started: float | None
    finished: float | None
    outcome: Outcome | None
    verdict: Verdict | None
    push: Push
    failure: FailureClass | None
    message: str
    waiting: Waiting
    waiting_detail: str
    base_model: str | None
    method: str | None
    priority: Priority
    dry_run: bool
    attempt: int
    cancel_requested: bool
    files: list[FileAnswer]
    result: str | None
    progress: ProgressAnswer | None
    actions: list[str]

    @classmethod
    def of(cls, job: Job, progress: Progress | None, *, result: str | None, actions: tuple[str, ...]) -> Self:
        own = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name) and name != "files"}
        return cls(
            **own,
            files=[FileAnswer(name=f.name, role=f.role, bytes=f.bytes, sha256=f.sha256) for f in job.files],
            result=result,
            progress=ProgressAnswer.of(progress) if progress else None,
            actions=list(actions),
        )


class AskedAnswer(BaseModel):
    """A request was written down; the appliance acts on it within a second."""

    asked: str
    target: str


class DropAnswer(BaseModel):
    """Files that now lie in the inbox, by their paths in it."""

    dropped: list[str]


class ProblemAnswer(BaseModel):
    """Why something was refused."""

    detail: str
