"""Rows to token ids and labels: only the assistant's words and the tokens that end its turns are trained.

A row is first drafted (rendered, its turns found), then tokenised together with others, then labelled. A dataset of
some size is labelled on every core.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, Protocol

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from appliance.stages.training.labels.control_tokens import ControlTokens
from appliance.stages.training.labels.examples import Example, Failure
from appliance.stages.training.labels.parcels import Parcel, unwrap, wrap
from appliance.stages.training.labels.rows import Row, parse_row
from appliance.workers import spread

BATCH_ROWS: Final = 256
# So few are done before other processes have begun.
FEW_BATCHES: Final = 4
# Beyond that, one process cannot read and write as fast as the others label.
MOST_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as text. `turns` are the characters to train; in a `swapped` text control tokens changed places."""

    row: Row
    text: str
    turns: tuple[tuple[int, int], ...] = ()
    swapped: bool = False
    control_tokens: int = 0
    thoughts_left_out: bool = False


# The number of its first row, and the lines.
_Batch = tuple[int, list[bytes]]


class Labeller(Protocol):
    """How rows of one type become examples."""

    def draft(self, row: Row) -> Draft | Failure: ...

    def examples(self, draft: Draft, encoding: Encoding) -> Iterable[Example | Failure]: ...


def label(
    lines: Iterable[bytes], labeller: Labeller, control: ControlTokens, backend: Backend
) -> Iterator[Example | Failure]:
    """Label the rows of these lines (as in `rows.jsonl`) in order, a batch at a time."""

    def label_batch(batch: _Batch) -> Parcel:
        first_number, rows = batch
        drafts = [labeller.draft(parse_row(line, number)) for number, line in enumerate(rows, start=first_number)]
        encodings = encode([draft for draft in drafts if isinstance(draft, Draft)], control, backend)
        return wrap(_labelled(labeller, drafts, encodings))

    batches, cores = _batches(lines), min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    first = list(islice(batches, FEW_BATCHES + 1))
    alone = cores == 1 or len(first) <= FEW_BATCHES
    everything = chain(first, batches)
    for parcel in map(label_batch, everything) if alone else spread(label_batch, everything, cores):
        yield from unwrap(parcel)


def encode(drafts: Sequence[Draft], control: ControlTokens, backend: Backend) -> list[Encoding]:
    """Tokenise texts as they stand: the template has put in every special token there is to be."""
    plain = iter(backend.encode_batch([draft.text for draft in drafts if not draft.swapped], add_special_tokens=False))
    texts = [draft.text for draft in drafts if draft.swapped]
    swapped = iter(control.swapped_backend().encode_batch(texts, add_special_tokens=False) if texts else ())
    return [next(swapped) if draft.swapped else next(plain) for draft in drafts]


def _batches(lines: Iterable[bytes]) -> Iterator[_Batch]:
    iterator, first_number = iter(lines), 1
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield first_number, batch
        first_number += len(batch)


def _labelled(
    labeller: Labeller, drafts: Sequence[Draft | Failure], encodings: Sequence[Encoding]
) -> Iterator[Example | Failure]:
    remaining = iter(encodings)
    for draft in drafts:
        if isinstance(draft, Failure):
            yield draft
        else:
            yield from labeller.examples(draft, next(remaining))
