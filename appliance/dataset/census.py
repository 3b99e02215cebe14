"""What is worth knowing about the rows of one file, counted as they go by: none of it rejects the file. Pure.

Memory stays bounded: a count for each kind, one entry for each order of speakers, eight bytes for each row.
"""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from appliance.errors import Problem, Reason

# An answer of so few characters is most likely a slip, or a label that wants a word of explanation in the prompt.
SHORT_ANSWER: Final = 3
# Above that, copies are no longer looked for: 80 MB of hashes.
_MOST_HASHES: Final = 10_000_000
# A set takes eight times the memory of what it holds.
_HASHES_IN_A_SET: Final = 500_000
_EXTRA_COLUMNS_NAMED: Final = 20

Roles = tuple[str, ...]


@dataclass
class Tally:
    """How many rows have something worth a warning, and where the first of them stands."""

    rows: int = 0
    first_line: int | None = None

    def count(self, line: int, rows: int = 1) -> None:
        self.rows += rows
        if self.first_line is None:
            self.first_line = line


@dataclass
class Census:
    """Counts of one file, or of a part of it whose lines are counted from its own beginning."""

    rows: int = 0
    orders: dict[Roles, Tally] = field(default_factory=dict)
    """The orders of speakers, in order of their first row."""
    short_answers: Tally = field(default_factory=Tally)
    empty_prompts: Tally = field(default_factory=Tally)
    extra: set[str] = field(default_factory=set)
    hashes: "array[int]" = field(default_factory=lambda: array("q"))

    def note_conversation(self, line: int, roles: Roles, texts: list[str]) -> None:
        """Count one conversation. `texts` are the contents of its messages."""
        order = self.orders.get(roles)
        if order is None:
            order = self.orders[roles] = Tally()
        order.count(line)
        if len(texts[-1]) <= SHORT_ANSWER:
            self.note_short_answer(line, roles)

    def note_short_answer(self, line: int, roles: Roles) -> None:
        """The last text is as short as that: count the row, if it is an answer."""
        if roles[-1] == "assistant":
            self.short_answers.count(line)

    def note_hash(self, value: int) -> None:
        """Remember a row by a hash of its content, to find copies of it."""
        if len(self.hashes) < _MOST_HASHES:
            self.hashes.append(value)

    def note_extra(self, columns: Iterable[str]) -> None:
        if len(self.extra) <= _EXTRA_COLUMNS_NAMED:
            self.extra.update(columns)

    def absorb(self, part: "Census", *, lines_before: int) -> None:
        """Add the counts of the next part of the file."""
        self.rows += part.rows
        for roles, tally in part.orders.items():
            _add(self.orders.setdefault(roles, Tally()), tally, lines_before)
        _add(self.short_answers, part.short_answers, lines_before)
        _add(self.empty_prompts, part.empty_prompts, lines_before)
        self.note_extra(part.extra)
        self.hashes.extend(part.hashes[: _MOST_HASHES - len(self.hashes)])

    def notes(self) -> list[str]:
        """Good to know: what is left out."""
        if not self.extra:
            return []
        named = sorted(self.extra)[:_EXTRA_COLUMNS_NAMED]
        more = " and more" if len(self.extra) > len(named) else ""
        return [f"these columns are kept out of training: {', '.join(named)}{more}"]

    def warnings(self, file: str) -> list[Problem]:
        """What is most likely a mistake, with the number of rows and the line of the first."""
        without_system = self._orders_where(lambda roles: roles[0] != "system")
        warned = [
            ("unanswered_turn", self._orders_where(lambda roles: roles[-1] != "assistant"),
             "end without an answer; what stands behind the last answer is read but not trained"),
            ("empty_prompt", self.empty_prompts, "begin with an empty text; write the question, or leave them out"),
            ("mixed_system_prompts", Tally() if without_system.rows == self.rows else without_system,
             "have no system prompt, the others have one; serve the adapter as most of your rows are"),
            # Where most answers are as short as that, they are labels and meant to be.
            ("short_answers", self.short_answers if 2 * self.short_answers.rows <= self.rows else Tally(),
             f"have an answer of at most {SHORT_ANSWER} characters, the others longer ones; look whether it is whole"),
            ("duplicate_rows", Tally(self.copies()),
             "are exact copies of others; leave out what should not count twice"),
        ]  # fmt: skip
        return [
            Problem(code, f"{tally.rows:,} of {self.rows:,} rows {what}", Reason.OTHER, file, tally.first_line,
                    count=tally.rows)
            for code, tally, what in warned if tally.rows
        ]  # fmt: skip

    def copies(self) -> int:
        """How many rows are exact copies of an earlier one."""
        if len(self.hashes) <= _HASHES_IN_A_SET:
            return len(self.hashes) - len(set(self.hashes))
        # It takes NumPy, which no small file should wait for.
        import numpy as np

        # In place, since a second copy is as large: their order means nothing.
        hashes = np.frombuffer(self.hashes, np.int64)
        hashes.sort()
        return int(np.count_nonzero(hashes[1:] == hashes[:-1]))

    def _orders_where(self, condition: Callable[[Roles], bool]) -> Tally:
        found = Tally()
        for roles, tally in self.orders.items():
            if condition(roles) and tally.first_line is not None:
                first = min(tally.first_line, found.first_line or tally.first_line)
                found = Tally(found.rows + tally.rows, first)
        return found


def _add(whole: Tally, part: Tally, lines_before: int) -> None:
    if part.first_line is not None:
        whole.count(part.first_line + lines_before, part.rows)
