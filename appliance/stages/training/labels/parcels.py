"""A batch of labelled rows as it travels between processes: all tokens in one piece, for pickling arrays is slow."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.stages.training.labels.examples import Example, Failure


@dataclass(frozen=True, slots=True)
class Parcel:
    """`facts` has an entry an outcome, in order: a Failure, or what is no token in an Example, its length first."""

    ids: bytes
    labels: bytes
    facts: list[Failure | tuple[int, ...]]


def wrap(outcomes: Iterable[Example | Failure]) -> Parcel:
    ids, labels, facts = array("i"), array("i"), list[Failure | tuple[int, ...]]()
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            facts.append(outcome)
            continue
        ids += outcome.ids
        labels += outcome.labels
        facts.append((len(outcome.ids), outcome.row, outcome.hash, *_counts(outcome)))
    return Parcel(ids.tobytes(), labels.tobytes(), facts)


def unwrap(parcel: Parcel) -> Iterator[Example | Failure]:
    ids, labels = array("i", parcel.ids), array("i", parcel.labels)
    end = 0
    for facts in parcel.facts:
        if isinstance(facts, Failure):
            yield facts
            continue
        length, row, content_hash, trained, until, answer_tokens, control_tokens, thoughts = facts
        start, end = end, end + length
        yield Example(
            row,
            content_hash,
            ids[start:end],
            labels[start:end],
            trained,
            until,
            answer_tokens,
            control_tokens,
            bool(thoughts),
        )


def _counts(example: Example) -> tuple[int, ...]:
    return (
        example.trained,
        example.trained_until,
        example.answer_tokens,
        example.control_tokens,
        example.thoughts_left_out,
    )
