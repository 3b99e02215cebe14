"""The prompts that base and tuned model answer side by side in `verify`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from appliance.stages.training.labels.control_tokens import ControlTokens, NotNeutral
from appliance.stages.training.labels.conversations import for_template
from appliance.stages.training.labels.labelling import Draft, encode
from appliance.stages.training.labels.rendering import ChatTemplate, Refused
from appliance.stages.training.labels.rows import Row, row_of
from appliance.stages.training.labels.tokenizer import Tokenizer

MOST: Final = 8
# How much of a plain text is given, for the model to go on with.
TEXT_PROMPT_TOKENS: Final = 64


class Prompts(Protocol):
    """How a row becomes a prompt."""

    def sample(self, row: Row) -> dict[str, Any] | None:
        """`{"row", "messages", "prompt_ids", "answer"}`, or None for a row without a prompt."""


@dataclass(frozen=True)
class ConversationPrompts:
    """The prompt of a conversation is everything before its last answer."""

    tokenizer: Tokenizer
    template: ChatTemplate
    thoughts: str
    control: ControlTokens

    def sample(self, row: Row) -> dict[str, Any] | None:
        messages = row.fields["messages"]
        last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
        answer = messages[last].get("content") if last < len(messages) else None
        try:
            ids = self._prompt_ids(row, last)
        except (Refused, NotNeutral):
            return None
        return {"row": row.number or None, "messages": messages[:last], "prompt_ids": ids, "answer": answer}

    def _prompt_ids(self, row: Row, last: int) -> list[int]:
        spelled = self.control.count_in(row.content)
        fields = self.control.hide(row.fields, row.content) if spelled else row.fields
        messages = for_template(fields["messages"], self.thoughts)
        text = self.template.render(messages[:last], fields.get("tools") or None, prompt=True)
        if spelled:
            text, _ = self.control.swap(text, ())
        return list(encode([Draft(row, text, swapped=bool(spelled))], self.control, self.tokenizer.backend)[0].ids)


@dataclass(frozen=True)
class TextPrompts:
    """The prompt of a plain text is its beginning; the answer is how it goes on."""

    tokenizer: Tokenizer
    control: ControlTokens

    def sample(self, row: Row) -> dict[str, Any] | None:
        text = row.fields.get("text") or row.fields["messages"][0]["content"]
        swapped = bool(self.control.count_in(row.content))
        encoding = encode([Draft(row, text, swapped=swapped)], self.control, self.tokenizer.backend)[0]
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        cut = min(TEXT_PROMPT_TOKENS, len(encoding.ids) // 2) if row.number else len(encoding.ids)
        place = encoding.offsets[cut - 1][1] if cut else 0
        prompt = [{"role": "user", "content": text[:place]}]
        return {
            "row": row.number or None,
            "messages": prompt,
            "prompt_ids": bos + encoding.ids[:cut],
            "answer": text[place:] if row.number else None,
        }


def choose(prompts: Prompts, asked: Iterable[str], rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Samples from the recipe's own prompts, or, when there are none, from rows."""
    own = [row_of({"messages": [{"role": "user", "content": words}]}) for words in asked]
    found = (sample for row in own or rows if (sample := prompts.sample(row)))
    return (sample for _, sample in zip(range(MOST), found, strict=False))
