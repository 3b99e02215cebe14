"""Everything that turns rows of one dataset into examples, put together for one base model and recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import InputError
from appliance.recipe import Recipe
from appliance.stages.training.labels.control_tokens import ControlTokens
from appliance.stages.training.labels.conversations import ConversationLabeller, thought_key
from appliance.stages.training.labels.habits import Habits, study
from appliance.stages.training.labels.labelling import Labeller
from appliance.stages.training.labels.problems import no_stop_token
from appliance.stages.training.labels.rendering import ChatTemplate
from appliance.stages.training.labels.samples import ConversationPrompts, Prompts, TextPrompts
from appliance.stages.training.labels.spans import SpanFinder
from appliance.stages.training.labels.texts import TextLabeller
from appliance.stages.training.labels.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Kit:
    """The tools. `template` and `habits` are those of conversations."""

    tokenizer: Tokenizer
    control: ControlTokens
    stop_ids: tuple[int, ...]
    labeller: Labeller
    prompts: Prompts
    template: ChatTemplate | None = None
    habits: Habits | None = None

    @property
    def hf(self) -> Any:  # noqa: ANN401 - any Transformers tokenizer
        return self.tokenizer.hf


def text_kit(model: Path, cap: int) -> Kit:
    """For plain texts, in pieces of at most `cap` tokens."""
    tokenizer = load_tokenizer(model, None, conversational=False)
    control = ControlTokens(tokenizer.backend, tokenizer.control_tokens)
    labeller = TextLabeller(control, tokenizer.bos_id, tokenizer.hf.eos_token_id, cap)
    stop_ids = tuple(map(tokenizer.id_of, tokenizer.known_stops))
    return Kit(tokenizer, control, stop_ids, labeller, TextPrompts(tokenizer, control))


def conversation_kit(model: Path, recipe: Recipe, *, created: float) -> Kit:
    """For conversations. Raises InputError when the base model has no usable chat template."""
    tokenizer = load_tokenizer(model, recipe.chat_template, conversational=True)
    control = ControlTokens(tokenizer.backend, tokenizer.control_tokens)
    template = ChatTemplate(tokenizer.hf, recipe.chat_template_kwargs, created=created)
    # A token that begins a text or fills it up never ends a turn, unless the configuration says so.
    beginnings = {tokenizer.hf.bos_token, tokenizer.hf.pad_token} - set(tokenizer.known_stops)
    habits = study(template, tokenizer.control_tokens.keys() - beginnings, tokenizer.known_stops)
    if not habits.stops:
        raise InputError([no_stop_token()])
    stop_ids = tuple(map(tokenizer.id_of, habits.stops))
    thoughts = thought_key(template.source)
    labeller = ConversationLabeller(
        template,
        thoughts,
        SpanFinder(template, habits),
        control,
        frozenset(stop_ids),
        None if tokenizer.hf.bos_token_id in stop_ids else tokenizer.hf.bos_token_id,
        everything=recipe.train_on == "everything",
    )
    prompts = ConversationPrompts(tokenizer, template, thoughts, control)
    return Kit(tokenizer, control, stop_ids, labeller, prompts, template, habits)
