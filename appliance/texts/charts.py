"""What the pictures of a training show: series of values by step, and the same in words. Pure.

`step` and `eval` events come once for each step, in their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

import numpy as np
from numpy.typing import NDArray

from appliance.texts.report import Facts
from appliance.texts.wording import loss, rate, sentence

FEWEST_FOR_A_TREND: Final = 20
# As much of the run as one point of the trend averages over.
TREND_SHARE: Final = 1 / 20


@dataclass(frozen=True)
class Series:
    """Finite values by step."""

    label: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def __bool__(self) -> bool:
        return len(self.steps) > 0

    @property
    def lowest(self) -> tuple[int, float]:
        """The step with the lowest value, and that value."""
        index = int(self.values.argmin())
        return int(self.steps[index]), float(self.values[index])


@dataclass(frozen=True)
class Chart:
    """One pair of axes. `points` are few and far between; `tick` writes a value at the axis."""

    title: str
    unit: str
    summary: str
    lines: tuple[Series, ...]
    points: Series | None = None
    trend: bool = False
    from_zero: bool = True
    tick: Callable[[float], str] = "{:,.6g}".format


def loss_chart(steps: Sequence[Facts], evals: Sequence[Facts]) -> Chart:
    """Training loss with its trend, and the held-out losses."""
    train = _series("training loss", [(event["step"], event["loss"]) for event in steps])
    held_out = _series("held-out loss", [(event["step"], event["loss"]) for event in evals]) or None
    return Chart(
        "Loss" if held_out else "Training loss",
        "nats per token",
        " ".join([_course(train), *([_lowest(held_out)] if held_out else [])]),
        (train,),
        points=held_out,
        trend=True,
        from_zero=False,
    )


def learning_rate_chart(steps: Sequence[Facts]) -> Chart:
    rates = _series("learning rate", [(event["step"], event["learning_rate"]) for event in steps])
    highest = float(rates.values.max())
    tick = exponential(highest)
    return Chart("Learning rate", "", f"At most {tick(highest)}.", (rates,), tick=tick)


def speed_chart(steps: Sequence[Facts]) -> Chart:
    """Content tokens a second, step by step, with the trend."""
    before = [0, *(event["content_tokens"] for event in steps)]
    speeds = [
        (event["step"], (event["content_tokens"] - seen) / event["seconds"] if event["seconds"] > 0 else None)
        for event, seen in zip(steps, before, strict=False)
    ]
    speed = _series("tokens per second", speeds)
    return Chart("Speed", "tokens per second", sentence(f"{_range(speed)} tokens per second"), (speed,), trend=True)


def memory_chart(steps: Sequence[Facts]) -> Chart:
    """Memory of the process, and what the GPU has reserved where there is one."""
    process = _series("process", [(event["step"], _gigabytes(event.get("memory_bytes"))) for event in steps])
    gpu = _series("GPU, reserved", [(event["step"], _gigabytes(event.get("cuda_reserved_bytes"))) for event in steps])
    lines = tuple(line for line in (process, gpu) if line)
    return Chart("Memory", "GB", sentence("; ".join(f"{line.label}: {_range(line)} GB" for line in lines)), lines)


def _series(label: str, pairs: Sequence[tuple[float, float | None]]) -> Series:
    finite = [(step, value) for step, value in pairs if value is not None and np.isfinite(value)]
    points = np.array(finite, dtype=np.float64).reshape(-1, 2)
    return Series(label, points[:, 0], points[:, 1])


def _gigabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e9


def _course(train: Series) -> str:
    if not train:
        return "No step had a loss that is a number."
    ends = [f"{loss(train.values[end])} at step {train.steps[end]:,.0f}" for end in (0, -1)]
    return f"Training loss: {' to '.join(dict.fromkeys(ends))}."


def _lowest(held_out: Series) -> str:
    step, value = held_out.lowest
    return f"The lowest held-out loss is {loss(value)}, at step {step:,}."


def _range(line: Series) -> str:
    if not line:
        return "no"
    return " to ".join(dict.fromkeys((rate(line.values.min()), rate(line.values.max()))))


def exponential(highest: float) -> Callable[[float], str]:
    """A way to write values up to `highest` that share its power of ten, as recipes write them: `2e-4`, `0.5e-4`."""
    if highest <= 0:
        return "{:g}".format
    power = floor(log10(highest))
    return lambda value: f"{value / 10.0**power:.3g}e{power}" if value else "0"


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The running mean: each value averaged with its neighbours on both sides, with fewer of them near the ends."""
    count = len(values)
    most = max(1, round(count * TREND_SHARE / 2))
    centre = np.arange(count)
    # Never quite none: one noisy value must not end the line.
    reach = np.clip(np.minimum(centre, centre[::-1]), most // 4, most)
    first, last = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, count)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def thinned(
    steps: NDArray[np.float64], values: NDArray[np.float64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `most` points that look the same: the lowest and the highest of every stretch, so no spike is lost."""
    if len(steps) <= most:
        return steps, values
    stretches = np.array_split(np.arange(len(steps)), most // 2)
    extremes = [(part[values[part].argmin()], part[values[part].argmax()]) for part in stretches]
    kept = np.unique(np.array(extremes))
    return steps[kept], values[kept]
