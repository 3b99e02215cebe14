"""Which characters of a rendered conversation the assistant wrote, for any chat template, proven for each row.

A turn's span begins where the text departs from the prompt that the model would have been given, and ends with the
token that ends the turn. To find it, the conversation is rendered once more with an invisible mark at the end of every
message; taking the marks away must give the plain text again. Where marks disturb a template, the conversation is
rendered prefix by prefix instead. What neither way can prove is not trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.stages.training.labels.habits import Habits
from appliance.stages.training.labels.literals import any_of
from appliance.stages.training.labels.marks import (
    MARK,
    Ends,
    Message,
    Messages,
    call_mark,
    call_name,
    core,
    end_of,
    mark,
    shared,
    take_marks,
    words_mark,
)
from appliance.stages.training.labels.rendering import ChatTemplate, Refused, Tools


class Unproven(Exception):
    """The assistant's words cannot be told from the rest."""


@dataclass(frozen=True)
class Turn:
    """The characters of one assistant turn, its stop token included; `index` is its message's."""

    index: int
    start: int
    end: int


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation and the assistant's turns in it."""

    text: str
    turns: tuple[Turn, ...]


class SpanFinder:
    """Finds the assistant's turns in conversations of one template."""

    def __init__(self, template: ChatTemplate, habits: Habits) -> None:
        self._template = template
        self._habits = habits
        self._stop = any_of(habits.stops)
        self._tails: dict[tuple[str, bool, str], str] = {}

    def find(self, messages: Messages, tools: Tools = None) -> Conversation:
        """Render a conversation and find every assistant turn. Raises Refused or Unproven."""
        text = self._template.render(messages, tools)
        try:
            turns = self._by_marks(text, messages, tools)
        except (Refused, Unproven):
            turns = self._by_prefixes(text, messages, tools)
        return Conversation(text, tuple(turns))

    def _by_marks(self, text: str, messages: Messages, tools: Tools) -> list[Turn]:
        if MARK.search(text):
            raise Unproven("the text has private-use characters of its own")
        unmarked, ends = take_marks(self._template.render(mark(messages), tools))
        if unmarked != text:
            raise Unproven("marks change what the template does")
        if any(len(ends.get(words_mark(index), ())) > 1 for index in range(len(messages))):
            raise Unproven("the template repeats a message")
        return [self._marked_turn(text, messages, index, ends, tools) for index in _answers(messages)]

    def _marked_turn(self, text: str, messages: Messages, index: int, ends: Ends, tools: Tools) -> Turn:
        calls = messages[index].get("tool_calls")
        if calls and call_mark(index) not in ends:
            raise Unproven("the template leaves out tool calls")
        # With a call, words before it are a thought, which templates may leave out.
        if not calls and core(messages[index].get("content")) and words_mark(index) not in ends:
            raise Unproven("the template leaves out an answer")
        start = self._start(text, messages, index, ends, tools)
        end = self._stop_after(text, end_of(ends, index) or start)
        next_words = min((places[0] for number, places in ends.items() if number > call_mark(index)), default=end)
        if not start < end <= next_words:
            raise Unproven("the turn has no stop token")
        return Turn(index, start, end)

    def _start(self, text: str, messages: Messages, index: int, ends: Ends, tools: Tools) -> int:
        if index == 0:
            return self._after_first_prompt(text)
        before = end_of(ends, index - 1)
        if before is None:
            # A message without words has no mark; the whole prompt shows where it ends.
            return self._depart(text, 0, self._template.render(messages[:index], tools, prompt=True))
        return self._depart(text, before, self._tail(messages, index, tools))

    def _tail(self, messages: Messages, index: int, tools: Tools) -> str:
        """What follows the message before `index` when the model is asked to answer."""
        before = messages[index - 1]
        key = (before["role"], tools is None, (before.get("content") or "")[len(core(before.get("content"))) :])
        if key not in self._tails:
            prompt, ends = take_marks(self._template.render(mark(messages[:index]), tools, prompt=True))
            end = end_of(ends, index - 1)
            if end is None:
                raise Unproven("the prompt leaves out the message before the turn")
            # What follows a tool's answer may name the call, which is another one in every row.
            if before["role"] not in ("user", "system"):
                return prompt[end:]
            self._tails[key] = prompt[end:]
        return self._tails[key]

    def _after_first_prompt(self, text: str) -> int:
        header = self._habits.prompt.removesuffix(self._habits.optional)
        found = text.find(header)
        if not header or found < 0:
            raise Unproven("nothing shows where the first turn begins")
        return self._depart(text, found, self._habits.prompt)

    def _depart(self, text: str, position: int, prompt: str) -> int:
        """Where an answer begins in `text`, which from `position` on goes as `prompt` does.

        Only the optional part of a prompt may be missing, and then an answer begins where that would.
        """
        if text.startswith(prompt, position):
            return position + len(prompt)
        needed = prompt.removesuffix(self._habits.optional)
        if not text.startswith(needed, position):
            raise Unproven("the text does not follow the prompt")
        return position + len(needed)

    def _stop_after(self, text: str, position: int) -> int:
        stop = self._stop.search(text, position)
        if stop is None:
            raise Unproven("the turn has no stop token")
        return stop.end()

    def _by_prefixes(self, text: str, messages: Messages, tools: Tools) -> list[Turn]:
        return [self._prefix_turn(text, messages, index, tools) for index in _answers(messages)]

    def _prefix_turn(self, text: str, messages: Messages, index: int, tools: Tools) -> Turn:
        try:
            start = self._depart(text, 0, self._template.render(messages[:index], tools, prompt=True))
            turn = text[start : self._next_turn(text, messages, index, tools)]
        except Refused as refusal:
            raise Unproven("the template does not take the beginning of the conversation") from refusal
        if any(call_name(call) not in turn for call in messages[index].get("tool_calls") or ()):
            raise Unproven("the template leaves out tool calls")
        last_words = core(messages[index].get("content")).rpartition("\n")[2]
        if last_words not in turn and not messages[index].get("tool_calls"):
            raise Unproven("the template leaves out an answer")
        written = [turn.rfind(words) + len(words) for words in _words(messages[index], last_words) if words in turn]
        return Turn(index, start, start + self._stop_after(turn, max(written, default=0)))

    def _next_turn(self, text: str, messages: Messages, index: int, tools: Tools) -> int:
        """Where the words of the message after this one begin, or the text ends."""
        if index + 1 == len(messages):
            return len(text)
        words = core(messages[index + 1].get("content"))
        # Rendered with that message: the last turn of a conversation may look otherwise than one in the middle.
        until = shared(text, self._template.render(messages[: index + 1 + bool(words)], tools))
        place = text.rfind(words, 0, until) if words else until
        if place < 0:
            raise Unproven("nothing shows where the message after the turn begins")
        return place


def _answers(messages: Messages) -> Iterator[int]:
    return (index for index, message in enumerate(messages) if message["role"] == "assistant")


def _words(message: Message, last_words: str) -> Iterator[str]:
    """What of a message may be found in its turn again."""
    thoughts = (message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
    yield from filter(None, (last_words, *map(core, thoughts)))
    yield from (call_name(call) for call in message.get("tool_calls") or ())
