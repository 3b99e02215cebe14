"""What is wrong with the rows of a dataset: every fault counted, the first of each kind kept. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from appliance.errors import Problem, Reason

SHOWN: Final = 100


class Fault(NamedTuple):
    """Something wrong with one row, before it is known where the row stands. Fields as in `Problem`."""

    code: str
    message: str
    key: str | None = None
    found: str | None = None
    expected: str | None = None
    reason: Reason = Reason.DATASET_FORMAT


class Unreadable(Exception):
    """Nothing behind this place in the file can be read; the fault says why."""

    def __init__(self, fault: Fault, *, line: int | None = None) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.line = line


@dataclass
class Findings:
    """Collects the problems of one file in constant memory, and in `notes` what is good to know about reading it."""

    file: str
    notes: list[str] = field(default_factory=list)
    _kept: dict[str, list[Problem]] = field(default_factory=dict)
    _totals: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._totals)

    def add(self, line: int | None, fault: Fault) -> None:
        self._totals[fault.code] = self._totals.get(fault.code, 0) + 1
        kept = self._kept.setdefault(fault.code, [])
        if len(kept) < SHOWN:
            kept.append(
                Problem(
                    fault.code, fault.message, fault.reason, self.file, line, fault.key, fault.found, fault.expected
                )
            )

    def add_all(self, line: int, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self.add(line, fault)

    def absorb(self, part: "Findings", *, lines_before: int) -> None:
        """Add what was found in the next part of the file, whose lines were counted from its own beginning."""
        for code, kept in part._kept.items():
            self._totals[code] = self._totals.get(code, 0) + part._totals[code]
            ours = self._kept.setdefault(code, [])
            for problem in kept[: SHOWN - len(ours)]:
                line = None if problem.line is None else problem.line + lines_before
                ours.append(replace(problem, line=line))

    def problems(self) -> list[Problem]:
        """At most 100 problems, in order of the file, and entries `... and 312 more like this` for the rest."""
        kinds = sorted(self._kept.items(), key=lambda kind: kind[1][0].line or 0)
        shown = _fair_shares([len(kept) for _, kept in kinds], SHOWN)
        problems = []
        for (code, kept), count in zip(kinds, shown, strict=True):
            problems += kept[:count]
            if more := self._totals[code] - count:
                message = f"... and {more:,} more like this"
                problems.append(Problem(code, message, kept[0].reason, self.file, count=more))
        return problems


def _fair_shares(wanted: list[int], limit: int) -> list[int]:
    """How many of each kind to show so that at most `limit` are shown and a common fault never hides a rare one."""
    shares = [0] * len(wanted)
    for rank, kind in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[kind] = min(wanted[kind], (limit - sum(shares)) // (len(wanted) - rank))
    return shares
