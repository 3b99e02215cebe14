"""What can go wrong, as types: catch broadly, recover narrowly.

ApplianceError
├── InputError       the person's files or words are wrong        exit code 2
├── NotReadyError    this machine cannot do it now                exit code 3
│   └── ModelGoneError   what was fetched is gone since
└── StageFailure     a stage met a fault with a name of its own   exit code 1

Stopped is no error: a stage was asked to stop and has saved what it could.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Reason(StrEnum):
    """Why a drop was rejected; the closed label set of `appliance_inbox_rejections_total`."""

    RECIPE_SYNTAX = "recipe_syntax"
    RECIPE_SCHEMA = "recipe_schema"
    DATASET_MISSING = "dataset_missing"
    DATASET_FORMAT = "dataset_format"
    DATASET_EMPTY = "dataset_empty"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    UNSAFE_FILE = "unsafe_file"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    LABELS = "labels"
    WOULD_NOT_FIT = "would_not_fit"
    DISK_FULL = "disk_full"
    OTHER = "other"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a drop: where, what was found, what would work.

    `code` is a short stable word for programs (for example `unknown_key`), `reason` the bounded class
    that metrics count. `message` is a whole sentence in plain words, without the place. `count` is above one in an
    entry that stands for several more of its kind, which are counted and not listed.
    """

    code: str
    message: str
    reason: Reason = Reason.OTHER
    file: str | None = None
    line: int | None = None
    key: str | None = None
    found: str | None = None
    expected: str | None = None
    count: int = 1

    def __str__(self) -> str:
        """`file:line: message`, the form editors jump to."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{place}: {self.message}" if place else self.message

    def as_json(self) -> dict[str, object]:
        """The object that stands in `problems.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`. Raises ValueError, TypeError or KeyError when it is none."""
        return cls(**{**entry, "reason": Reason(entry["reason"])})


class ApplianceError(Exception):
    """Something a person should read: what happened, and in `hint` what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(ApplianceError):
    """The input is wrong. Carries every problem that was found, never only the first."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NotReadyError(ApplianceError):
    """The machine is not ready or the job does not fit now; `waiting` is one of job.Waiting."""

    exit_code = 3

    def __init__(self, message: str, *, waiting: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.waiting = waiting

    def as_json(self) -> dict[str, str | None]:
        """The object of `failure.json`."""
        return {"waiting": self.waiting, "message": self.message, "hint": self.hint}


class ModelGoneError(NotReadyError):
    """The base model that a job was fetched and prepared for is no longer where it was: it is fetched again."""

    def as_json(self) -> dict[str, str | None]:
        """The object of `failure.json`."""
        return {**super().as_json(), "again": "fetch"}


class StageFailure(ApplianceError):
    """A stage cannot go on; `failure` is one of job.FailureClass."""

    def __init__(self, failure: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.failure = failure

    def as_json(self) -> dict[str, str | None]:
        """The object of `failure.json`."""
        return {"failure": self.failure, "message": self.message, "hint": self.hint}


class Stopped(Exception):
    """Raised by a stage that was asked to stop and has saved what it could."""
