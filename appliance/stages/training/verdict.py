"""Whether an adapter is better than its base on the held-out rows, and how sure that is. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.job import Verdict

FEWEST_ROWS = 10
ROWS_FOR_A_TIE = 20
TIE = 0.005
# Rows to draw in all. As many samples as that gives, so that another generator's draws reproduce the interval of a few
# rows, which is the widest, to three decimals; a second's work at most for the usual number of rows.
DRAWS = 40_000_000
FEWEST_SAMPLES, MOST_SAMPLES = 10_000, 2_000_000
_DRAWS_AT_ONCE = 100_000

FORGETTING = 0.1


@dataclass(frozen=True)
class RowLoss:
    """The loss of one held-out row, summed over its trained tokens, with the adapter off and on."""

    row: int
    tokens: int
    base: float
    tuned: float


@dataclass(frozen=True)
class Comparison:
    """Mean losses per trained token; `interval` holds the difference (tuned minus base) with 95 % confidence."""

    base_loss: float
    tuned_loss: float
    difference: float
    interval: tuple[float, float]
    rows: int
    tokens: int


def compare(rows: Sequence[RowLoss], *, seed: int = 0, draws: int = DRAWS) -> Comparison:
    """The losses over all rows and the paired bootstrap of their difference, drawn over rows."""
    tokens = np.array([row.tokens for row in rows], dtype=np.float64)
    base = np.array([row.base for row in rows])
    tuned = np.array([row.tuned for row in rows])
    total = tokens.sum()
    low, high = np.quantile(_resampled_differences(tuned - base, tokens, seed, draws), (0.025, 0.975))
    return Comparison(
        base_loss=float(base.sum() / total),
        tuned_loss=float(tuned.sum() / total),
        difference=float((tuned - base).sum() / total),
        interval=(float(low), float(high)),
        rows=len(rows),
        tokens=int(total),
    )


def _resampled_differences(
    gains: NDArray[np.float64], tokens: NDArray[np.float64], seed: int, draws: int
) -> NDArray[np.float64]:
    """The difference per token in samples of the rows drawn with replacement, a few at a time to stay small."""
    rows, chance = len(gains), np.random.default_rng(seed)
    differences = np.empty(min(max(draws // rows, FEWEST_SAMPLES), MOST_SAMPLES))
    for part in np.array_split(differences, math.ceil(len(differences) * rows / _DRAWS_AT_ONCE)):
        drawn = chance.integers(0, rows, size=(len(part), rows))
        part[:] = gains[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    return differences


def judge(comparison: Comparison | None) -> tuple[Verdict, str]:
    """The verdict on an adapter that works, with its reason in one sentence. None: there are no held-out rows."""
    if comparison is None:
        return Verdict.UNPROVEN, "there were no held-out rows to compare on"
    low, high = comparison.interval
    span = f"{comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"
    if comparison.rows < FEWEST_ROWS:
        return Verdict.UNPROVEN, f"{comparison.rows} held-out rows are too few to tell; the loss changed by {span}"
    if high < 0:
        return Verdict.IMPROVED, f"the loss on {comparison.rows} held-out rows changed by {span}"
    if low > 0:
        return Verdict.NO_BETTER, f"the loss on {comparison.rows} held-out rows rose by {span}"
    if comparison.rows >= ROWS_FOR_A_TIE and abs(comparison.difference) < TIE * comparison.base_loss:
        return Verdict.NO_BETTER, f"the loss on {comparison.rows} held-out rows hardly changed: {span}"
    return Verdict.UNPROVEN, f"the loss on {comparison.rows} held-out rows changed by {span}, which may be chance"


def has_forgotten(base_loss: float, tuned_loss: float) -> bool:
    """Whether the loss on text that has nothing to do with the dataset rose clearly: by a tenth of a nat or more."""
    return tuned_loss - base_loss >= FORGETTING
