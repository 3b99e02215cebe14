"""The plan: what a recipe means for this model, this dataset and this machine, worked out before anything is loaded.

Pure and fast: no files, no torch. `make_plan` decides how the effective batch is split, whether activations are
recomputed, how many steps there are, and adds up the memory and the time all of that takes.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from appliance.planning.fitting import (
    LONGEST_SEQUENCE,
    Machine,
    Split,
    choose_split,
    effective_batch_size,
    load_of,
    optimizer,
    sequence_cap,
)
from appliance.planning.memory_bill import Bill, Load
from appliance.planning.model_shape import ModelShape
from appliance.recipe import Recipe

# Assumed while nothing is known about the rows.
USUAL_SEQUENCE: Final = 2048
FEWEST_WARMUP_STEPS: Final = 5
# What one micro-batch costs whatever its size: launching kernels, collating, logging.
MICRO_BATCH_SECONDS: Final = {"cpu": 0.04, "gpu": 0.05}


@dataclass(frozen=True)
class DataFacts:
    """What is known about the rows: `rows` in the dataset, `examples` of them trained on, with `tokens` in all."""

    rows: int
    examples: int
    tokens: int
    max_seq_length: int


@dataclass(frozen=True)
class Plan:
    """Everything `plan.json` holds."""

    total_parameters: int
    trainable_parameters: int
    memory: Bill
    machine: Machine
    fits: bool
    effective_batch_size: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    max_seq_length: int
    target_modules: tuple[str, ...]
    target_module_count: int
    unquantised_module_count: int
    num_train_epochs: float | None
    total_steps: int | None
    warmup_steps: int | None
    packing: bool
    optim: str
    model_flops_per_token: float
    tokens_per_second_estimate: float
    seconds_estimate: float | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The object of `plan.json`."""
        memory = asdict(self.memory) | {
            "total_bytes": self.memory.total_bytes,
            "machine_bytes": self.machine.memory_bytes,
            "reserve_bytes": self.machine.reserve_bytes,
        }
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("memory", "machine")}
        lists = {"target_modules": list(self.target_modules), "notes": list(self.notes)}
        return fields | lists | {"memory": memory, "machine_kind": self.machine.kind}


def make_plan(recipe: Recipe, shape: ModelShape, data: DataFacts | None, machine: Machine) -> Plan:
    """The plan for a recipe; without `data`, steps and time stay open.

    Raises InputError when the recipe contradicts itself or names modules that the model lacks. A plan that does not
    fit is still a plan: `fits` is False.
    """
    load = load_of(recipe, shape, machine.kind)
    effective = effective_batch_size(recipe, data.rows if data else None)
    sequence = data.max_seq_length if data else min(sequence_cap(recipe, shape, machine), USUAL_SEQUENCE)
    split = choose_split(recipe, load, machine, effective=effective, sequence=sequence)
    epochs = _epochs(recipe, data, effective)
    steps = _total_steps(recipe, data, effective, epochs)
    speed = _tokens_per_second(load, machine, split, data, sequence)
    return Plan(
        total_parameters=shape.total_parameters,
        trainable_parameters=load.trainable_parameters,
        memory=split.bill,
        machine=machine,
        fits=split.bill.total_bytes <= machine.budget_bytes,
        effective_batch_size=effective,
        per_device_train_batch_size=split.micro_batch,
        gradient_accumulation_steps=split.accumulation,
        gradient_checkpointing=split.gradient_checkpointing,
        max_seq_length=sequence,
        target_modules=load.targets,
        target_module_count=load.target_module_count,
        unquantised_module_count=load.unquantised_target_count if recipe.load_in_4bit else 0,
        num_train_epochs=epochs,
        total_steps=steps,
        warmup_steps=None if steps is None else _warmup_steps(recipe, steps),
        packing=False,
        optim=load.optim,
        model_flops_per_token=model_flops_per_token(load, _mean_length(data, sequence)),
        tokens_per_second_estimate=round(speed, 1),
        seconds_estimate=None if steps is None or not data else round(_tokens(data, effective, steps) / speed, 1),
        notes=(*_notes(recipe, shape, machine, split), *_patience_notes(recipe, epochs)),
    )


def _epochs(recipe: Recipe, data: DataFacts | None, effective: int) -> float | None:
    """How often each row is seen; None while nothing is known about the rows."""
    if recipe.max_steps is not None:
        return round(recipe.max_steps / ceil(data.examples / effective), 4) if data and data.examples else None
    if recipe.num_train_epochs not in ("auto", None):
        return float(recipe.num_train_epochs)
    if data is None:
        return None
    return 3 if data.rows < 1000 else 2 if data.rows < 10_000 else 1


def _total_steps(recipe: Recipe, data: DataFacts | None, effective: int, epochs: float | None) -> int | None:
    if recipe.max_steps is not None:
        return recipe.max_steps
    if data is None or epochs is None:
        return None
    return ceil(ceil(data.examples / effective) * epochs)


def _warmup_steps(recipe: Recipe, steps: int) -> int:
    """The recipe's number, or its share of the steps: at least five, but never more than half of a short run."""
    if recipe.warmup_steps is not None:
        return recipe.warmup_steps
    if not recipe.warmup_ratio:
        return 0
    share = max(FEWEST_WARMUP_STEPS, ceil(recipe.warmup_ratio * steps))
    return min(share, max(1, steps // 2)) if steps < 2 * FEWEST_WARMUP_STEPS else share


def _tokens(data: DataFacts, effective: int, steps: int) -> float:
    """Tokens seen in the whole run."""
    return data.tokens / max(data.examples, 1) * effective * steps


def _tokens_per_second(load: Load, machine: Machine, split: Split, data: DataFacts | None, sequence: int) -> float:
    """Real tokens a second, from the arithmetic of one token and the fixed cost of one micro-batch."""
    length = _mean_length(data, sequence)
    seconds_per_token = flops_per_token(load, split.gradient_checkpointing, length) / machine.flops_per_second
    tokens = split.micro_batch * length
    return tokens / (tokens * seconds_per_token + MICRO_BATCH_SECONDS[machine.kind])


def _mean_length(data: DataFacts | None, sequence: int) -> float:
    """Tokens of an average example."""
    return data.tokens / data.examples if data and data.examples else sequence


def model_flops_per_token(load: Load, length: float) -> float:
    """What the model itself takes, for the utilisation (MFU): recomputed activations are not counted.

    4 FLOP a weight of the frozen base, 6 a weight of the adapters, and for attention what the PaLM paper (appendix B)
    counts, 12 × layers × heads × head size × sequence, without a discount for the causal mask; a layer with a window
    looks no further back than that.
    """
    attention = 12 * sum(
        layer.count * layer.attention_size * min(length, layer.window or length) for layer in load.shape.layers
    )
    return 4 * load.shape.compute_parameters + 6 * load.trainable_parameters + attention


def flops_per_token(load: Load, gradient_checkpointing: bool, length: float) -> float:
    """Forward and backward pass through a frozen base: 4 FLOP a weight (no weight gradients), 6 when recomputed.

    Attention looks back half the sequence on average and has a gradient on both sides; so have the adapters.
    """
    passes = 4 if gradient_checkpointing else 3
    base = (6 if gradient_checkpointing else 4) * load.shape.compute_parameters
    attention = (
        passes
        * 2
        * sum(
            layer.count * layer.attention_size * min(length, 2 * (layer.window or length))
            for layer in load.shape.layers
        )
    )
    return base + attention + 2 * passes * load.trainable_parameters


def _notes(recipe: Recipe, shape: ModelShape, machine: Machine, split: Split) -> Iterator[str]:
    if recipe.packing is not False:
        yield "packing is off: without variable-length attention, packed examples would see each other"
    cap = sequence_cap(recipe, shape, machine)
    if recipe.max_seq_length == "auto" and cap < min(LONGEST_SEQUENCE, shape.positions):
        yield f"this machine's memory caps max_seq_length at {cap}"
    if recipe.max_seq_length not in ("auto", cap):
        yield f"the base model has {shape.positions} positions, which caps max_seq_length at {cap}"
    if split.gradient_checkpointing:
        yield "activations are recomputed (gradient checkpointing), which costs about half as much time again"
    if (stand_in := optimizer(recipe, machine.kind)) != recipe.optim:
        yield f"{recipe.optim} needs a GPU; {stand_in} takes its place"
    elif recipe.optim.startswith("paged"):
        yield f"{recipe.optim} pages between two memories; a machine with unified memory has only one"


def _patience_notes(recipe: Recipe, epochs: float | None) -> Iterator[str]:
    """Held-out rows are scored at the end of every epoch; the first score has nothing to be worse than."""
    patience = recipe.early_stopping_patience
    if patience is not None and epochs is not None and ceil(epochs) <= patience + 1:
        yield f"early_stopping_patience: {patience} acts after epoch {patience + 1} at the earliest: too late here"
