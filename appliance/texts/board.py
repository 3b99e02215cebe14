"""The board, `STATUS.md` and `STATUS.html`: what is worked on, what waits and why, what came of the rest. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final

from appliance.job import JobState, Outcome, Push, Stage, Verdict, Waiting, outbox_name
from appliance.settling import DropState
from appliance.texts import markdown as md
from appliance.texts.pages import render
from appliance.texts.wording import STAGES, VERDICTS, clip, duration, loss, moment, rate, sentence

REFRESH_SECONDS: Final = 5
LONGEST_GIST: Final = 200
# True as long as status_files.AT_LEAST_EVERY_SECONDS is a minute.
STALE: Final = "If that is more than two minutes ago, the appliance is not running."

WAITS: Final = {
    Waiting.NONE: "waits for its turn",
    Waiting.PAUSED: "waits because the queue is paused",
    Waiting.WINDOW: "waits for the hours in which training is allowed",
    Waiting.MEMORY: "waits for memory",
    Waiting.DISK: "waits for the disk",
    Waiting.NETWORK: "waits for the network",
    Waiting.GPU: "waits for the GPU",
    Waiting.APPROVAL: "waits for somebody's approval",
}


# What came of a dry run, and what one is until then.
CHECKED: Final = "checked: it can be trained on"
ONLY_CHECKED: Final = "only checked, not trained"

PUSHES: Final = {
    Push.PENDING: "it waits to be pushed to the Hub",
    Push.PUSHED: "it is on the Hub",
    Push.WITHHELD: "it is kept from the Hub until somebody pushes it",
    Push.BLOCKED: "its push to the Hub needs a person",
}


@dataclass(frozen=True)
class RunningRow:
    """A job that one of its stages works on. `fraction` is 0 to 1."""

    id: str
    stage: Stage
    base_model: str | None
    since: float
    fraction: float | None = None
    how_far: str = ""
    tokens_per_second: float | None = None
    loss: float | None = None
    seconds_left: float | None = None
    eval_loss: float | None = None
    people: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueuedRow:
    """A job between two stages."""

    id: str
    since: float
    waiting: Waiting
    detail: str = ""
    made_ready: bool = False
    ended: bool = False
    """What comes of it is known, and only has to be put into the outbox."""
    dry_run: bool = False
    people: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultRow:
    """A job that has ended."""

    id: str
    state: JobState
    outcome: Outcome
    finished: float
    verdict: Verdict | None = None
    base_loss: float | None = None
    tuned_loss: float | None = None
    message: str = ""
    kept_until: float | None = None
    push: Push = Push.OFF
    people: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return outbox_name(self.id, self.outcome)

    @property
    def page(self) -> str:
        """What to open first, relative to the outbox."""
        has_report = self.outcome in (Outcome.SUCCEEDED, Outcome.CHECKED)
        return f"{self.folder}/{'report.html' if has_report else 'WHY.html'}"


@dataclass(frozen=True)
class InboxRow:
    """A drop that lies in the inbox, and what it waits for."""

    name: str
    state: DropState
    why: str


@dataclass(frozen=True)
class Board:
    """Everything the board shows. Times are Unix seconds; without a `zone` they are shown in the machine's own."""

    updated: float
    running: tuple[RunningRow, ...] = ()
    queued: tuple[QueuedRow, ...] = ()
    results: tuple[ResultRow, ...] = ()
    inbox: tuple[InboxRow, ...] = ()
    troubles: tuple[str, ...] = ()
    paused: bool = False
    zone: tzinfo | None = None


def status_markdown(board: Board) -> str:
    """The text of `STATUS.md`."""
    parts = ["# Status", "", f"As of {moment(board.updated, board.zone)}. {STALE}", ""]
    parts += [f"**{md.plain(sentence(trouble))}**\n" for trouble in all_troubles(board)]
    for heading, lines in (
        ("Now", [_running_line(row) for row in board.running] or ["Nothing is being worked on."]),
        ("Waiting", [_queued_line(row) for row in board.queued]),
        ("In the inbox", [_inbox_line(row) for row in board.inbox]),
        ("Results", [_result_line(row, board.zone) for row in board.results]),
    ):
        if lines:
            parts += [f"## {heading}", "", *(f"- {line}" for line in lines), ""]
    return "\n".join(parts)


def status_html(board: Board) -> str:
    """`STATUS.html`: the same, refreshing itself."""
    return render("status.html.j2", board_context(board) | {"refresh": REFRESH_SECONDS, "stale": STALE})


def board_context(board: Board) -> dict[str, Any]:
    """What every template of a board is made from."""
    return {
        "board": board,
        "troubles": list(all_troubles(board)),
        "facts": facts,
        "why_waiting": why_waiting,
        "result_words": result_words,
        "stages": STAGES,
    }


def all_troubles(board: Board) -> Iterator[str]:
    """What a person should know before anything else."""
    if board.paused:
        yield "the queue is paused: no new training starts until somebody resumes it"
    yield from board.troubles


def facts(row: RunningRow) -> list[str]:
    """How a running job does, in a few phrases."""
    words = [row.how_far] if row.how_far else []
    if row.tokens_per_second is not None:
        words.append(f"{rate(row.tokens_per_second)} tokens/s")
    if row.loss is not None:
        words.append(f"loss {loss(row.loss)}")
    if row.eval_loss is not None:
        words.append(f"held-out loss {loss(row.eval_loss)}")
    if row.seconds_left is not None:
        words.append(f"about {duration(row.seconds_left)} left")
    return [*words, *(["dropped by " + " and ".join(row.people)] if row.people else [])]


def why_waiting(row: QueuedRow) -> str:
    """Why a queued job waits, as a phrase."""
    waits, ready = WAITS[row.waiting], ""
    if row.waiting is Waiting.NONE and row.ended:
        waits = "waits to be put into the outbox"
    elif row.waiting is Waiting.NONE and row.made_ready:
        ready = " and is ready to train"
    detail = f": {row.detail}" if row.detail else ""
    checked = f"; it is {ONLY_CHECKED}" if row.dry_run else ""
    return waits + ready + detail + checked + _by(row.people)


def result_words(row: ResultRow) -> str:
    """What came of a job, and whose it is, as a phrase."""
    return _came_of(row) + _by(row.people)


def _by(people: tuple[str, ...]) -> str:
    return f" (dropped by {' and '.join(people)})" if people else ""


def _came_of(row: ResultRow) -> str:
    if row.outcome is Outcome.CHECKED:
        return CHECKED
    if row.verdict is None or row.outcome is not Outcome.SUCCEEDED:
        return str(row.state) if row.outcome is Outcome.CANCELLED or not row.message else f"{row.state}: {_gist(row)}"
    losses = ""
    if row.base_loss is not None and row.tuned_loss is not None:
        losses = f" (loss {loss(row.base_loss)} → {loss(row.tuned_loss)})"
    pushed = f"; {PUSHES[row.push]}" if row.push in PUSHES else ""
    return VERDICTS[row.verdict] + losses + pushed


def _gist(row: ResultRow) -> str:
    """The first line of what a stage said; the result's own page has the rest."""
    first, *others = row.message.splitlines()
    more = f" (and {len(others):,} more)" if others else ""
    return clip(first, LONGEST_GIST) + more


def _running_line(row: RunningRow) -> str:
    model = f" (base model {md.code(row.base_model)})" if row.base_model else ""
    return f"**{row.id}** is {STAGES[row.stage]}{model}. {md.plain(sentence(', '.join(facts(row))))}".rstrip()


def _queued_line(row: QueuedRow) -> str:
    return f"**{row.id}** {md.plain(why_waiting(row))}"


def _inbox_line(row: InboxRow) -> str:
    return f"{md.code(row.name)}: {md.plain(row.why or row.state)}"


def _result_line(row: ResultRow, zone: tzinfo | None) -> str:
    kept = f" Its dataset is kept until {moment(row.kept_until, zone)}." if row.kept_until else ""
    return f"[{row.folder}]({row.page}), {moment(row.finished, zone)}: {md.plain(sentence(result_words(row)))}{kept}"
