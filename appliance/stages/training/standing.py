"""How far a job has trained, over all its attempts. Plain numbers; a checkpoint carries them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True)
class BatchCount:
    """What one micro-batch holds."""

    content_tokens: int
    padding_tokens: int
    target_tokens: int
    samples: int


@dataclass(frozen=True)
class Standing:
    """Counts since the job's first step. The trainer's own token counter starts again at every resume."""

    step: int = 0
    epoch: float = 0.0
    loss: float | None = None
    loss_sum: float = 0.0
    content_tokens: int = 0
    padding_tokens: int = 0
    target_tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    evaluated_step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    evaluations_without_gain: int = 0
    finished: bool = False

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{field.name: value[field.name] for field in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def after_step(self, step: int, epoch: float, batches: Sequence[BatchCount]) -> Self:
        """With the micro-batches of a finished optimizer step counted."""
        return replace(
            self,
            step=step,
            epoch=epoch,
            content_tokens=self.content_tokens + sum(batch.content_tokens for batch in batches),
            padding_tokens=self.padding_tokens + sum(batch.padding_tokens for batch in batches),
            target_tokens=self.target_tokens + sum(batch.target_tokens for batch in batches),
            samples=self.samples + sum(batch.samples for batch in batches),
        )

    def after_loss(self, loss: float | None, seconds: float) -> Self:
        """With the loss of the step counted last, None if it was not a number, and the time that the step took."""
        return replace(self, loss=loss, loss_sum=self.loss_sum + (loss or 0.0), seconds=self.seconds + seconds)

    def after_evaluation(self, loss: float) -> Self:
        """With a held-out loss of this step, which is the best so far or one more without a gain."""
        evaluated = replace(self, evaluated_step=self.step)
        if math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            return replace(evaluated, best_step=self.step, best_loss=loss, evaluations_without_gain=0)
        return replace(evaluated, evaluations_without_gain=self.evaluations_without_gain + 1)

    def has_lost_patience(self, patience: int | None) -> bool:
        """Whether so many evaluations in a row brought no gain that training should end."""
        return patience is not None and self.evaluations_without_gain >= patience
