"""Messages to text, through the chat template, exactly as Transformers does it; only the date stands still."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from appliance.stages.training.labels.marks import Messages

Tools = Sequence[Mapping[str, Any]] | None


class Refused(Exception):
    """The chat template does not take this conversation; the text is the template's own."""


class ChatTemplate:
    """The template that a tokenizer carries, with what the recipe hands to it.

    Templates that stamp a date ask `strftime_now` for it. It is frozen to the day of the job's creation (in UTC):
    labels, caches and a resumed run must not change at midnight, nor with the hour.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any], *, created: float) -> None:
        self._tokenizer = tokenizer
        self._date = datetime.fromtimestamp(created, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._variables = {**tokenizer.special_tokens_map, **kwargs, "strftime_now": self._date.strftime}

    @property
    def source(self) -> str:
        """All of the template's text; some bases have several templates."""
        template = self._tokenizer.chat_template
        return "\n".join(template.values()) if isinstance(template, dict) else str(template)

    @property
    def frozen_date(self) -> str | None:
        """The day that the template stamps into every conversation, if it does."""
        return f"{self._date:%Y-%m-%d}" if "strftime_now" in self.source else None

    def render(self, messages: Messages, tools: Tools = None, *, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt`, up to where the model is to answer. Raises Refused."""
        try:
            template = self._tokenizer.get_chat_template(None, tools)
            texts, _ = render_jinja_template(
                [messages], tools=tools, chat_template=template, add_generation_prompt=prompt, **self._variables
            )
        except Exception as error:
            # A template is a program that came with the base model: any error in it means that it cannot take this.
            raise Refused(str(error) or type(error).__name__) from error
        return str(texts[0])
