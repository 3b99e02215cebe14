"""The verdict's arithmetic, against rows made up here."""

import random

import pytest

from appliance.job import Verdict
from appliance.stages.training.verdict import RowLoss, compare, has_forgotten, judge

# As few samples as there are, where only the verdict is asked for.
FEWER_DRAWS = 0


def rows_of(changes, *, tokens=10, base=2.0):
    """Held-out rows whose loss per token changes by `changes`."""
    return [RowLoss(n, tokens, base * tokens, (base + change) * tokens) for n, change in enumerate(changes)]


def verdict_of(changes, **kwargs):
    return judge(compare(rows_of(changes, **kwargs), draws=FEWER_DRAWS))[0]


def test_losses_are_weighted_by_tokens():
    comparison = compare([RowLoss(1, 1, 4.0, 2.0), RowLoss(2, 3, 3.0, 3.0)])

    assert comparison.base_loss == pytest.approx(7 / 4)
    assert comparison.tuned_loss == pytest.approx(5 / 4)
    assert comparison.difference == pytest.approx(-0.5)
    assert (comparison.rows, comparison.tokens) == (2, 4)


def test_a_gain_in_every_row_is_an_improvement():
    assert verdict_of([-0.5, -0.4] * 10) is Verdict.IMPROVED


def test_a_loss_in_every_row_is_no_better():
    assert verdict_of([0.5, 0.4] * 10) is Verdict.NO_BETTER


def test_a_gain_that_may_be_chance_is_unproven():
    assert verdict_of([-0.5, 0.45] * 10) is Verdict.UNPROVEN


def test_no_change_at_all_is_no_better():
    assert verdict_of([0.0] * 20) is Verdict.NO_BETTER


def test_a_change_below_half_a_percent_is_no_better_from_twenty_rows_on():
    barely = [0.1, -0.101]
    assert verdict_of(barely * 10) is Verdict.NO_BETTER
    assert verdict_of([*barely * 9, 0.0]) is Verdict.UNPROVEN


@pytest.mark.parametrize("change", [-1.0, 1.0, 0.0])
def test_fewer_than_ten_rows_prove_nothing(change):
    assert verdict_of([change] * 9) is Verdict.UNPROVEN


def test_ten_rows_can_prove_it():
    assert verdict_of([-1.0, -0.8] * 5) is Verdict.IMPROVED


def test_no_held_out_rows_prove_nothing():
    assert judge(None)[0] is Verdict.UNPROVEN


def test_the_interval_is_that_of_an_independent_bootstrap():
    rng = random.Random(1)
    rows = [
        RowLoss(n, tokens := rng.randint(5, 40), 2.0 * tokens, (2.0 + rng.gauss(-0.05, 0.2)) * tokens)
        for n in range(40)
    ]
    # Plain Python with its own generator; fewer draws, hence the tolerance.
    differences = []
    for _ in range(20_000):
        drawn = rng.choices(rows, k=len(rows))
        differences.append(sum(row.tuned - row.base for row in drawn) / sum(row.tokens for row in drawn))
    differences.sort()

    low, high = compare(rows).interval

    assert low == pytest.approx(differences[500], abs=3e-3)
    assert high == pytest.approx(differences[19_500], abs=3e-3)


def test_the_interval_does_not_hang_on_the_seed():
    rng = random.Random(2)
    rows = rows_of([rng.gauss(0, 0.1) for _ in range(30)])

    one, other = compare(rows, seed=1), compare(rows, seed=2)

    assert one.interval == pytest.approx(other.interval, abs=1e-3)


@pytest.mark.parametrize("heavy_tails", [False, True])
def test_jobs_without_a_signal_rarely_improve(heavy_tails):
    """Of 20 such jobs at most 2 may end `improved`; here it is asked of many times 20, at twenty rows each."""
    rng, jobs = random.Random(3), 300
    verdicts = [judge(compare(rows_without_signal(rng, heavy_tails), draws=FEWER_DRAWS))[0] for _ in range(jobs)]

    assert verdicts.count(Verdict.IMPROVED) <= jobs * 2 / 20


def rows_without_signal(rng, heavy_tails):
    """Twenty rows of unlike lengths whose losses change by chance, in some cases by a few large leaps."""
    spread = [rng.choice([0.02, 0.02, 0.02, 0.5]) if heavy_tails else 0.1 for _ in range(20)]
    lengths = [rng.randint(3, 60) for _ in range(20)]
    return [
        RowLoss(n, tokens, 2.0 * tokens, (2.0 + rng.gauss(0, scale)) * tokens)
        for n, (tokens, scale) in enumerate(zip(lengths, spread, strict=True))
    ]


def test_the_interval_is_as_sure_for_few_rows_that_differ_widely():
    rng = random.Random(4)
    rows = rows_of([rng.gauss(-3, 0.8) for _ in range(20)])

    assert compare(rows, seed=1).interval == pytest.approx(compare(rows, seed=2).interval, abs=1e-3)


def test_many_rows_are_compared_without_much_memory_or_time():
    rows = rows_of([0.1, -0.1] * 2_500)

    assert compare(rows, draws=FEWER_DRAWS).rows == 5_000


def test_forgetting_is_a_clear_rise_on_general_text():
    assert has_forgotten(2.0, 2.2)
    assert not has_forgotten(2.0, 2.05)
    assert not has_forgotten(2.0, 1.5)
