"""What a chat template does in every conversation, found out with short ones of our own."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.stages.training.labels.literals import any_of
from appliance.stages.training.labels.marks import Ends, mark, shared, take_marks, words_mark
from appliance.stages.training.labels.rendering import ChatTemplate, Refused

QUESTION: Final = {"role": "user", "content": "Question"}
ANSWER: Final = {"role": "assistant", "content": "Answer"}


@dataclass(frozen=True)
class Habits:
    """`stops` are the tokens that end a turn, `prompt` is what asks the model to answer.

    `optional` is the end of the prompt that a finished turn may lack (an empty thought, say), `adds` is what stands
    before a conversation that has no system message, and `thinks` what stands between prompt and answer.
    """

    stops: tuple[str, ...]
    prompt: str = ""
    optional: str = ""
    adds: str = ""
    thinks: str = ""


def study(template: ChatTemplate, control_tokens: Iterable[str], known_stops: Iterable[str]) -> Habits:
    """Find out a template's habits. `known_stops` are those that the base model's configuration names."""
    control, known = any_of(control_tokens), tuple(known_stops)
    for turns in (2, 1):
        try:
            return _study(template, turns, control, known)
        except (Refused, ValueError):
            # It takes no second question, or does not show what it is given; rows will tell whether it serves.
            continue
    return Habits(stops=known)


def _study(template: ChatTemplate, turns: int, control: re.Pattern[str], known_stops: Sequence[str]) -> Habits:
    known = any_of(known_stops)
    messages = [QUESTION, ANSWER] * turns
    text, ends = take_marks(template.render(mark(messages)))
    asked, asked_ends = take_marks(template.render(mark([QUESTION]), prompt=True))
    question_ends, answer_ends = _places(ends, len(messages))
    tail = asked[_places(asked_ends, 1)[0][0] :]
    kept = min(_shared_whole(text[place:], tail, control) for place in question_ends)
    tails = _after_answers(text, question_ends, answer_ends)
    stops = [_stop(tail, control, known) for tail in tails]
    thought = text[question_ends[-1] : answer_ends[-1]].removesuffix(ANSWER["content"])
    before_second = tails[0].partition(stops[0])[2] if turns > 1 and stops[0] else ""
    return Habits(
        stops=tuple(dict.fromkeys([stop for stop in [*stops, *known_stops] if stop])),
        prompt=_prompt(template, asked),
        optional=tail[kept:],
        adds=_added(text[: question_ends[0] - len(QUESTION["content"])], before_second),
        thinks=thought[shared(thought, tail) :],
    )


def _places(ends: Ends, messages: int) -> tuple[list[int], list[int]]:
    """Where the questions end and where the answers end. Raises ValueError for a template that hides any."""
    places = [ends.get(words_mark(index), []) for index in range(messages)]
    if any(len(found) != 1 for found in places):
        raise ValueError("a message is left out or repeated")
    return [found[0] for found in places[::2]], [found[0] for found in places[1::2]]


def _shared_whole(text: str, tail: str, control: re.Pattern[str]) -> int:
    """How much of the prompt's tail a text begins with, no control token cut in two."""
    length = shared(text[: len(tail)], tail)
    return next((found.start() for found in control.finditer(text) if found.start() < length < found.end()), length)


def _after_answers(text: str, question_ends: list[int], answer_ends: list[int]) -> list[str]:
    """What follows each answer, up to the next question's words."""
    next_questions = [end - len(QUESTION["content"]) for end in question_ends[1:]]
    return [text[start:end] for start, end in zip(answer_ends, [*next_questions, len(text)], strict=True)]


def _stop(tail: str, control: re.Pattern[str], known: re.Pattern[str]) -> str:
    """The token that ends an answer: one that the configuration names, else the first control token after it."""
    found = known.search(tail) or control.search(tail)
    return found.group() if found else ""


def _prompt(template: ChatTemplate, asked: str) -> str:
    question = template.render([QUESTION])
    return asked[len(question) :] if asked.startswith(question) else ""


def _added(before_first: str, before_second: str) -> str:
    """What comes before the first question but not before the second."""
    return before_first[: len(before_first) - shared(before_first[::-1], before_second[::-1])]
