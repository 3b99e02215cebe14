"""What stops a job before training: labels that would train the wrong thing, each with a message of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from appliance.errors import Problem, Reason
from appliance.stages.training.labels.examples import Failure
from appliance.stages.training.labels.sieve import Counts

_FAILURES: Final = {
    "chat_template_refuses": "the base model's chat template does not take {rows}: it says {why!r}",
    "labels_unproven": "what the assistant wrote cannot be told from the rest in {rows}: {why}",
    "control_tokens": "control tokens of the base model, written out in {rows}, cannot be made plain text: {why}",
    "two_bos": "{rows} would begin more than once: the chat template gives {why}",
}
_FAILURE_EXPECTED: Final = {
    "chat_template_refuses": "roles in the order that the template wants, or another base model or chat_template",
    "labels_unproven": "conversations that the chat template renders whole, or train_on: everything",
    "control_tokens": "rows without these tokens",
    "two_bos": "a chat template that begins a conversation once, such as chat_template: chatml",
}


@dataclass(frozen=True)
class Labelled:
    """One file of rows, as it came out."""

    name: str
    counts: Counts
    cap: int
    policy: str
    masked: bool


def blocking_problems(labelled: Labelled) -> Iterator[Problem]:
    """Everything about a labelled dataset that must not be trained on."""
    counts = labelled.counts
    for code, failure in counts.first_failure.items():
        yield _failed(labelled, code, failure, counts.failures[code])
    if too_many_over_long(labelled):
        yield _over_long(labelled)
    elif not counts.failures:
        yield from _unbalanced(labelled)


def warnings(name: str, counts: Counts) -> Iterator[Problem]:
    """What happened to rows that nobody asked for, and that training can live with."""
    if counts.control_tokens:
        yield Problem(
            code="control_tokens_as_text",
            message=f"{counts.rows_with_control_tokens} rows, the first of them row {counts.first_with_control_tokens}"
            f", spell out control tokens of the base model, {counts.control_tokens} in all, read as plain text",
            reason=Reason.LABELS,
            file=name,
            line=_line(name, counts.first_with_control_tokens),
            count=counts.rows_with_control_tokens,
        )
    if counts.thoughts_left_out:
        yield Problem(
            code="thoughts_left_out",
            message=f"the chat template leaves out the thoughts of the last answer in {counts.thoughts_left_out} rows",
            reason=Reason.LABELS,
            file=name,
            count=counts.thoughts_left_out,
        )


def no_stop_token() -> Problem:
    """The template ends turns with nothing that generation could stop at."""
    return Problem(
        code="stop_untrained",
        message="the base model's chat template ends no turn with a token that generation stops at, "
        "so the model would learn to talk on for ever",
        reason=Reason.LABELS,
        key="chat_template",
        expected="another chat_template, such as chatml",
    )


def too_many_over_long(labelled: Labelled) -> bool:
    match labelled.policy:
        case "reject":
            return labelled.counts.over_long > 0
        case "reject_over_5_percent":
            return not labelled.counts.tolerated
    return False


def _unbalanced(labelled: Labelled) -> Iterator[Problem]:
    """Nothing trained, nothing masked, or no stop token among what is trained."""
    counts = labelled.counts
    line = _line(labelled.name, counts.first_row)
    if not counts.lengths:
        yield Problem(
            code="nothing_trained",
            message=f"no row has anything to train on, from row {counts.first_row} on: "
            "every assistant turn is missing, has weight 0 or was cut off",
            reason=Reason.LABELS,
            file=labelled.name,
            line=line,
            expected="rows with at least one assistant turn that is trained",
        )
    elif labelled.masked and list(counts.lengths) == list(counts.trained):
        yield Problem(
            code="nothing_masked",
            message=f"every token of every conversation would be trained, from row {counts.first_row} on, "
            "the questions too: the chat template does not keep questions and answers apart",
            reason=Reason.LABELS,
            file=labelled.name,
            line=line,
            expected="conversations with questions, or train_on: everything if that is meant",
        )
    if counts.lengths and not counts.stops_trained:
        yield Problem(
            code="stop_untrained",
            message="the token that ends an answer is never trained, so the model would not learn to stop: "
            f"every answer, from row {counts.first_row} on, was cut at max_seq_length {labelled.cap}",
            reason=Reason.LABELS,
            file=labelled.name,
            line=line,
            key="max_seq_length",
            expected="a larger max_seq_length",
        )


def _failed(labelled: Labelled, code: str, failure: Failure, count: int) -> Problem:
    rows = f"row {failure.row}" + (f" and {count - 1} more" if count > 1 else "")
    return Problem(
        code=code,
        message=_FAILURES[code].format(rows=rows, why=failure.why),
        reason=Reason.LABELS,
        file=labelled.name,
        line=_line(labelled.name, failure.row),
        found=failure.why,
        expected=_FAILURE_EXPECTED[code],
        count=count,
    )


def _over_long(labelled: Labelled) -> Problem:
    counts = labelled.counts
    return Problem(
        code="over_long",
        message=f"{counts.over_long} of {counts.rows} rows ({counts.over_long / counts.rows:.0%}) have an answer that "
        f"does not fit into max_seq_length {labelled.cap}, the first of them row {counts.first_over_long}; the longest "
        f"has {counts.longest_over_long} tokens. Raise max_seq_length, or set long_examples to truncate (cut them) "
        "or drop (leave them out)",
        reason=Reason.LABELS,
        file=labelled.name,
        line=_line(labelled.name, counts.first_over_long),
        key="long_examples",
        found=f"{counts.longest_over_long} tokens",
        expected=f"at most {labelled.cap} tokens",
        count=counts.over_long,
    )


def _line(name: str, row: int | None) -> int | None:
    """The line of a row, for editors to jump to, in files that have one row a line."""
    return row if name.lower().endswith((".jsonl", ".jsonl.gz")) else None
