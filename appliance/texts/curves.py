"""The curves of a job in words and as the simplest of drawings, for readers without scripts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.texts.wording import loss, rate, sentence, size

WIDTH: Final = 600
HEIGHT: Final = 160
MARGIN: Final = 6

Column = Sequence[float | None]
Columns = Mapping[str, Column]


@dataclass(frozen=True)
class Curve:
    """One figure: its title, what it shows in words, and the points of its lines as SVG writes them."""

    name: str
    title: str
    words: str
    lines: tuple[str, ...]


def curves(columns: Columns) -> tuple[Curve, ...]:
    """Loss, speed and memory of a training; figures without values have no lines."""
    steps = columns["step"]
    losses = [(steps, columns["loss"]), (columns["eval_step"], columns["eval_loss"])]
    speed = [(steps, columns["tokens_per_second"])]
    memory = [(steps, columns["memory_bytes"]), (steps, columns["cuda_reserved_bytes"])]
    return (
        Curve("loss", "Loss, in nats per token", _loss_words(columns), _drawn(losses)),
        Curve("speed", "Tokens per second, padding excluded", _last_words(columns["tokens_per_second"]), _drawn(speed)),
        Curve("memory", "Memory of the training", _memory_words(columns), _drawn(memory)),
    )


def _loss_words(columns: Columns) -> str:
    words = [_course("Training loss", columns["step"], columns["loss"])]
    words.append(_course("held-out loss", columns["eval_step"], columns["eval_loss"]))
    return "; ".join(filter(None, words)) + "." if any(words) else "No step is done yet."


def _course(what: str, steps: Column, values: Column) -> str:
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if not known:
        return ""
    ends = [f"{loss(value)} at step {step:,.0f}" for step, value in (known[0], known[-1])]
    return f"{what}: {' to '.join(dict.fromkeys(ends))}"


def _last_words(values: Column) -> str:
    known = [value for value in values if value is not None]
    return f"{rate(known[-1])} tokens per second at last." if known else "No step is done yet."


def _memory_words(columns: Columns) -> str:
    highest = {
        what: max(filter(None, columns[name]), default=None)
        for what, name in (("process", "memory_bytes"), ("reserved on the GPU", "cuda_reserved_bytes"))
    }
    words = [f"{what} at most {size(value)}" for what, value in highest.items() if value is not None]
    return sentence(", ".join(words)) if words else "No step is done yet."


def _drawn(lines: Sequence[tuple[Column, Column]]) -> tuple[str, ...]:
    """Lines that share their axes, as the `points` of SVG polylines."""
    known = [[(x, y) for x, y in zip(*line, strict=True) if x is not None and y is not None] for line in lines]
    points = [point for line in known for point in line]
    if len(points) < 2:
        return ()
    low, high = min(y for _, y in points), max(y for _, y in points)
    last = max(x for x, _ in points)
    return tuple(
        " ".join(f"{_across(x, last):.1f},{_down(y, low, high):.1f}" for x, y in line) for line in known if line
    )


def _across(x: float, last: float) -> float:
    return WIDTH * x / last if last else 0.0


def _down(y: float, low: float, high: float) -> float:
    share = (y - low) / (high - low) if high > low else 0.5
    return MARGIN + (HEIGHT - 2 * MARGIN) * (1 - share)
