"""What is told to people who do not watch: codes, names and losses, never a row. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.job import Job, Outcome, outbox_name
from appliance.metric_table import Notice
from appliance.texts.board import ResultRow, result_words
from appliance.texts.wording import plural, sentence, size

CODES_NAMED: Final = 5
NAMED: Final = 5
EVENTS: Final = {
    Outcome.SUCCEEDED: Notice.FINISHED,
    Outcome.CHECKED: Notice.FINISHED,
    Outcome.FAILED: Notice.FAILED,
    Outcome.REJECTED: Notice.REJECTED,
}


@dataclass(frozen=True)
class Message:
    """One notification."""

    event: Notice
    title: str
    body: str


def of_ended_job(job: Job, row: ResultRow, codes: Sequence[str]) -> Message | None:
    """What became of a job; None for one that somebody cancelled. `codes` are those of a rejected drop's problems."""
    if job.outcome not in EVENTS:
        return None
    event = EVENTS[job.outcome]
    where = f"See {outbox_name(job.id, job.outcome)} in the outbox."
    if event is Notice.FINISHED:
        return Message(event, f"{job.id} has finished", f"{sentence(result_words(row))} {where}")
    if event is Notice.FAILED:
        return Message(event, f"{job.id} has failed", f"Class: {job.failure}. {where}")
    kinds = list(dict.fromkeys(codes))
    named = ", ".join(kinds[:CODES_NAMED]) + (", …" if len(kinds) > CODES_NAMED else "")
    problems = f"{plural(len(codes), 'problem')} ({named}). " if codes else ""
    return Message(event, f"{job.id} was rejected", f"{problems}{where}")


def of_blocked_push(job: Job) -> Message:
    where = f"Its adapter is safe in {job.id} in the outbox; its page says why it is not on the Hub."
    return Message(Notice.PUSH_BLOCKED, f"{job.id}: the push to the Hub needs a person", where)


def of_memory_guard(trips: int) -> Message:
    body = f"Memory fell below a floor ({plural(trips, 'time')}). The training is tried again with a smaller plan."
    return Message(Notice.MEMORY_GUARD, "A training was stopped to save memory", body)


def of_low_disk(volume: str, free_bytes: int) -> Message:
    body = f"{size(free_bytes)} are free. Jobs wait until there is room; nothing is lost."
    return Message(Notice.DISK_LOW, f"The disk of the {volume} folder is nearly full", body)


def gathered(messages: Sequence[Message]) -> list[Message]:
    """The same, but one message for an event that many jobs met at once."""
    told: list[Message] = []
    for event in dict.fromkeys(message.event for message in messages):
        group = [message for message in messages if message.event is event]
        told += group if len(group) <= NAMED else [_summed_up(event, group)]
    return told


def _summed_up(event: Notice, group: Sequence[Message]) -> Message:
    lines = [message.title for message in group[:NAMED]]
    return Message(event, f"{len(group)} jobs: {event}", "\n".join([*lines, f"and {len(group) - NAMED} more"]))
