"""What a recipe asks for on this machine: how long examples may be, how large the batch is, what is loaded. Pure."""

from bisect import bisect_left
from math import ceil
from typing import Final

from appliance.errors import InputError, Problem, Reason
from appliance.planning.machine import Machine, MachineKind
from appliance.planning.memory_bill import Load
from appliance.planning.model_shape import ModelShape, Tier
from appliance.planning.splits import Rows, checkpointing_modes, make_split
from appliance.recipe import Recipe, uneven_batch

LONGEST_SEQUENCE: Final = 8192
SEQUENCE_MULTIPLE: Final = 64
CPU_OPTIMIZER: Final = "adamw_torch_fused"


def sequence_cap(recipe: Recipe, shape: ModelShape, machine: Machine) -> int:
    """The most tokens an example may have: the recipe's number, or what model, memory and 8,192 allow.

    When not even the shortest fits, memory is left out of it: the plan will say that nothing fits.
    """
    if recipe.max_seq_length != "auto":
        return min(recipe.max_seq_length, shape.positions)
    cap = min(LONGEST_SEQUENCE, shape.positions)
    load, checkpointing = load_of(recipe, shape, machine.kind), checkpointing_modes(recipe)[-1]
    micro_batch = 1 if recipe.per_device_train_batch_size == "auto" else recipe.per_device_train_batch_size

    def is_too_long(sequence: int) -> bool:
        split = make_split(load, machine, Rows(sequence, sequence), micro_batch, 1, checkpointing)
        return not split.fits(machine)

    candidates = range(cap % SEQUENCE_MULTIPLE or SEQUENCE_MULTIPLE, cap + 1, SEQUENCE_MULTIPLE)
    fitting = bisect_left(candidates, True, key=is_too_long)
    return candidates[fitting - 1] if fitting else cap


def sequence_length(longest: int, cap: int) -> int:
    """`max_seq_length: auto`: the longest kept row rounded up, never beyond the cap."""
    return min(ceil(max(longest, 1) / SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE, cap)


def effective_batch_size(recipe: Recipe, rows: int | None) -> int:
    """What the recipe asks for; `auto` goes by the number of rows and respects a micro-batch that was asked for."""
    micro_batch = recipe.per_device_train_batch_size
    if recipe.effective_batch_size == "auto":
        wanted = 8 if rows is not None and rows < 1000 else 16
        return wanted if micro_batch == "auto" else ceil(wanted / micro_batch) * micro_batch
    if micro_batch != "auto" and (problem := uneven_batch(recipe.effective_batch_size, micro_batch)):
        raise InputError([problem])
    return recipe.effective_batch_size


def load_of(recipe: Recipe, shape: ModelShape, kind: MachineKind) -> Load:
    """What the recipe trains on this base model.

    Raises InputError for modules that the model lacks, and for a model that is trained in 16 bits only or not at all.
    """
    if shape.tier is Tier.REFUSED:
        raise InputError([_not_trained(recipe, shape)])
    if recipe.load_in_4bit and shape.tier is Tier.IN_16_BIT:
        raise InputError([_not_in_4_bits(recipe, shape)])
    targets = shape.targets(recipe.lora.target_modules)
    return Load(shape, recipe.load_in_4bit, recipe.lora.r, targets, optimizer(recipe, kind), kind)


def optimizer(recipe: Recipe, kind: MachineKind) -> str:
    """The recipe's optimizer; those that need a GPU have a stand-in on a CPU."""
    needs_gpu = recipe.optim.startswith("paged") or recipe.optim.endswith("8bit")
    return CPU_OPTIMIZER if kind == "cpu" and needs_gpu else recipe.optim


def _not_trained(recipe: Recipe, shape: ModelShape) -> Problem:
    return Problem(
        code="wrapper_not_loaded",
        message=f"{recipe.base_model} can be trained {shape.tier}: {shape.tier_reason}; choose the text-only model of "
        "that family where there is one",
        reason=Reason.MODEL_NOT_ALLOWED,
        key="base_model",
        found=recipe.base_model,
    )


def _not_in_4_bits(recipe: Recipe, shape: ModelShape) -> Problem:
    return Problem(
        code="in_16_bits_only",
        message=f"load_in_4bit is true, but {recipe.base_model} can be trained {shape.tier}: {shape.tier_reason}; "
        "load_in_4bit: false trains it",
        reason=Reason.RECIPE_SCHEMA,
        key="load_in_4bit",
        found="true",
        expected="false",
    )
