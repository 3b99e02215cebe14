"""Conversations to examples: the assistant's turns are trained, each with the token that ends it."""

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Encoding

from appliance.stages.training.labels.control_tokens import ControlTokens, NotNeutral
from appliance.stages.training.labels.examples import NOT_TRAINED, Example, Failure
from appliance.stages.training.labels.labelling import Draft
from appliance.stages.training.labels.marks import core
from appliance.stages.training.labels.rendering import ChatTemplate, Refused
from appliance.stages.training.labels.rows import Row
from appliance.stages.training.labels.spans import Conversation, SpanFinder, Unproven

# What templates call a thought, and how they ask for it.
THOUGHT_KEYS: Final = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class ConversationLabeller:
    """Labels rows of messages. `thoughts` is the template's word; with `everything`, all of its text is trained."""

    template: ChatTemplate
    thoughts: str
    finder: SpanFinder
    control: ControlTokens
    stop_ids: frozenset[int]
    bos_id: int | None
    everything: bool = False

    def draft(self, row: Row) -> Draft | Failure:
        spelled = self.control.count_in(row.content)
        try:
            fields = self.control.hide(row.fields, row.content) if spelled else row.fields
            messages = for_template(fields["messages"], self.thoughts)
            conversation = self._render(messages, fields.get("tools") or None)
            places = [place for turn in self._trained(conversation, fields["messages"]) for place in turn]
            text = conversation.text
            if spelled:
                self.control.swapped_backend()
                text, places = self.control.swap(text, places)
        except Refused as error:
            return Failure(row.number, "chat_template_refuses", str(error))
        except Unproven as error:
            return Failure(row.number, "labels_unproven", str(error))
        except NotNeutral as error:
            return Failure(row.number, "control_tokens", str(error))
        turns = tuple(zip(places[::2], places[1::2], strict=True))
        return Draft(row, text, turns, bool(spelled), spelled, _loses_thoughts(messages, conversation.text))

    def examples(self, draft: Draft, encoding: Encoding) -> Iterator[Example | Failure]:
        ids = array("i", encoding.ids)
        number = draft.row.number
        if draft.swapped and not self.control.is_neutral(draft.text, ids):
            yield Failure(number, "control_tokens", "its words became control tokens")
            return
        if self.bos_id is not None and ids.count(self.bos_id) > 1:
            yield Failure(number, "two_bos", f"{ids.count(self.bos_id)} tokens that begin a text")
            return
        try:
            yield self._example(draft, encoding, ids)
        except Unproven as error:
            yield Failure(number, "labels_unproven", str(error))

    def _render(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> Conversation:  # noqa: ANN401 - JSON
        if self.everything:
            return Conversation(self.template.render(messages, tools), ())
        return self.finder.find(messages, tools)

    def _trained(self, conversation: Conversation, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
        return ((turn.start, turn.end) for turn in conversation.turns if messages[turn.index].get("weight", 1) != 0)

    def _example(self, draft: Draft, encoding: Encoding, ids: "array[int]") -> Example:
        labels = ids[:] if self.everything else array("i", [NOT_TRAINED]) * len(ids)
        trained, until, answer_tokens = (len(ids), len(ids), 0) if self.everything else (0, 0, 0)
        for start, end in draft.turns:
            first, last = self._tokens(encoding, ids, start, end)
            labels[first : last + 1] = ids[first : last + 1]
            until, answer_tokens = last + 1, last + 1 - first
            trained += answer_tokens
        row, counts = draft.row, (draft.control_tokens, draft.thoughts_left_out)
        return Example(row.number, row.hash, ids, labels, trained, until, answer_tokens, *counts)

    def _tokens(self, encoding: Encoding, ids: "array[int]", start: int, end: int) -> tuple[int, int]:
        """The first and the last token of a turn. A token that only reaches into the turn belongs to it as well."""
        found = (encoding.char_to_token(place) for place in range(start, end))
        first, last = next((token for token in found if token is not None), None), encoding.char_to_token(end - 1)
        if first is None or last is None or ids[last] not in self.stop_ids:
            raise Unproven("the turn does not end with a single stop token")
        # Some control tokens swallow the white space after them, and so the beginning of an answer.
        begins = (encoding.token_to_chars(first) or (start, end))[0]
        if begins < start and ids[first] in self.control.ids:
            first += 1
        return first, last


def thought_key(template: str) -> str:
    """What a template calls a thought."""
    asked = (key for key in THOUGHT_KEYS if re.search(rf"""\.{key}\b|['"]{key}['"]""", template))
    return next(asked, THOUGHT_KEYS[0])


def for_template(messages: Sequence[Mapping[str, Any]], thoughts: str) -> list[dict[str, Any]]:
    """Messages as Transformers documents them: no weights, thoughts by the template's name, arguments as objects."""
    return [_for_template(message, thoughts) for message in messages]


def _for_template(message: Mapping[str, Any], thoughts: str) -> dict[str, Any]:
    kept = {key: value for key, value in message.items() if key not in ("weight", *THOUGHT_KEYS)}
    thought = next((message[key] for key in THOUGHT_KEYS if message.get(key)), None)
    if thought is not None:
        kept[thoughts] = thought
    if "tool_calls" in kept:
        calls = kept.pop("tool_calls")
        kept |= {"tool_calls": [_for_call(call) for call in calls]} if calls else {}
    return kept


def _for_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return dict(call)
    changed = {**function, "arguments": arguments}
    return {**call, "function": changed} if "function" in call else changed


def _loses_thoughts(messages: Sequence[Mapping[str, Any]], text: str) -> bool:
    """Whether the last answer came with a thought that the template left out. Earlier thoughts may be."""
    answers = [message for message in messages if message["role"] == "assistant"]
    return any(core(message[key]) not in text for message in answers[-1:] for key in THOUGHT_KEYS if key in message)
