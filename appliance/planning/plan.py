"""The plan: what a recipe means for this model, this dataset and this machine, worked out before anything is loaded.

Pure and fast: no files, no torch. `make_plan` decides how the effective batch is split, whether activations are
recomputed, how many steps there are, and adds up the memory and the time all of that takes.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from appliance.planning.calibration import Forecast
from appliance.planning.fitting import (
    LONGEST_SEQUENCE,
    effective_batch_size,
    load_of,
    optimizer,
    sequence_cap,
)
from appliance.planning.machine import Machine
from appliance.planning.memory_bill import KERNEL_LENGTHS, Bill, Load
from appliance.planning.model_shape import ModelShape
from appliance.planning.speed import model_flops_per_token, seconds_of_evaluation, startup_seconds
from appliance.planning.splits import Rows, Split, choose_split, possible_splits
from appliance.recipe import Recipe

# Assumed while nothing is known about the rows.
USUAL_SEQUENCE: Final = 2048
FEWEST_WARMUP_STEPS: Final = 5


@dataclass(frozen=True)
class DataFacts:
    """What is known about the rows: `rows` in the dataset, `examples` of them trained on, with `tokens` in all, and how
    many are held out; `lengths` is how many different lengths they have."""

    rows: int
    examples: int
    tokens: int
    max_seq_length: int
    held_out: int = 0
    lengths: int = KERNEL_LENGTHS


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
    is_measured: bool
    """Whether finished trainings on this machine have corrected memory or speed."""
    alternatives: tuple[Split, ...]
    """Every split that was considered, the chosen one among them."""
    forecast: Forecast
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The object of `plan.json`."""
        memory = asdict(self.memory) | {
            "total_bytes": self.memory.total_bytes,
            "machine_bytes": self.machine.memory_bytes,
            "reserve_bytes": self.machine.reserve_bytes,
        }
        own = {"memory", "machine", "alternatives", "forecast"}
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        return {
            **fields,
            "memory": memory,
            "machine_kind": self.machine.kind,
            "alternatives": [split.as_json(self.machine) for split in self.alternatives],
            "forecast": asdict(self.forecast),
        }


def make_plan(recipe: Recipe, shape: ModelShape, data: DataFacts | None, machine: Machine) -> Plan:
    """The plan for a recipe; without `data`, steps and time stay open.

    Raises InputError when the recipe contradicts itself or names modules that the model lacks. A plan that does not
    fit is still a plan: `fits` is False.
    """
    load = load_of(recipe, shape, machine.kind)
    effective = effective_batch_size(recipe, data.rows if data else None)
    sequence = data.max_seq_length if data else _sequence(recipe, shape, machine)
    rows = _rows(data, sequence)
    splits = possible_splits(recipe, load, machine, rows, effective=effective)
    split = choose_split(splits, machine)
    epochs = _epochs(recipe, data, effective)
    steps = _total_steps(recipe, data, effective, epochs)
    return Plan(
        total_parameters=shape.total_parameters,
        trainable_parameters=load.trainable_parameters,
        memory=split.bill,
        machine=machine,
        fits=split.fits(machine),
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
        model_flops_per_token=model_flops_per_token(load, rows.mean),
        tokens_per_second_estimate=round(split.tokens_per_second, 1),
        seconds_estimate=_seconds(load, machine, split, data, steps, epochs, rows.mean),
        is_measured=split.is_measured,
        alternatives=tuple(splits),
        forecast=split.forecast,
        notes=(
            *_notes(recipe, shape, machine, split),
            *_warmup_notes(recipe, steps),
            *_patience_notes(recipe, epochs),
        ),
    )


def _sequence(recipe: Recipe, shape: ModelShape, machine: Machine) -> int:
    """While nothing is known about the rows: the recipe's own number, or what is usual."""
    cap = sequence_cap(recipe, shape, machine)
    return min(cap, USUAL_SEQUENCE) if recipe.max_seq_length == "auto" else cap


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
    """What the recipe asks for, where that leaves a step at the full learning rate; else half of the run.

    The first step of a warm-up has a learning rate of zero: a run of one step has none.
    """
    wanted = _wanted_warmup_steps(recipe, steps)
    return wanted if wanted < steps else steps // 2


def _wanted_warmup_steps(recipe: Recipe, steps: int) -> int:
    """The recipe's number, or its share of the steps: at least five, but never more than half of a short run."""
    if recipe.warmup_steps is not None:
        return recipe.warmup_steps
    if not recipe.warmup_ratio:
        return 0
    share = max(FEWEST_WARMUP_STEPS, ceil(recipe.warmup_ratio * steps))
    return min(share, steps // 2) if steps < 2 * FEWEST_WARMUP_STEPS else share


def _seconds(
    load: Load,
    machine: Machine,
    split: Split,
    data: DataFacts | None,
    steps: int | None,
    epochs: float | None,
    length: float,
) -> float | None:
    """Until the adapter is trained: start, steps, and scoring the held-out rows after every epoch."""
    if data is None or steps is None or epochs is None:
        return None
    measured = machine.calibration.startup_seconds(split.forecast.setting)
    start = startup_seconds(load, machine, split.bill.weights_bytes) if measured is None else measured
    training = length * split.micro_batch * split.accumulation * steps / split.tokens_per_second
    scored = data.held_out * ceil(epochs)
    each = seconds_of_evaluation(load, machine, length=length, factor=split.speed_factor)
    return round(start + training + scored * each, 1)


def _rows(data: DataFacts | None, sequence: int) -> Rows:
    if data is None or not data.examples:
        return Rows(sequence, sequence)
    return Rows(sequence, data.tokens / data.examples, max(1, data.lengths))


def _notes(recipe: Recipe, shape: ModelShape, machine: Machine, split: Split) -> Iterator[str]:
    if recipe.packing is not False:
        yield "packing is off: without variable-length attention, packed examples would see each other"
    cap = sequence_cap(recipe, shape, machine)
    if recipe.max_seq_length == "auto" and cap < min(LONGEST_SEQUENCE, shape.positions):
        yield f"this machine's memory caps max_seq_length at {cap}"
    if recipe.max_seq_length not in ("auto", cap):
        yield f"the base model has {shape.positions} positions, which caps max_seq_length at {cap}"
    if shape.is_mixture:
        yield "the experts are no linear layers and stay as they are; what is trained is the attention"
    if shape.has_towers:
        yield (
            "only the language model is trained, its towers for images and sound are left alone; some servers load the "
            "adapters of such wrapped models without any effect, so try yours before you rely on it"
        )
    if split.gradient_checkpointing:
        yield "activations are recomputed (gradient checkpointing), which costs about half as much time again"
    if (stand_in := optimizer(recipe, machine.kind)) != recipe.optim:
        yield f"{recipe.optim} needs a GPU; {stand_in} takes its place"
    elif recipe.optim.startswith("paged") and machine.unified:
        yield f"{recipe.optim} pages between two memories; a machine with unified memory has only one"


def _warmup_notes(recipe: Recipe, steps: int | None) -> Iterator[str]:
    if steps is None or (used := _warmup_steps(recipe, steps)) == _wanted_warmup_steps(recipe, steps):
        return
    key = "warmup_ratio" if recipe.warmup_steps is None else "warmup_steps"
    yield (
        f"{key}: {getattr(recipe, key)} leaves no step of {steps:,} at the full learning rate; "
        f"warmup_steps: {used} is used instead"
    )


def _patience_notes(recipe: Recipe, epochs: float | None) -> Iterator[str]:
    """Held-out rows are scored at the end of every epoch; the first score has nothing to be worse than."""
    patience = recipe.early_stopping_patience
    if patience is not None and epochs is not None and ceil(epochs) <= patience + 1:
        yield f"early_stopping_patience: {patience} acts after epoch {patience + 1} at the earliest: too late here"
