"""Which examples are kept, and what is counted about them."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from appliance.recipe import LongExamples
from appliance.stages.training.labels.examples import Example, Failure

OVER_LONG: Final = "over_long"
NOTHING_TRAINED: Final = "nothing_trained"
TOLERATED_SHARE: Final = 0.05


@dataclass
class Counts:
    """Everything that is counted while examples pass by. The arrays have one entry a kept example, in order."""

    rows: int = 0
    first_row: int | None = None
    over_long: int = 0
    first_over_long: int | None = None
    longest_over_long: int = 0
    truncated: int = 0
    control_tokens: int = 0
    rows_with_control_tokens: int = 0
    first_with_control_tokens: int | None = None
    thoughts_left_out: int = 0
    stops_trained: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    first_failure: dict[str, Failure] = field(default_factory=dict)
    row_numbers: "array[int]" = field(default_factory=lambda: array("q"))
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    trained: "array[int]" = field(default_factory=lambda: array("i"))
    answers: "array[int]" = field(default_factory=lambda: array("i"))

    @property
    def tolerated(self) -> bool:
        """Whether so few rows are over-long that they may be dropped."""
        return self.over_long <= TOLERATED_SHARE * self.rows


class Sieve:
    """Keeps examples that fit and have something to train; cuts or drops the others, as the recipe says."""

    def __init__(self, cap: int, policy: LongExamples, stop_ids: frozenset[int]) -> None:
        self.cap = cap
        self.policy = policy
        self.stop_ids = stop_ids
        self.counts = Counts()
        self._row: int | None = None

    def sift(self, example: Example | Failure) -> Example | None:
        """The example as it is kept, if it is."""
        if example.row != self._row:
            self._row = example.row
            self.counts.rows += 1
            self.counts.first_row = self.counts.first_row or example.row
        if isinstance(example, Failure):
            self.counts.failures[example.code] += 1
            self.counts.first_failure.setdefault(example.code, example)
            return None
        self._count_control_tokens(example)
        kept = self._fit(example) if len(example.ids) > self.cap else example
        if kept and not kept.trained:
            self.counts.dropped[NOTHING_TRAINED] += 1
            return None
        if kept:
            self._count_kept(kept)
        return kept

    def _fit(self, example: Example) -> Example | None:
        """An example with more tokens than the cap: cut where that loses no trained token, or where it is allowed."""
        if example.trained_until > self.cap:
            self._count_over_long(example)
            if self.policy != "truncate":
                self.counts.dropped[OVER_LONG] += 1
                return None
        shorter = example.cut(self.cap)
        self.counts.truncated += bool(shorter.trained)
        return shorter

    def _count_over_long(self, example: Example) -> None:
        counts = self.counts
        counts.over_long += 1
        counts.first_over_long = counts.first_over_long or example.row
        counts.longest_over_long = max(counts.longest_over_long, len(example.ids))

    def _count_control_tokens(self, example: Example) -> None:
        counts = self.counts
        if example.control_tokens:
            counts.control_tokens += example.control_tokens
            counts.rows_with_control_tokens += 1
            counts.first_with_control_tokens = counts.first_with_control_tokens or example.row

    def _count_kept(self, example: Example) -> None:
        counts = self.counts
        counts.thoughts_left_out += example.thoughts_left_out
        counts.stops_trained = counts.stops_trained or any(stop in example.labels for stop in self.stop_ids)
        counts.row_numbers.append(example.row)
        counts.hashes.append(example.hash)
        counts.lengths.append(len(example.ids))
        counts.trained.append(example.trained)
        if example.answer_tokens:
            counts.answers.append(example.answer_tokens)


def percentile(values: NDArray[np.int32], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed; 0 for none."""
    return int(np.percentile(values, share, method="inverted_cdf")) if len(values) else 0
