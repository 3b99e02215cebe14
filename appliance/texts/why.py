"""`WHY.md` and `WHY.html`: why a job came back without an adapter, and what to do about it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Final

from appliance.errors import Problem, Reason
from appliance.job import FailureClass, Outcome, Stage
from appliance.names import named_number
from appliance.texts import markdown as md
from appliance.texts.pages import render
from appliance.texts.remedies import FAILURES, NO_BUTTON, NOT_DATA, OTHER_FORM, REJECTIONS
from appliance.texts.wording import STAGES, clip, gone, moment, plural, sentence

SHOWN_OF_A_KIND: Final = 100
_LONGEST_FINDING: Final = 300
_LONGEST_GIST: Final = 160
_LONGEST_NAME_IN_GIST: Final = 40
_ACRONYMS: Final = frozenset({"bom", "html", "json", "lora", "nul", "utf8", "yaml"})
_ON_BUTTONS: Final = ("queue", "pause", "resume", "cancel", "retry", "approve")
_TRACEBACK: Final = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Why:
    """A job that ended without a published adapter.

    `files` are the names in `dropped/` beside the text, `missing` those that should be there and are gone,
    `has_adapter` whether `adapter/` of the last checkpoint is there, `adapter_lost` whether there are checkpoints and
    none can be read, `log_tail` whether `worker.log` is there. `attempts` is how often it was tried. Without a `zone`,
    times are the machine's own.
    """

    job_id: str
    name: str
    outcome: Outcome
    finished: float
    stage: Stage | None = None
    failure: FailureClass | None = None
    message: str = ""
    hint: str | None = None
    problems: tuple[Problem, ...] = ()
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    has_adapter: bool = False
    adapter_lost: bool = False
    log_tail: bool = False
    attempts: int = 0
    zone: tzinfo | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    """What some of `files` were called in the inbox."""


@dataclass(frozen=True)
class ProblemGroup:
    """Problems of one kind: those shown, and how many there are.

    A check lists only the first of a kind and counts the rest: `listed` is how many stand in `problems.json`.
    """

    kind: str
    shown: tuple[Problem, ...]
    listed: int
    total: int

    @property
    def more(self) -> int:
        return self.total - len(self.shown)


def why_markdown(why: Why) -> str:
    """The text of `WHY.md`."""
    paragraphs = [
        f"# {_headline(why)}",
        md.prose(_what_happened(why)),
        *(md.prose(line) for line in _details(why)),
        "## What to do",
        "\n".join(f"- {md.prose(step)}" for step in _next_steps(why)),
        *_markdown_problems(why),
        *_markdown_beside(why),
        f"Job {md.code(why.job_id)}, ended {moment(why.finished, why.zone)}.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def why_html(why: Why) -> str:
    """The text of `WHY.html`: the same, self-contained, for a browser."""
    return render(
        "why.html.j2",
        {
            "why": why,
            "headline": _headline(why),
            "happened": _what_happened(why),
            "details": _details(why),
            "steps": _next_steps(why),
            "groups": problem_groups(why.problems),
            "beside": list(_beside(why)),
            "unsaid": unsaid,
        },
    )


def problem_groups(problems: Sequence[Problem], *, shown: int = SHOWN_OF_A_KIND) -> list[ProblemGroup]:
    """The problems by kind, the kind that came first foremost, each in the order they were found."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.code, []).append(problem)
    return [_group(code, members, shown) for code, members in kinds.items()]


def _group(code: str, members: Sequence[Problem], shown: int) -> ProblemGroup:
    first, *others = members
    # A later entry that stands for several is the check's own "and so many more".
    listed = [first, *(problem for problem in others if problem.count == 1)]
    return ProblemGroup(_kind(code), tuple(listed[:shown]), len(listed), sum(problem.count for problem in members))


def gist(problems: Sequence[Problem]) -> str:
    """The first problem in one short sentence, and how many there are besides; empty where there is none.

    For lists with a line a job. `found`, which may be a piece of a row, is left out.
    """
    if not problems:
        return ""
    first = problems[0]
    said = " ".join(first.message.split()).partition(". ")[0].rstrip(".")
    name = first.file and clip(first.file, _LONGEST_NAME_IN_GIST)
    more = sum(problem.count for problem in problems[1:])
    others = f" (and {more:,} more)" if more else ""
    return clip(str(replace(first, file=name, message=said)), _LONGEST_GIST) + others


def unsaid(problem: Problem) -> tuple[str | None, str | None]:
    """What was found and what would work, where the message does not say so already."""
    said = problem.message.lower()
    found, expected = (text and clip(text, _LONGEST_FINDING) for text in (problem.found, problem.expected))
    return (
        found if found and found.lower() not in said else None,
        expected if expected and expected.lower() not in said else None,
    )


def _kind(code: str) -> str:
    words = " ".join(word.upper() if word in _ACRONYMS else word for word in code.split("_"))
    return words[:1].upper() + words[1:]


def _headline(why: Why) -> str:
    return f"{why.job_id} failed" if why.outcome is Outcome.FAILED else f"{why.job_id} was {why.outcome}"


def _what_happened(why: Why) -> str:
    if why.outcome is Outcome.REJECTED:
        count = sum(problem.count for problem in why.problems)
        found = f"{plural(count, 'problem')} must be solved first" if count else "it cannot be used as it is"
        return f"Nothing was trained: {found}."
    if why.outcome is Outcome.CANCELLED:
        return f"Somebody cancelled this job {_while(why)}. It was stopped, and nothing was published."
    if why.failure is None:
        return f"The job failed {_while(why)}."
    return FAILURES[why.failure].happened


def _while(why: Why) -> str:
    return f"while it was {STAGES[why.stage]}" if why.stage else "before it began"


def _details(why: Why) -> list[str]:
    """Which stage, how often, and what the stage said, where that adds something."""
    lines = []
    if why.outcome is Outcome.FAILED:
        tries = f", after {plural(why.attempts, 'attempt')}" if why.attempts > 1 else ""
        kind = f" (failure class `{why.failure}`)" if why.failure else ""
        lines.append(f"It ended {_while(why)}{tries}{kind}.")
    if why.outcome is not Outcome.CANCELLED and not why.problems and (said := _without_traceback(why.message)):
        lines.append(sentence(said))
    lines += [sentence(gone(name)) for name in why.missing]
    if why.adapter_lost:
        lines.append(
            "Its checkpoints cannot be read, so there is no adapter here: the disk of the state folder may fail."
        )
    return lines


def _without_traceback(message: str) -> str:
    return " ".join(clip(message.partition(_TRACEBACK)[0], 2000).split())


def _next_steps(why: Why) -> list[str]:
    steps = [sentence(why.hint)] if why.hint else []
    if why.outcome is Outcome.REJECTED:
        steps += _corrections(why)
    elif why.failure and why.outcome is Outcome.FAILED:
        steps.append(FAILURES[why.failure].to_do)
    elif why.files:
        steps.append("To start it anew, drop the files that lie in `dropped/` into the inbox again.")
    return steps or ["Show this page to whoever looks after the appliance."]


def _corrections(why: Why) -> Iterator[str]:
    if _is_duplicate(why):
        yield "There is nothing to do: the same files are being worked on already, and their result will come."
        return
    remedies = dict.fromkeys(map(_remedy, why.problems))
    for remedy in remedies:
        if remedy != REJECTIONS[Reason.OTHER] or len(remedies) == 1:
            yield remedy
    if why.files and set(remedies) != {NO_BUTTON}:
        yield "Your files lie unchanged in `dropped/`. Correct them, then drop all of them into the inbox again."


def _remedy(problem: Problem) -> str:
    if problem.code != "unknown_suffix":
        # An entry that counts further rows has no line either.
        is_whole_file = problem.reason is Reason.DATASET_FORMAT and problem.line is None and problem.count == 1
        return OTHER_FORM if is_whole_file else REJECTIONS[problem.reason]
    return NO_BUTTON if _may_be_meant_as_button(problem.file or "") else NOT_DATA


def _may_be_meant_as_button(name: str) -> bool:
    name = name.casefold()
    return named_number(name.partition(".")[0]) is not None or any(word in name for word in _ON_BUTTONS)


def _is_duplicate(why: Why) -> bool:
    return bool(why.problems) and all(problem.code == "duplicate" for problem in why.problems)


def _beside(why: Why) -> Iterator[tuple[str, str]]:
    for name in why.files:
        called = f"; it was called {why.renamed[name]}" if name in why.renamed else ""
        yield f"dropped/{name}", f"as it was dropped{called}"
    if why.outcome is Outcome.REJECTED:
        yield "problems.json", "the same for programs"
    if why.has_adapter:
        yield "adapter/", "from the last checkpoint; it is unfinished and was not compared with the base model"
    if why.log_tail:
        yield "worker.log", "the last lines the program wrote, for experts"


def _markdown_problems(why: Why) -> Iterator[str]:
    if why.problems:
        yield "## What was found"
    for group in problem_groups(why.problems):
        yield f"### {md.plain(group.kind)} ({group.total:,})"
        yield "\n".join(_markdown_problem(problem) for problem in group.shown)
        if group.more:
            where = " `problems.json` lists them all." if group.listed == group.total else ""
            yield f"… and {group.more:,} more of this kind.{where}"


def _markdown_beside(why: Why) -> Iterator[str]:
    if beside := list(_beside(why)):
        yield "## What lies beside this file"
        yield "\n".join(f"- {md.code(path)}: {md.prose(what)}" for path, what in beside)


def _markdown_problem(problem: Problem) -> str:
    place = ":".join(str(part) for part in (problem.file, problem.line) if part is not None)
    found, expected = unsaid(problem)
    lines = [f"- {md.code(place)}: {md.prose(problem.message)}" if place else f"- {md.prose(problem.message)}"]
    lines += [f"  Found: {md.code(found)}"] if found else []
    lines += [f"  Would work: {md.prose(expected)}"] if expected else []
    return "  \n".join(lines)
