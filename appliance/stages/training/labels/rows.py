"""The rows that `check` left, one at a time: what is in them, and the hash by which equal ones are known. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.dataset.split import content_hash


@dataclass(frozen=True, slots=True)
class Row:
    """One normalised row and its number, from 1. `content` is its JSON in one order, the same for equal rows."""

    number: int
    fields: Mapping[str, Any]
    content: bytes

    @property
    def hash(self) -> int:
        return content_hash(self.content)


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of `rows.jsonl`, in order."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield parse_row(line, number)


def parse_row(line: bytes, number: int) -> Row:
    """The row in a line of `rows.jsonl`, and which line that is."""
    fields = msgspec.json.decode(line)
    # Rows of an earlier version carry their number.
    return row_of(fields, number=fields.pop("row", number))


def row_of(fields: Mapping[str, Any], *, number: int = 0) -> Row:
    """A row with these fields; number 0 is that of no row in the dataset."""
    return Row(number, fields, msgspec.json.encode(fields, order="sorted"))
