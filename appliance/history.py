"""The curves of a training, read from its step log as that grows, thinned to what a chart can show.

A log of a hundred thousand steps is read once, piece by piece; memory stays the same however long it gets.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from appliance.job import Stage
from appliance.progress import parse_lines

MOST_POINTS: Final = 1000
PIECE_BYTES: Final = 1 << 20
REMEMBERED_EVENTS: Final = 512
REMEMBERED_JOBS: Final = 8


@dataclass
class Point:
    """Some steps in a row, up to `step`: mean loss, tokens over time, highest memory."""

    step: int
    steps: int
    losses: float
    finite: int
    tokens: int
    seconds: float
    memory_bytes: int | None
    cuda_reserved_bytes: int | None
    learning_rate: float | None

    @property
    def loss(self) -> float | None:
        return self.losses / self.finite if self.finite else None

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds > 0 else None

    def joined(self, later: "Point") -> "Point":
        return Point(
            later.step,
            self.steps + later.steps,
            self.losses + later.losses,
            self.finite + later.finite,
            self.tokens + later.tokens,
            self.seconds + later.seconds,
            max(filter(None, (self.memory_bytes, later.memory_bytes)), default=None),
            max(filter(None, (self.cuda_reserved_bytes, later.cuda_reserved_bytes)), default=None),
            later.learning_rate,
        )


@dataclass
class Curves:
    """Steps and held-out losses of one training. Of a step that was repeated after a crash, the last event counts."""

    points: list[Point] = field(default_factory=list)
    evals: list[tuple[int, float]] = field(default_factory=list)
    stride: int = 1
    _seen_tokens: int = 0

    def add(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "step":
                self._forget_from(event["step"])
                self._append(self._point(event))
            case "eval" if event["loss"] is not None:
                self.evals = [pair for pair in self.evals if pair[0] < event["step"]]
                self.evals.append((event["step"], event["loss"]))

    def _point(self, event: Mapping[str, Any]) -> Point:
        # After a resume the count goes on from the checkpoint; what lies between was counted before.
        tokens = max(0, event["content_tokens"] - self._seen_tokens)
        self._seen_tokens = event["content_tokens"]
        loss = event.get("loss")
        return Point(
            event["step"],
            1,
            loss or 0.0,
            int(loss is not None),
            tokens,
            event["seconds"],
            event.get("memory_bytes"),
            event.get("cuda_reserved_bytes"),
            event.get("learning_rate"),
        )

    def _forget_from(self, step: int) -> None:
        while self.points and self.points[-1].step >= step:
            self._seen_tokens -= self.points.pop().tokens

    def _append(self, point: Point) -> None:
        if self.points and self.points[-1].steps < self.stride:
            self.points[-1] = self.points[-1].joined(point)
            return
        self.points.append(point)
        if len(self.points) >= MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [one.joined(other) for one, other in pairs]
            self.stride *= 2

    def as_columns(self) -> dict[str, list[float | None]]:
        """Columns for a chart; the held-out losses have steps of their own."""
        return {
            "step": [point.step for point in self.points],
            "loss": [point.loss for point in self.points],
            "tokens_per_second": [point.tokens_per_second for point in self.points],
            "learning_rate": [point.learning_rate for point in self.points],
            "memory_bytes": [point.memory_bytes for point in self.points],
            "cuda_reserved_bytes": [point.cuda_reserved_bytes for point in self.points],
            "eval_step": [step for step, _ in self.evals],
            "eval_loss": [loss for _, loss in self.evals],
        }


class History:
    """Follows one step log. Safe to be read by several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._start_anew()

    def read(self) -> None:
        """Take in what was written since the last time."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    if file.seek(0, 2) < self._offset:
                        self._start_anew()
                    file.seek(self._offset)
                    while self._read_piece(file.read(PIECE_BYTES)):
                        file.seek(self._offset)
            except FileNotFoundError:
                return

    def columns(self) -> dict[str, list[float | None]]:
        with self._lock:
            return self._curves.as_columns()

    def since(self, count: int) -> tuple[list[dict[str, Any]], int]:
        """The `step` and `eval` events after the first `count`, as far as they are remembered, and the new count."""
        with self._lock:
            missed = min(self._count - count, len(self._recent))
            return (self._recent[-missed:] if missed > 0 else []), self._count

    def _start_anew(self) -> None:
        self._offset = 0
        self._curves = Curves()
        self._recent: list[dict[str, Any]] = []
        self._count = 0

    def _read_piece(self, data: bytes) -> bool:
        """Whether there was a whole line in it."""
        end = data.rfind(b"\n") + 1
        self._offset += end
        self._take(parse_lines(data[:end].decode(errors="replace")))
        return end > 0

    def _take(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] in ("step", "eval"):
                self._curves.add(event)
                self._recent.append(event)
                self._count += 1
        del self._recent[:-REMEMBERED_EVENTS]


class Histories:
    """The histories of the jobs that were looked at last."""

    def __init__(self, jobs: Path) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, History] = OrderedDict()

    def of(self, job_id: str) -> History:
        """The history of a job, up to date."""
        with self._lock:
            history = self._kept.setdefault(job_id, History(self._jobs / job_id / Stage.TRAIN / "progress.jsonl"))
            self._kept.move_to_end(job_id)
            while len(self._kept) > REMEMBERED_JOBS:
                self._kept.popitem(last=False)
        history.read()
        return history
