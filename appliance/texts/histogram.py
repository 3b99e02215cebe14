"""How long the rows of a dataset are, as columns to draw and in words. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from appliance.texts.wording import plural

# The height of the tallest column in the drawing, and of the shortest that has a row.
TALLEST: Final = 100.0
SHORTEST: Final = 1.5


@dataclass(frozen=True)
class Column:
    """One column: how high it is drawn, and what it stands for."""

    height: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """`ticks` are the lengths at the two ends of the axis."""

    columns: tuple[Column, ...]
    ticks: tuple[str, str]
    summary: str


def row_lengths(labels: Mapping[str, Any]) -> Histogram | None:
    """The histogram of `labels.json`; None where there is nothing to compare."""
    bins = labels.get("histogram", [])
    if len(bins) < 2:
        return None
    most = max(entry["rows"] for entry in bins)
    columns = tuple(Column(_height(entry["rows"], most), _label(entry)) for entry in bins)
    ticks = (f"{bins[0]['from']:,}", f"{bins[-1]['to']:,}")
    return Histogram(columns, ticks, _summary(bins, most))


def _height(rows: int, most: int) -> float:
    return round(max(TALLEST * rows / most, SHORTEST), 2) if rows else 0.0


def _label(entry: Mapping[str, int]) -> str:
    return f"{entry['from']:,} to {entry['to']:,} tokens: {plural(entry['rows'], 'row')}"


def _summary(bins: Any, most: int) -> str:  # noqa: ANN401 - a list as JSON has it
    tallest = next(entry for entry in bins if entry["rows"] == most)
    words = f"Tokens in a row. The tallest column: {plural(most, 'row')} of {tallest['from']:,} to {tallest['to']:,}."
    tail, before = bins[-1], bins[-2]
    if tail["to"] - tail["from"] > before["to"] - before["from"]:
        words += f" The last column takes all from {tail['from']:,} on."
    return words
