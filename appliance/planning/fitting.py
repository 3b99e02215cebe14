"""What fits this machine: how long examples may be, and how an optimizer step is cut into micro-batches. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from appliance.errors import InputError, Problem, Reason
from appliance.planning.memory_bill import GIB, Bill, Load, MachineKind, memory_bill
from appliance.planning.model_shape import ModelShape, Tier
from appliance.recipe import Recipe

LONGEST_SEQUENCE: Final = 8192
SEQUENCE_MULTIPLE: Final = 64
# Beyond this many tokens a micro-batch keeps any machine busy, and a larger one only costs memory.
MICRO_BATCH_TOKENS: Final = 16_384
CPU_OPTIMIZER: Final = "adamw_torch_fused"


@dataclass(frozen=True)
class Machine:
    """What a plan may spend. `flops_per_second` is what training really reaches, not what the brochure says."""

    memory_bytes: int
    reserve_bytes: int
    kind: MachineKind
    flops_per_second: float

    @property
    def budget_bytes(self) -> int:
        return self.memory_bytes - self.reserve_bytes


@dataclass(frozen=True)
class Split:
    """How an optimizer step is cut into micro-batches, and what that needs."""

    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool
    bill: Bill


def sequence_cap(recipe: Recipe, shape: ModelShape, machine: Machine) -> int:
    """The most tokens an example may have: the recipe's number, or what model, memory and 8,192 allow.

    When not even the shortest fits, memory is left out of it: the plan will say that nothing fits.
    """
    if recipe.max_seq_length != "auto":
        return min(recipe.max_seq_length, shape.positions)
    cap = min(LONGEST_SEQUENCE, shape.positions)
    load = load_of(recipe, shape, machine.kind)
    checkpointing = recipe.gradient_checkpointing is not False
    micro_batch = 1 if recipe.per_device_train_batch_size == "auto" else recipe.per_device_train_batch_size

    def fits(sequence: int) -> bool:
        bill = memory_bill(load, micro_batch=micro_batch, sequence=sequence, gradient_checkpointing=checkpointing)
        return bill.total_bytes <= machine.budget_bytes

    shorter = range(cap, 0, -SEQUENCE_MULTIPLE)
    return next((sequence for sequence in shorter if fits(sequence)), cap)


def sequence_length(longest: int, cap: int) -> int:
    """`max_seq_length: auto`: the longest kept row rounded up, never beyond the cap."""
    return min(ceil(max(longest, 1) / SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE, cap)


def effective_batch_size(recipe: Recipe, rows: int | None) -> int:
    """What the recipe asks for; `auto` goes by the number of rows and respects a micro-batch that was asked for."""
    micro_batch = recipe.per_device_train_batch_size
    if recipe.effective_batch_size == "auto":
        wanted = 8 if rows is not None and rows < 1000 else 16
        return wanted if micro_batch == "auto" else ceil(wanted / micro_batch) * micro_batch
    if micro_batch != "auto" and recipe.effective_batch_size % micro_batch:
        raise InputError([_not_a_multiple(recipe.effective_batch_size, micro_batch)])
    return recipe.effective_batch_size


def choose_split(recipe: Recipe, load: Load, machine: Machine, *, effective: int, sequence: int) -> Split:
    """The fastest split that fits; when none does, the smallest."""
    splits = [
        _split(load, micro_batch, effective, sequence, gradient_checkpointing=checkpointing)
        for checkpointing in _checkpointing_modes(recipe)
        for micro_batch in _micro_batches(recipe, effective, sequence)
    ]
    fitting = (split for split in splits if split.bill.total_bytes <= machine.budget_bytes)
    return next(fitting, min(splits, key=lambda split: split.bill.total_bytes))


def smaller_split(micro_batch: int, accumulation: int) -> tuple[int, int] | None:
    """The next smaller micro-batch with the same effective batch, for another try after an out-of-memory."""
    effective = micro_batch * accumulation
    smaller = next((size for size in range(micro_batch // 2, 0, -1) if effective % size == 0), None)
    return None if smaller is None else (smaller, effective // smaller)


def would_fit(recipe: Recipe, shape: ModelShape, machine: Machine, sequence: int) -> list[str]:
    """Changes to the recipe that would make it fit, the least painful first."""
    changes: list[tuple[str, dict[str, Any], int]] = [
        *((f"max_seq_length: {shorter}", {}, shorter) for shorter in _halvings(sequence)),
        ("lora.r: 8", {"lora": recipe.lora.model_copy(update={"r": min(8, recipe.lora.r)})}, sequence),
        ("load_in_4bit: true", {"load_in_4bit": True}, sequence),
    ]
    return [
        words for words, update, length in changes if _fits(recipe.model_copy(update=update), shape, machine, length)
    ]


def refuse_what_never_fits(recipe: Recipe, shape: ModelShape, machine: Machine) -> None:
    """Raise InputError when not even the shortest rows could be trained on: before gigabytes are fetched for it."""
    shortest = SEQUENCE_MULTIPLE if recipe.max_seq_length == "auto" else min(recipe.max_seq_length, shape.positions)
    load = load_of(recipe, shape, machine.kind)
    split = choose_split(recipe, load, machine, effective=effective_batch_size(recipe, None), sequence=shortest)
    if split.bill.total_bytes > machine.budget_bytes:
        raise InputError([does_not_fit(split.bill, machine, would_fit(recipe, shape, machine, shortest))])


def does_not_fit(bill: Bill, machine: Machine, advice: list[str]) -> Problem:
    """Training needs more than this machine can ever give."""
    needs, has = bill.total_bytes / GIB, machine.budget_bytes / GIB
    what = f"{' or '.join(advice[:3])} would fit" if advice else "a smaller base model would fit"
    return Problem(
        code="does_not_fit",
        message=f"training needs {needs:.1f} GiB, but this machine has {has:.1f} GiB to spend "
        f"({machine.reserve_bytes / GIB:.1f} GiB are kept in reserve); {what}",
        reason=Reason.WOULD_NOT_FIT,
        key="base_model",
        found=f"{needs:.1f} GiB",
        expected=f"at most {has:.1f} GiB",
    )


def load_of(recipe: Recipe, shape: ModelShape, kind: MachineKind) -> Load:
    """What the recipe trains on this base model.

    Raises InputError for modules that the model lacks, and for a model that is trained in 16 bits only.
    """
    if recipe.load_in_4bit and shape.tier is Tier.IN_16_BIT:
        raise InputError([_not_in_4_bits(recipe, shape)])
    targets = shape.targets(recipe.lora.target_modules)
    return Load(shape, recipe.load_in_4bit, recipe.lora.r, targets, optimizer(recipe, kind), kind)


def optimizer(recipe: Recipe, kind: MachineKind) -> str:
    """The recipe's optimizer; those that need a GPU have a stand-in on a CPU."""
    needs_gpu = recipe.optim.startswith("paged") or recipe.optim.endswith("8bit")
    return CPU_OPTIMIZER if kind == "cpu" and needs_gpu else recipe.optim


def _fits(recipe: Recipe, shape: ModelShape, machine: Machine, sequence: int) -> bool:
    load = load_of(recipe, shape, machine.kind)
    split = choose_split(recipe, load, machine, effective=effective_batch_size(recipe, None), sequence=sequence)
    return split.bill.total_bytes <= machine.budget_bytes


def _halvings(sequence: int) -> Iterator[int]:
    while (sequence := sequence // 2) >= 4 * SEQUENCE_MULTIPLE:
        yield sequence


def _checkpointing_modes(recipe: Recipe) -> tuple[bool, ...]:
    """Without first: it saves a third of the arithmetic."""
    return (False, True) if recipe.gradient_checkpointing == "auto" else (recipe.gradient_checkpointing,)


def _micro_batches(recipe: Recipe, effective: int, sequence: int) -> list[int]:
    """Sizes that divide the effective batch, the largest first."""
    if recipe.per_device_train_batch_size != "auto":
        return [recipe.per_device_train_batch_size]
    most = max(1, MICRO_BATCH_TOKENS // sequence)
    return [size for size in range(min(effective, most), 0, -1) if effective % size == 0]


def _split(load: Load, micro_batch: int, effective: int, sequence: int, *, gradient_checkpointing: bool) -> Split:
    bill = memory_bill(load, micro_batch=micro_batch, sequence=sequence, gradient_checkpointing=gradient_checkpointing)
    return Split(micro_batch, effective // micro_batch, gradient_checkpointing, bill)


def _not_a_multiple(wanted: int, micro_batch: int) -> Problem:
    nearest = micro_batch * max(1, round(wanted / micro_batch))
    return Problem(
        code="batch_not_divisible",
        message=f"effective_batch_size is {wanted}, which is not a multiple of per_device_train_batch_size "
        f"{micro_batch}; {nearest} would be",
        reason=Reason.RECIPE_SCHEMA,
        key="effective_batch_size",
        found=str(wanted),
        expected=str(nearest),
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
