"""What a stage reports while it works, folded into one picture. Pure.

The events are described in CONTRIBUTING.md, "Between daemon and stage".
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.texts.wording import size

# Steps that the measured rate looks back on: enough to be calm, few enough to follow a slowdown.
RATE_STEPS = 20


@dataclass(frozen=True)
class Pace:
    """One finished step: when it ended, how long it took, and the content tokens seen by then."""

    time: float
    seconds: float
    content_tokens: int


@dataclass(frozen=True)
class Progress:
    """How far a stage has come. Counts are over the whole job: they go on across a resume."""

    last_event: float | None = None
    done: float | None = None
    total: float | None = None
    unit: str = ""
    tokens: int | None = None
    """Tokens seen, by a stage that counts them beside its rows."""
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    content_tokens: int = 0
    padding_tokens: int = 0
    target_tokens: int = 0
    samples: int = 0
    nonfinite_losses: int = 0
    memory_bytes: int | None = None
    cuda_reserved_bytes: int | None = None
    cuda_peak_reserved_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_estimate_bytes: int | None = None
    """What the plan expected the training to need."""
    model_flops_per_token: float | None = None
    last_checkpoint: float | None = None
    pace: tuple[Pace, ...] = field(default=(), repr=False)

    @property
    def tokens_per_second(self) -> float | None:
        """Content tokens over the wall time of the last steps; padding does not count."""
        if len(self.pace) < 2:
            return None
        seconds = sum(step.seconds for step in self.pace[1:])
        tokens = self.pace[-1].content_tokens - self.pace[0].content_tokens
        return tokens / seconds if seconds > 0 else None

    @property
    def model_flops_per_second(self) -> float | None:
        """What the model itself needed of the machine over the last steps."""
        speed = self.tokens_per_second
        return None if speed is None or self.model_flops_per_token is None else speed * self.model_flops_per_token

    @property
    def seconds_left(self) -> float | None:
        """What the remaining steps take at the measured rate of this run."""
        if self.step is None or self.total_steps is None or not self.pace:
            return None
        recent = [step.seconds for step in self.pace]
        return (self.total_steps - self.step) * sum(recent) / len(recent)

    @property
    def fraction(self) -> float | None:
        """How much is done, 0 to 1, where that is known."""
        if self.total_steps:
            return (self.step or 0) / self.total_steps
        return self.done / self.total if self.done is not None and self.total else None

    @property
    def missing_bytes(self) -> int:
        """What a download still brings, as far as it has said."""
        if self.unit != "bytes" or self.done is None or self.total is None:
            return 0
        return max(0, int(self.total - self.done))


def fold(progress: Progress, event: Mapping[str, Any]) -> Progress:
    """The picture after one more event. Unknown events only show that the stage is alive."""
    progress = replace(progress, last_event=event["time"])
    match event["event"]:
        case "progress":
            done, total, tokens = event["done"], event["total"], event.get("tokens")
            return replace(progress, done=done, total=total, unit=event["unit"], tokens=tokens)
        case "start":
            return replace(progress, step=event["attempt_step"], total_steps=event["total_steps"], pace=())
        case "step":
            return _fold_step(progress, event)
        case "eval":
            return replace(progress, eval_loss=event["loss"])
        case "checkpoint":
            return replace(progress, last_checkpoint=event["time"])
    return progress


def _fold_step(progress: Progress, event: Mapping[str, Any]) -> Progress:
    pace = Pace(event["time"], event["seconds"], event["content_tokens"])
    memory, reserved = event.get("memory_bytes"), event.get("cuda_reserved_bytes")
    return replace(
        progress,
        pace=(*progress.pace, pace)[-RATE_STEPS:],
        step=event["step"],
        epoch=event.get("epoch"),
        loss=event.get("loss"),
        learning_rate=event.get("learning_rate"),
        grad_norm=event.get("grad_norm"),
        content_tokens=event["content_tokens"],
        padding_tokens=event["padding_tokens"],
        target_tokens=event["target_tokens"],
        samples=event["samples"],
        nonfinite_losses=progress.nonfinite_losses + bool(event.get("nonfinite")),
        memory_bytes=memory,
        memory_peak_bytes=max(filter(None, (progress.memory_peak_bytes, memory)), default=None),
        cuda_reserved_bytes=reserved,
        cuda_peak_reserved_bytes=max(filter(None, (progress.cuda_peak_reserved_bytes, reserved)), default=None),
    )


@dataclass(frozen=True)
class Tally:
    """The furthest that a job's training has come. Steps that are repeated after a crash do not raise it again."""

    steps: int = 0
    content_tokens: int = 0
    padding_tokens: int = 0
    target_tokens: int = 0
    samples: int = 0

    def raised_by(self, event: Mapping[str, Any]) -> "Tally":
        """The tally after one more event; only step events count."""
        if event["event"] != "step":
            return self
        return Tally(
            max(self.steps, event["step"]),
            max(self.content_tokens, event["content_tokens"]),
            max(self.padding_tokens, event["padding_tokens"]),
            max(self.target_tokens, event["target_tokens"]),
            max(self.samples, event["samples"]),
        )


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The whole events in a piece of `progress.jsonl`. A line that is not an event (cut by a crash) is passed over."""
    events = []
    for line in text.split("\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event and "time" in event:
            events.append(event)
    return events


def last_of_each_step(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The step events without those that a resume repeated, in order of the step."""
    by_step = {event["step"]: event for event in events if event["event"] == "step"}
    return [by_step[step] for step in sorted(by_step)]


def how_far(progress: Progress) -> str:
    """How far a stage has come, as a phrase: `step 3 of 60`, `1,200 of 7,473 rows`; empty when it has not said."""
    if progress.total_steps:
        return f"step {progress.step} of {progress.total_steps}"
    if progress.done is None:
        return ""
    if progress.unit == "bytes":
        return size(progress.done) + (f" of {size(progress.total)}" if progress.total else "")
    of = f" of {progress.total:,.0f}" if progress.total else ""
    tokens = "" if progress.tokens is None else f", {progress.tokens:,} tokens"
    return f"{progress.done:,.0f}{of} {progress.unit}{tokens}"
