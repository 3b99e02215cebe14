"""Which rows are held out: decided by content alone, so that the same rows are held out on every machine and day.

Works on eight bytes a row, never on rows. Numbers are exact: `held_out_count` is the contract's formula.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Mask = NDArray[np.bool_]
FEWEST_ROWS = 10


@dataclass(frozen=True)
class Split:
    """What becomes of each row. A row is trained on, held out, or (when `leaked`) neither."""

    held_out: Mask
    leaked: Mask
    duplicates: int


def content_hash(content: bytes) -> int:
    """Eight bytes that stand for a row's content."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def held_out_count(rows: int, fraction: float, at_most: int) -> int:
    """How many of `rows` are held out. None of fewer than ten; a fraction of 0 turns it off."""
    if fraction == 0 or rows < FEWEST_ROWS:
        return 0
    at_least = min(20, rows * 2 // 10)
    return min(max(round(fraction * rows), at_least), at_most)


def split(hashes: Hashes, count: int) -> Split:
    """Hold out the first `count` rows by content hash, distinct contents first.

    Copies of a held-out row that are left in the training set are `leaked`.
    """
    order, nth_copy = _copies(hashes)
    # First every content once, in the order of its hash; second copies only when there is nothing else.
    chosen = order[np.argsort(nth_copy, kind="stable")[:count]]
    held_out = np.zeros(len(hashes), dtype=bool)
    held_out[chosen] = True
    leaked = np.isin(hashes, hashes[chosen]) & ~held_out
    return Split(held_out, leaked, duplicates=int(np.count_nonzero(nth_copy)))


def split_off(hashes: Hashes, given: Hashes) -> Split:
    """The split of a dataset whose held-out rows were given as a file: rows that stand in both are leaked."""
    _, nth_copy = _copies(hashes)
    return Split(
        held_out=np.zeros(len(hashes), dtype=bool),
        leaked=np.isin(hashes, given),
        duplicates=int(np.count_nonzero(nth_copy)),
    )


def _copies(hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows in order of their hash, and for each of them how many equal ones came before it."""
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    position = np.arange(len(hashes))
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[1:] = in_order[1:] != in_order[:-1]
    first_of_group = np.maximum.accumulate(np.where(is_first, position, 0))
    return order, position - first_of_group
