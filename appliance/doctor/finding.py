"""What a check found. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that a check looked at. `check` is a short stable word for programs, `message` half a sentence.

    `remedy` is what a person types, or else does, to mend it; None where there is nothing to mend. `stops` says that
    the appliance cannot work like this at all and so does not start.
    """

    check: str
    level: Level
    message: str
    remedy: str | None = None
    stops: bool = False
    facts: dict[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


Facts = Mapping[str, object]


def ok(check: str, message: str, facts: Facts | None = None) -> Finding:
    return Finding(check, Level.OK, message, facts=dict(facts or {}))


def warning(check: str, message: str, remedy: str | None, facts: Facts | None = None) -> Finding:
    return Finding(check, Level.WARNING, message, remedy, facts=dict(facts or {}))


def problem(check: str, message: str, remedy: str, facts: Facts | None = None, *, stops: bool = False) -> Finding:
    return Finding(check, Level.PROBLEM, message, remedy, stops=stops, facts=dict(facts or {}))
