"""How an optimizer step can be cut into micro-batches, what that needs, and which way is the fastest. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from appliance.planning.calibration import Forecast, Setting
from appliance.planning.machine import Machine
from appliance.planning.memory_bill import KERNEL_LENGTHS, Bill, Load, corrected, memory_bill
from appliance.planning.speed import tokens_per_second
from appliance.recipe import Recipe

# Beyond this many tokens a micro-batch keeps any machine busy, and a larger one only costs memory.
MICRO_BATCH_TOKENS: Final = 16_384
# An estimate cannot tell splits apart that differ by less; the smaller one leaves room for what nobody foresaw.
SAME_SPEED: Final = 0.02


@dataclass(frozen=True)
class Rows:
    """How long the rows are: at most, on average, and in how many different lengths."""

    longest: int
    mean: float
    lengths: int = KERNEL_LENGTHS


@dataclass(frozen=True)
class Split:
    """One way to cut an optimizer step, with what it needs and how fast it is, as far as this machine has shown.

    `forecast` is the same without what other trainings have shown; `is_measured` says whether any have.
    """

    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool
    bill: Bill
    tokens_per_second: float
    speed_factor: float
    forecast: Forecast
    is_measured: bool

    def fits(self, machine: Machine) -> bool:
        return self.bill.total_bytes <= machine.budget_bytes

    def as_json(self, machine: Machine) -> dict[str, Any]:
        """One entry of `alternatives` in `plan.json`."""
        return {
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_checkpointing": self.gradient_checkpointing,
            "total_bytes": self.bill.total_bytes,
            "fits": self.fits(machine),
            "tokens_per_second_estimate": round(self.tokens_per_second, 1),
        }


def possible_splits(recipe: Recipe, load: Load, machine: Machine, rows: Rows, *, effective: int) -> list[Split]:
    """Every way that the recipe leaves open."""
    ways = product(checkpointing_modes(recipe), _micro_batches(recipe, effective, rows.longest))
    return [make_split(load, machine, rows, size, effective // size, checkpointing) for checkpointing, size in ways]


def choose_split(splits: Sequence[Split], machine: Machine) -> Split:
    """The fastest that fits, of equally fast ones the smallest; when none fits, the smallest of all."""
    fitting = [split for split in splits if split.fits(machine)]
    fastest = max((split.tokens_per_second for split in fitting), default=0.0)
    as_fast = [split for split in fitting if split.tokens_per_second >= (1 - SAME_SPEED) * fastest]
    return min(as_fast or splits, key=lambda split: split.bill.total_bytes)


def make_split(
    load: Load, machine: Machine, rows: Rows, micro_batch: int, accumulation: int, gradient_checkpointing: bool
) -> Split:
    """One way to cut a step, corrected by what this machine has shown."""
    bill = memory_bill(
        load,
        micro_batch=micro_batch,
        sequence=rows.longest,
        gradient_checkpointing=gradient_checkpointing,
        lengths=rows.lengths,
    )
    setting = Setting(
        shape=load.shape.fingerprint,
        kind=machine.kind,
        load_in_4bit=load.load_in_4bit,
        gradient_checkpointing=gradient_checkpointing,
        sequence=rows.longest,
        micro_batch=micro_batch,
    )
    speed = tokens_per_second(
        load, machine, micro_batch=micro_batch, gradient_checkpointing=gradient_checkpointing, length=rows.mean
    )
    forecast = Forecast(setting, load.shape.compute_parameters, bill.fixed_bytes, bill.total_bytes, speed)
    memory = machine.calibration.memory_factor(setting)
    faster = machine.calibration.speed_factor(setting, load.shape.compute_parameters)
    return Split(
        micro_batch=micro_batch,
        accumulation=accumulation,
        gradient_checkpointing=gradient_checkpointing,
        bill=bill if memory is None else corrected(bill, memory),
        tokens_per_second=speed * (faster or 1.0),
        speed_factor=faster or 1.0,
        forecast=forecast,
        is_measured=memory is not None or faster is not None,
    )


def smaller_split(micro_batch: int, accumulation: int) -> tuple[int, int] | None:
    """The next smaller micro-batch with the same effective batch, for another try after an out-of-memory."""
    effective = micro_batch * accumulation
    smaller = next((size for size in range(micro_batch // 2, 0, -1) if effective % size == 0), None)
    return None if smaller is None else (smaller, effective // smaller)


def checkpointing_modes(recipe: Recipe) -> tuple[bool, ...]:
    """Without first: it saves a third of the arithmetic."""
    return (False, True) if recipe.gradient_checkpointing == "auto" else (recipe.gradient_checkpointing,)


def _micro_batches(recipe: Recipe, effective: int, sequence: int) -> list[int]:
    """Sizes that divide the effective batch, the largest first."""
    if recipe.per_device_train_batch_size != "auto":
        return [recipe.per_device_train_batch_size]
    most = max(1, MICRO_BATCH_TOKENS // sequence)
    return [size for size in range(min(effective, most), 0, -1) if effective % size == 0]
