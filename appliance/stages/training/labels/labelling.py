"""Rows to token ids and labels: only the assistant's words and the tokens that end its turns are trained.

A row is first drafted (rendered, its turns found), then tokenised together with others, then labelled. Drafting takes
Python's time and tokenising Rust's, so the two go on side by side.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Protocol

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from appliance.stages.training.labels.control_tokens import ControlTokens
from appliance.stages.training.labels.rows import Row

NOT_TRAINED: Final = -100
BATCH_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as text. `turns` are the characters to train; in a `swapped` text control tokens changed places."""

    row: Row
    text: str
    turns: tuple[tuple[int, int], ...] = ()
    swapped: bool = False
    control_tokens: int = 0
    thoughts_left_out: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A row, or a piece of one, as the model sees it.

    `trained` tokens have a label, the last of them just before `trained_until`; `answer_tokens` is the length of the
    last trained turn.
    """

    row: int
    hash: int
    ids: "array[int]"
    labels: "array[int]"
    trained: int
    trained_until: int
    answer_tokens: int = 0
    control_tokens: int = 0
    thoughts_left_out: bool = False

    def cut(self, length: int) -> "Example":
        """Its first `length` tokens."""
        labels = self.labels[:length]
        trained = length - labels.count(NOT_TRAINED)
        return replace(self, ids=self.ids[:length], labels=labels, trained=trained, trained_until=length)


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that cannot be labelled; `code` is the problem's."""

    row: int
    code: str
    why: str


class Labeller(Protocol):
    """How rows of one type become examples."""

    def draft(self, row: Row) -> Draft | Failure: ...

    def examples(self, draft: Draft, encoding: Encoding) -> Iterable[Example | Failure]: ...


def label(
    rows: Iterable[Row], labeller: Labeller, control: ControlTokens, backend: Backend
) -> Iterator[Example | Failure]:
    """Label rows in order. While one batch is tokenised, on every core, the next one is drafted."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead: tuple[list[Draft | Failure], Future[list[Encoding]]] | None = None
        for batch in _batches(rows):
            drafts = [labeller.draft(row) for row in batch]
            encodings = thread.submit(encode, [d for d in drafts if isinstance(d, Draft)], control, backend)
            if ahead:
                yield from _labelled(labeller, ahead[0], ahead[1].result())
            ahead = drafts, encodings
        if ahead:
            yield from _labelled(labeller, ahead[0], ahead[1].result())


def encode(drafts: Sequence[Draft], control: ControlTokens, backend: Backend) -> list[Encoding]:
    """Tokenise texts as they stand: the template has put in every special token there is to be."""
    plain = iter(backend.encode_batch([draft.text for draft in drafts if not draft.swapped], add_special_tokens=False))
    texts = [draft.text for draft in drafts if draft.swapped]
    swapped = iter(control.swapped_backend().encode_batch(texts, add_special_tokens=False) if texts else ())
    return [next(swapped) if draft.swapped else next(plain) for draft in drafts]


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


def _labelled(
    labeller: Labeller, drafts: Sequence[Draft | Failure], encodings: Sequence[Encoding]
) -> Iterator[Example | Failure]:
    remaining = iter(encodings)
    for draft in drafts:
        if isinstance(draft, Failure):
            yield draft
        else:
            yield from labeller.examples(draft, next(remaining))
