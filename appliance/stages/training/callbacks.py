"""Between TRL's trainer and the attempt: what the trainer announces becomes counts, events and checkpoints."""

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from appliance.stages.training.attempt import Attempt, nonfinite
from appliance.stages.training.machine import cuda_reserved_bytes, has_gpu, process_age_seconds, resident_bytes
from appliance.stages.training.model import (
    LoadedModel,
    adapter_config,
    adapter_weights,
    tensors_are_finite,
    torch_bytes,
)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """How held-out rows steer the training. `loss` is None when it was interrupted by the wish to stop."""

    loss: Callable[[], float | None]
    rows: int
    keep_best: bool
    patience: int | None


class AttemptCallback(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Follows the trainer step by step; saves, evaluates and stops it at the right moments.

    The trainer's own saving and evaluating stay off: a checkpoint can be due while a step is unfinished, and an
    evaluation must neither draw random numbers nor get lost between two attempts.
    """

    def __init__(self, attempt: Attempt, loaded: LoadedModel, base_model: str, held_out: HeldOut | None) -> None:
        self._attempt = attempt
        self._loaded = loaded
        self._base_model = base_model
        self._held_out = held_out
        self._random_state: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
    ) -> None:
        self._attempt.begin(
            startup_seconds=process_age_seconds(),
            total_steps=state.max_steps,
            micro_batch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            trainable_parameters=self._loaded.trainable_parameters,
            target_modules=self._loaded.target_modules,
        )

    def on_substep_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        **rest: object,
    ) -> None:
        self._attempt.end_micro_batch()
        if self._attempt.is_stopping:
            # The unfinished step's gradients are dropped: weights and optimizer are as the last step left them.
            self._stop(state, optimizer, lr_scheduler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
    ) -> None:
        self._attempt.end_step(state.global_step, state.epoch or 0.0)
        self._random_state = _random_state()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        **rest: object,
    ) -> None:
        if "loss" not in logs:
            return
        # progress.jsonl is the history; this one would grow in memory and in every checkpoint.
        state.log_history.clear()
        self._attempt.report_step(
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            learning_rate=logs["learning_rate"],
            memory=_memory(),
        )
        if self._attempt.is_stopping:
            self._stop(state, optimizer, lr_scheduler)
        if self._attempt.is_checkpoint_due:
            self._save(state, optimizer, lr_scheduler)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        **rest: object,
    ) -> None:
        is_best = self.evaluate()
        if is_best is None:
            self._stop(state, optimizer, lr_scheduler)
        elif is_best:
            self._save(state, optimizer, lr_scheduler)
        control.should_training_stop |= self.has_lost_patience

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        **rest: object,
    ) -> None:
        self._attempt.finish()
        self._save(state, optimizer, lr_scheduler)

    def evaluate(self) -> bool | None:
        """Score the held-out rows, if there are any. True: the best yet, to be kept. None: asked to stop meanwhile."""
        if self._held_out is None:
            return False
        loss = self._held_out.loss()
        if loss is None:
            return None
        return self._attempt.report_evaluation(loss, rows=self._held_out.rows) and self._held_out.keep_best

    @property
    def has_lost_patience(self) -> bool:
        return self._held_out is not None and self._attempt.standing.has_lost_patience(self._held_out.patience)

    def _stop(self, state: TrainerState, optimizer: Optimizer, lr_scheduler: LRScheduler) -> NoReturn:
        if self._attempt.has_unsaved_steps:
            self._save(state, optimizer, lr_scheduler)
        raise self._attempt.stop()

    def _save(self, state: TrainerState, optimizer: Optimizer, lr_scheduler: LRScheduler) -> None:
        """Everything that `Trainer.train(resume_from_checkpoint=...)` reads, under the names it looks for."""
        model = self._loaded.model
        if not tensors_are_finite(model):
            raise nonfinite(state.global_step)
        self._attempt.save(
            {
                "adapter_model.safetensors": lambda: adapter_weights(model),
                "adapter_config.json": lambda: adapter_config(model, self._base_model),
                "optimizer.pt": lambda: torch_bytes(optimizer.state_dict()),
                "scheduler.pt": lambda: torch_bytes(lr_scheduler.state_dict()),
                "rng_state.pth": lambda: torch_bytes(self._random_state),
                "trainer_state.json": lambda: json.dumps(dataclasses.asdict(state)).encode(),
            }
        )


def _random_state() -> dict[str, Any]:
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    return state | ({"cuda": torch.cuda.random.get_rng_state()} if has_gpu() else {})


def _memory() -> dict[str, int]:
    reserved = cuda_reserved_bytes()
    return {"memory_bytes": resident_bytes()} | ({} if reserved is None else {"cuda_reserved_bytes": reserved})
