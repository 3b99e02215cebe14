"""A row of the dataset once it is labelled: what the model reads, and which of it is trained. Pure."""

from array import array
from dataclasses import dataclass, replace
from typing import Final

NOT_TRAINED: Final = -100


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
