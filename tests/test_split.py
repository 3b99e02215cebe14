import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataset.split import content_hash, held_out_count, split, split_off


@pytest.mark.parametrize(
    ("rows", "held_out"), [(0, 0), (1, 0), (9, 0), (10, 2), (20, 4), (50, 10), (1000, 50), (200_000, 500)]
)
def test_as_many_rows_are_held_out_as_the_contract_says(rows, held_out):
    assert held_out_count(rows, 0.05, 500) == held_out


def test_a_fraction_of_zero_or_no_allowance_turns_it_off():
    assert held_out_count(1000, 0.0, 500) == 0
    assert held_out_count(1000, 0.05, 0) == 0


def test_the_allowance_wins_over_the_twenty_rows():
    assert held_out_count(1000, 0.001, 500) == 20
    assert held_out_count(1000, 0.001, 7) == 7


def hashes_of(*contents: str) -> np.ndarray:
    return np.array([content_hash(content.encode()) for content in contents], dtype=np.uint64)


def test_the_rows_with_the_lowest_hashes_are_held_out_wherever_they_stand():
    hashes = hashes_of(*(f"row {n}" for n in range(100)))
    forward, backward = split(hashes, 20), split(hashes[::-1], 20)
    assert sorted(hashes[forward.held_out]) == sorted(hashes)[:20]
    assert (forward.held_out == backward.held_out[::-1]).all()


def test_a_copy_of_a_held_out_row_leaves_the_training_set_and_is_counted():
    contents = [f"row {n}" for n in range(50)]
    first = min(contents, key=lambda content: content_hash(content.encode()))
    result = split(hashes_of(*contents, first, first), 10)
    assert result.held_out.sum() == 10
    assert result.leaked.sum() == 2
    assert result.duplicates == 2
    assert not (result.held_out & result.leaked).any()


def test_distinct_rows_are_held_out_before_copies():
    hashes = hashes_of(*["the same"] * 30, *(f"row {n}" for n in range(30)))
    assert len(set(hashes[split(hashes, 12).held_out])) == 12


def test_all_rows_alike_still_gives_the_exact_count():
    result = split(hashes_of(*["the same"] * 20), 4)
    assert (result.held_out.sum(), result.leaked.sum(), result.duplicates) == (4, 16, 19)


def test_rows_that_stand_in_the_given_held_out_file_are_leaked():
    result = split_off(hashes_of("a", "b", "a", "c"), hashes_of("a", "x"))
    assert result.leaked.tolist() == [True, False, True, False]
    assert not result.held_out.any()
    assert result.duplicates == 1


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 60))
def test_no_content_is_ever_on_both_sides(values, count):
    hashes = np.array(values, dtype=np.uint64)
    result = split(hashes, count)
    trained = ~result.held_out & ~result.leaked
    assert result.held_out.sum() == min(count, len(values))
    assert not set(hashes[trained]) & set(hashes[result.held_out])
    assert result.duplicates == len(values) - len(set(values))


def test_two_hundred_thousand_rows_take_no_time():
    hashes = np.random.default_rng(0).integers(0, 2**63, 200_000, dtype=np.uint64)
    assert split(hashes, held_out_count(len(hashes), 0.05, 500)).held_out.sum() == 500
