"""Pushing to the Hub, in words: what an attempt can end with, who is tried next and when, what a repository is called.

Pure.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from appliance.errors import ApplianceError
from appliance.exits import backoff_seconds, is_over
from appliance.names import slug

FIRST_PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 6 * 3600.0
# A push may take this long, and more for its bytes on a slow line: 100 kB a second is slow.
DEADLINE_SECONDS: Final = 900.0
SLOW_BYTES_PER_SECOND: Final = 100_000
LONGEST_DEADLINE_SECONDS: Final = 24 * 3600.0
# A file of this name in the push stage's folder: somebody asked for the push with `appliance push`.
BY_PERSON: Final = "by-person"
# Names on the Hub hold at most this many characters.
LONGEST_NAME: Final = 96


class PushResult(StrEnum):
    """How an attempt to push ended; the closed label set of `appliance_hub_push_attempts_total`."""

    OK = "ok"
    AUTH = "auth"
    QUOTA = "quota"
    RATE_LIMITED = "rate_limited"
    NETWORK = "network"
    SERVER = "server"
    CONFLICT = "conflict"
    NOT_PRIVATE = "not_private"
    OTHER = "other"


# Where the Hub itself is away, trying the next job would only fail as well, and overtake this one.
HUB_IS_AWAY: Final = frozenset({PushResult.NETWORK, PushResult.SERVER, PushResult.RATE_LIMITED})


class PushError(ApplianceError):
    """An attempt to push that did not get there: why, and whether a person has to do something before the next one."""

    def __init__(
        self,
        result: PushResult,
        message: str,
        *,
        hint: str | None = None,
        blocked: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.result = result
        self.blocked = blocked
        self.retry_after = retry_after

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return 1 if self.blocked else 3

    def as_json(self) -> dict[str, Any]:
        """The object of `failure.json`."""
        return {
            "push": self.result,
            "blocked": self.blocked,
            "message": self.message,
            "hint": self.hint,
            "retry_after": self.retry_after,
        }


def push_error(failure: dict[str, Any]) -> PushError:
    """The inverse of `PushError.as_json`."""
    return PushError(
        PushResult(failure["push"]),
        failure["message"],
        hint=failure["hint"],
        blocked=failure["blocked"],
        retry_after=failure["retry_after"],
    )


@dataclass(frozen=True)
class Pending:
    """A push that is still to be done. `next_try` is Unix seconds; `repository` the shared one it goes to, if any."""

    number: int
    attempts: int = 0
    next_try: float = 0.0
    result: PushResult | None = None
    repository: str | None = None


def next_push(pending: Iterable[Pending], *, now: float) -> Pending | None:
    """Which push is tried now: the oldest that is due.

    Nobody overtakes a push that waits for the Hub to come back, nor one that goes to the same shared repository: its
    main branch moves in the order of the jobs.
    """
    held: set[str] = set()
    for entry in sorted(pending, key=lambda entry: entry.number):
        if entry.repository in held:
            continue
        if is_over(entry.next_try, now, longest=LONGEST_PAUSE_SECONDS):
            return entry
        if entry.result in HUB_IS_AWAY:
            return None
        if entry.repository:
            held.add(entry.repository)
    return None


def pause_seconds(attempts: int, retry_after: float | None = None) -> float:
    """How long to wait after so many attempts: doubling from a minute to six hours, or what the Hub asks for."""
    pause = backoff_seconds(attempts, first=FIRST_PAUSE_SECONDS, longest=LONGEST_PAUSE_SECONDS)
    return max(pause, min(retry_after or 0.0, LONGEST_PAUSE_SECONDS))


def deadline_seconds(count: int) -> float:
    """How long pushing `count` bytes may take before it is ended."""
    return min(LONGEST_DEADLINE_SECONDS, DEADLINE_SECONDS + count / SLOW_BYTES_PER_SECOND)


def own_repository(name: str, number: int, job_uuid: str) -> str:
    """The name of a repository for one job: its name, its number, and a piece of its UUID.

    Two installations in one organisation have the same job numbers; the UUID keeps them apart.
    """
    ending = f"-{number:04d}-{job_uuid.replace('-', '')[:8]}"
    return f"{_plain(name)[: LONGEST_NAME - len(ending)].rstrip('-._')}{ending}"


def _plain(name: str) -> str:
    """A slug without what the Hub refuses: two dots or two dashes in a row."""
    return re.sub(r"([.-])[.-]+", r"\1", slug(name))


def job_reference(number: int) -> str:
    """The tag of a job in a shared repository, and the branch of one that does not move main."""
    return f"job-{number:04d}"
