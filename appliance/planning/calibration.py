"""What finished trainings have shown on this machine, and how that corrects the next plan. Pure.

A measurement is kept under the setting that it was made with: shape of the model, precision, sequence, micro-batch and
mode. The same setting answers first; then the same model in another; for speed also a model of like size.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, Self

# A single odd measurement, such as one beside another program, must not make a plan absurd.
MEMORY_FACTORS: Final = (0.7, 2.0)
SPEED_FACTORS: Final = (0.02, 20.0)
# Models that differ by more than this in arithmetic say nothing about each other's speed.
LIKE_SIZE: Final = 4.0
RECENT: Final = 5


@dataclass(frozen=True)
class Setting:
    """What memory and speed depend on."""

    shape: str
    kind: str
    load_in_4bit: bool
    gradient_checkpointing: bool
    sequence: int
    micro_batch: int

    def same_model(self, other: "Setting") -> bool:
        """The same model in the same precision and mode, whatever the lengths."""
        return self._model == other._model

    @property
    def _model(self) -> tuple[str, str, bool, bool]:
        return self.shape, self.kind, self.load_in_4bit, self.gradient_checkpointing


@dataclass(frozen=True)
class Forecast:
    """What a plan expected before any correction. `fixed_bytes` are those that no length changes."""

    setting: Setting
    compute_parameters: int
    fixed_bytes: int
    total_bytes: int
    tokens_per_second: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "setting": Setting(**value["setting"])})


@dataclass(frozen=True)
class Measurement:
    """What came of a forecast: at its steady pace, and how much time goes by besides (starting, warming up)."""

    forecast: Forecast
    peak_bytes: int
    tokens_per_second: float
    startup_seconds: float

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        value = json.loads(text)
        return cls(**{**value, "forecast": Forecast.from_json(value["forecast"])})

    @property
    def memory_factor(self) -> float:
        """By how much the part that depends on lengths was off."""
        expected = self.forecast.total_bytes - self.forecast.fixed_bytes
        return (self.peak_bytes - self.forecast.fixed_bytes) / expected

    @property
    def speed_factor(self) -> float:
        return self.tokens_per_second / self.forecast.tokens_per_second


@dataclass(frozen=True)
class Calibration:
    """The measurements of this machine, the newest first."""

    measurements: tuple[Measurement, ...] = ()

    def memory_factor(self, setting: Setting) -> float | None:
        """What to multiply the part of a bill that depends on lengths with; None where nothing is known.

        Of other lengths the worst counts: too much memory planned costs a little speed, too little the job.
        """
        exact, like = self._of(setting)
        if exact:
            return _within(exact[0].memory_factor, MEMORY_FACTORS)
        return _within(max(m.memory_factor for m in like), MEMORY_FACTORS) if like else None

    def speed_factor(self, setting: Setting, compute_parameters: int) -> float | None:
        """What to multiply an estimated speed with; None where nothing is known."""
        exact, like = self._of(setting)
        found = exact or like or [m for m in self.measurements if _is_like(m.forecast, setting, compute_parameters)]
        if not found:
            return None
        return _within(median(m.speed_factor for m in found[:RECENT]), SPEED_FACTORS)

    def startup_seconds(self, setting: Setting) -> float | None:
        """How long it takes until the first step; None where nothing is known."""
        found = [m for m in self.measurements if m.forecast.setting.shape == setting.shape]
        return median(m.startup_seconds for m in found[:RECENT]) if found else None

    def _of(self, setting: Setting) -> tuple[list[Measurement], list[Measurement]]:
        """Those of this very setting, and those of the same model in any."""
        exact = [m for m in self.measurements if m.forecast.setting == setting]
        return exact, [m for m in self.measurements if m.forecast.setting.same_model(setting)]


def measure(plan: Mapping[str, Any], train: Mapping[str, Any]) -> Measurement | None:
    """What a finished training says of its plan, by `plan.json` and the train stage's result.

    None when it was not trained as planned (in smaller pieces after running out of memory), or too short to say much.
    """
    forecast = plan.get("forecast")
    if not forecast or train.get("attempt_steps", 0) < 2:
        return None
    setting = forecast["setting"]
    # Another try after an out-of-memory changes the plan, and what was forecast is then about something else.
    as_planned = (setting["micro_batch"], setting["gradient_checkpointing"])
    if as_planned != (train.get("per_device_train_batch_size"), plan["gradient_checkpointing"]):
        return None
    return Measurement(
        forecast=Forecast.from_json(forecast),
        peak_bytes=train["training_peak_bytes"],
        tokens_per_second=train["steady_tokens_per_second"],
        startup_seconds=train["startup_seconds"],
    )


def _is_like(forecast: Forecast, setting: Setting, compute_parameters: int) -> bool:
    ratio = forecast.compute_parameters / compute_parameters
    return forecast.setting.kind == setting.kind and 1 / LIKE_SIZE <= ratio <= LIKE_SIZE


def _within(factor: float, bounds: tuple[float, float]) -> float:
    return min(max(factor, bounds[0]), bounds[1])
