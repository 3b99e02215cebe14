"""What would fit where a plan does not: changes to the recipe, the least painful first, then other models. Pure."""

from collections.abc import Iterator
from typing import Any, Final

from appliance.errors import InputError, Problem, Reason
from appliance.planning.architectures import read_shape
from appliance.planning.fitting import SEQUENCE_MULTIPLE, effective_batch_size, load_of
from appliance.planning.machine import Machine
from appliance.planning.memory_bill import Bill
from appliance.planning.model_shape import ModelShape, Tier
from appliance.planning.published import PUBLISHED
from appliance.planning.splits import Rows, Split, choose_split, possible_splits
from appliance.recipe import Recipe
from appliance.texts.wording import size

SHORTEST_ADVISED: Final = 256
SMALL_RANK: Final = 8
MODELS_NAMED: Final = 3


def refuse_what_never_fits(recipe: Recipe, shape: ModelShape, machine: Machine) -> None:
    """Raise InputError when not even the shortest rows could be trained on: before gigabytes are fetched for it."""
    shortest = SEQUENCE_MULTIPLE if recipe.max_seq_length == "auto" else min(recipe.max_seq_length, shape.positions)
    split = _best(recipe, shape, machine, shortest)
    if not split.fits(machine):
        raise InputError([does_not_fit(split.bill, machine, would_fit(recipe, shape, machine, shortest))])


def does_not_fit(bill: Bill, machine: Machine, advice: list[str]) -> Problem:
    """Training needs more than this machine can ever give."""
    needs, has = size(bill.total_bytes), size(machine.budget_bytes)
    what = f"{'; or '.join(advice)} would fit" if advice else "none of the models that ship with a recipe would fit"
    return Problem(
        code="does_not_fit",
        message=f"training needs {needs}, but this machine has {has} to spend "
        f"({size(machine.reserve_bytes)} are kept in reserve); {what}",
        reason=Reason.WOULD_NOT_FIT,
        key="base_model",
        found=needs,
        expected=f"at most {has}",
    )


def would_fit(recipe: Recipe, shape: ModelShape, machine: Machine, sequence: int) -> list[str]:
    """Changes to the recipe that would make it fit, each by itself, and the largest models that would fit as it is.

    The longest of the shorter sequences stands for them all; models are named only where no change helps.
    """
    shorter = next((length for length in _shorter(sequence) if _fits(recipe, {}, shape, machine, length)), None)
    changes = [words for words, update in _changes(recipe) if _fits(recipe, update, shape, machine, sequence)]
    advice = changes if shorter is None else [f"max_seq_length: {shorter}", *changes]
    return advice or _smaller_models(recipe, shape, machine, sequence)


def _shorter(sequence: int) -> Iterator[int]:
    """Half as long, and half of that, down to what is still worth training on."""
    while (sequence := sequence // 2) >= SHORTEST_ADVISED:
        yield sequence


def _changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    if recipe.gradient_checkpointing is False:
        yield "gradient_checkpointing: true", {"gradient_checkpointing": True}
    if recipe.per_device_train_batch_size not in ("auto", 1):
        yield "per_device_train_batch_size: 1", {"per_device_train_batch_size": 1}
    if recipe.lora.r > SMALL_RANK:
        yield f"lora.r: {SMALL_RANK}", {"lora": recipe.lora.model_copy(update={"r": SMALL_RANK})}
    if not recipe.load_in_4bit:
        yield "load_in_4bit: true", {"load_in_4bit": True}


def _smaller_models(recipe: Recipe, shape: ModelShape, machine: Machine, sequence: int) -> list[str]:
    """One piece of advice: the largest of the shipped models that would fit with this recipe."""
    shapes = sorted(((read_shape(figures), name) for name, figures in PUBLISHED.items()), key=_parameters, reverse=True)
    names = [
        name
        for other, name in shapes
        if other.total_parameters < shape.total_parameters
        and _fits(recipe, {"lora": recipe.lora.model_copy(update={"target_modules": "auto"})}, other, machine, sequence)
    ]
    return [f"a smaller base_model such as {' or '.join(names[:MODELS_NAMED])}"] if names else []


def _parameters(entry: tuple[ModelShape, str]) -> int:
    return entry[0].total_parameters


def _fits(recipe: Recipe, update: dict[str, Any], shape: ModelShape, machine: Machine, sequence: int) -> bool:
    changed = recipe.model_copy(update=update)
    if changed.load_in_4bit and shape.tier is Tier.IN_16_BIT:
        return False
    return _best(changed, shape, machine, min(sequence, shape.positions)).fits(machine)


def _best(recipe: Recipe, shape: ModelShape, machine: Machine, sequence: int) -> Split:
    load, effective = load_of(recipe, shape, machine.kind), effective_batch_size(recipe, None)
    splits = possible_splits(recipe, load, machine, Rows(sequence, sequence), effective=effective)
    return choose_split(splits, machine)
