"""Who comes first: `high` before `normal` before `low`, then the older job; nobody waits for ever. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from appliance.job import Job, Priority

RANK: Final[Mapping[Priority, int]] = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
# Somebody's `low` job is not put off for ever by others' normal ones.
LOW_WAITS_SECONDS: Final = 24 * 3600.0


def rank(job: Job, now: float) -> int:
    """The smaller the sooner. A `low` job counts as normal after a day; nothing grows into `high`."""
    patient = job.priority is Priority.LOW and now - job.created > LOW_WAITS_SECONDS
    return RANK[Priority.NORMAL] if patient else RANK[job.priority]


def capped(priority: Priority, most: Priority) -> Priority:
    """What a recipe asks for, but no more than the administrator allows."""
    return max(priority, most, key=lambda one: RANK[one])


def makes_room(running: Iterable[Job], waiting: Iterable[Job]) -> Job | None:
    """The running training that saves and steps back for a `high` one that could start, if there is such a pair."""
    if not any(job.priority is Priority.HIGH for job in waiting):
        return None
    return next((job for job in running if job.priority is not Priority.HIGH), None)
