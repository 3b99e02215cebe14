"""Invisible marks at the ends of messages, to find again where a chat template has put them. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

Message = Mapping[str, Any]
Messages = Sequence[Message]

# Private-use characters of plane 15: for each message one for its words and one for its last tool call.
FIRST_MARK: Final = 0xF0000
MARK: Final = re.compile("([\U000f0000-\U000ffffd])")

Ends = dict[int, list[int]]


def mark(messages: Messages) -> list[dict[str, Any]]:
    """The same messages, with a mark at the end of each one's words and of its last tool call's name."""
    return [_marked(message, index) for index, message in enumerate(messages)]


def take_marks(marked: str) -> tuple[str, Ends]:
    """The text without marks, and where each mark stood in it."""
    pieces = MARK.split(marked)
    ends: Ends = {}
    position = 0
    for text, found in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        position += len(text)
        if found:
            ends.setdefault(ord(found) - FIRST_MARK, []).append(position)
    return "".join(pieces[::2]), ends


def words_mark(index: int) -> int:
    """The number of the mark at the end of a message's words."""
    return 2 * index


def call_mark(index: int) -> int:
    """The number of the mark at the end of the name of a message's last tool call."""
    return 2 * index + 1


def end_of(ends: Ends, index: int) -> int | None:
    """The furthest mark of one message. The name of a call may be repeated later, with what it returned."""
    places = (*ends.get(words_mark(index), ()), *ends.get(call_mark(index), ())[:1])
    return max(places, default=None)


def core(words: object) -> str:
    """The words without white space after them; templates like to trim it."""
    return words.rstrip() if isinstance(words, str) else ""


def shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    if one.startswith(other):
        return len(other)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def call_name(call: Message) -> str:
    """The name of the function that a tool call names."""
    return str(call.get("function", call)["name"])


def _marked(message: Message, index: int) -> dict[str, Any]:
    changed = dict(message)
    if words := core(message.get("content")):
        sign = chr(FIRST_MARK + words_mark(index))
        changed["content"] = words + sign + message["content"][len(words) :]
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [*calls[:-1], _marked_call(calls[-1], chr(FIRST_MARK + call_mark(index)))]
    return changed


def _marked_call(call: Message, sign: str) -> Message:
    if "function" in call:
        return {**call, "function": _marked_call(call["function"], sign)}
    return {**call, "name": call["name"] + sign}
