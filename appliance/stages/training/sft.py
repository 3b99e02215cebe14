"""Supervised fine-tuning: TRL's trainer on Unsloth's model, over rows that `prepare` has tokenised."""

# First: it imports unsloth, which patches what the others import.
from appliance.stages.training.model import LoadedModel, adapter_precision_kept, load_model, versions  # isort: skip

import math
import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from appliance.job_dir import ProgressWriter
from appliance.models import canonical_id
from appliance.stages.training.attempt import Attempt
from appliance.stages.training.callbacks import AttemptCallback, HeldOut
from appliance.stages.training.checkpoints import (
    Checkpoint,
    assemble_adapter,
    final_checkpoint,
    forget_later_checkpoints,
    newest_good_checkpoint,
)
from appliance.stages.training.machine import (
    forget_peak,
    peak_cuda_reserved_bytes,
    peak_resident_bytes,
    process_age_seconds,
    resident_bytes,
    training_peak_bytes,
)
from appliance.stages.training.prepared import Prepared
from appliance.stages.training.standing import BatchCount, Standing

Batch = dict[str, Any]
Collate = Callable[[list[Batch]], Batch]


def train(folder: Path, prepared: Prepared, *, checkpoint_seconds: float) -> dict[str, Any]:
    """Train to the end from wherever the last attempt got to, and leave the adapter. Returns the stage's result.

    Raises Stopped after SIGTERM, with everything up to the last finished step saved.
    """
    after_imports = resident_bytes()
    loaded = load_model(prepared)
    forget_peak()
    checkpoints = folder / "checkpoints"
    trainer = make_trainer(prepared, loaded, checkpoints)
    resumed = newest_good_checkpoint(checkpoints)
    forget_later_checkpoints(checkpoints, resumed.step if resumed else 0)
    with closing(ProgressWriter(folder)) as progress:
        attempt = Attempt(
            checkpoints,
            progress,
            checkpoint_seconds=checkpoint_seconds,
            stopping=stop_on_sigterm(),
            resumed=resumed,
        )
        held_out = watch_held_out_rows(trainer, prepared, attempt)
        base_model = canonical_id(prepared.recipe.base_model)
        run_to_the_end(trainer, attempt, AttemptCallback(attempt, loaded, base_model, held_out), resumed)
    best = attempt.standing.best_step if held_out and held_out.keep_best else None
    chosen = final_checkpoint(checkpoints, best=best, last=attempt.standing.step)
    adapter = assemble_adapter(chosen, prepared.tokenizer, folder / "adapter")
    facts = training_facts(attempt.standing, loaded, trainer)
    whose = {"adapter_step": chosen.step, "best_damaged": best not in (None, chosen.step), "adapter": adapter}
    return facts | needs(attempt, trainer, after_imports) | whose


def make_trainer(prepared: Prepared, loaded: LoadedModel, output: Path) -> SFTTrainer:
    """TRL's trainer with the recipe's numbers and the plan's split; saving and evaluating are the callback's."""
    recipe, plan = prepared.recipe, prepared.plan
    config = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=plan.per_device_train_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        gradient_checkpointing=plan.gradient_checkpointing,
        num_train_epochs=plan.num_train_epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=plan.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim=plan.optim,
        neftune_noise_alpha=recipe.neftune_noise_alpha,
        seed=recipe.seed,
        data_seed=recipe.seed,
        packing=plan.packing,
        # The rows are tokenised, labelled and cut to length already; only packing is left to do.
        max_length=plan.max_seq_length if plan.packing else None,
        dataset_kwargs={"skip_prepare_dataset": not plan.packing},
        dataset_num_proc=None,
        dataloader_pin_memory=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    with adapter_precision_kept(loaded.model):
        return SFTTrainer(
            model=loaded.model,
            args=config,
            train_dataset=Dataset.from_file(str(prepared.train_rows)),
            processing_class=AutoTokenizer.from_pretrained(prepared.tokenizer),
        )


def stop_on_sigterm() -> threading.Event:
    """An event that is set when the stage is asked to stop, from now on."""
    stopping = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, request_stop)
    return stopping


def counting(collate: Collate, counts: deque[BatchCount]) -> Collate:
    """`collate`, which also notes what is in each batch it makes.

    Counted before the batch is on the GPU, where asking for a number would wait for everything queued before it.
    """

    def collate_and_count(examples: list[Batch]) -> Batch:
        batch = collate(examples)
        content = sum(len(example["input_ids"]) for example in examples)
        counts.append(
            BatchCount(
                content_tokens=content,
                padding_tokens=batch["input_ids"].numel() - content,
                # The first token of a row has nothing before it to be predicted from.
                target_tokens=int((batch["labels"][..., 1:] != -100).sum()),
                # A packed row holds several.
                samples=sum(len(example["seq_lengths"]) if "seq_lengths" in example else 1 for example in examples),
            )
        )
        return batch

    return collate_and_count


def watch_held_out_rows(trainer: SFTTrainer, prepared: Prepared, attempt: Attempt) -> HeldOut | None:
    """The held-out rows as the trainer will meet them at the end of every epoch; None when there are none."""
    if prepared.eval_rows is None:
        return None
    rows = Dataset.from_file(str(prepared.eval_rows)).select_columns(["input_ids", "labels"])
    recipe = prepared.recipe

    several_epochs = total_steps(trainer) > steps_per_epoch(trainer)
    keep_best = several_epochs if recipe.keep_best == "auto" else recipe.keep_best
    loss = partial(held_out_loss, trainer, rows, trainer.data_collator, attempt)
    return HeldOut(loss, len(rows), keep_best=keep_best, patience=recipe.early_stopping_patience)


def held_out_loss(trainer: SFTTrainer, rows: Dataset, collate: Collate, attempt: Attempt) -> float | None:
    """Mean loss over the trained tokens of `rows`, one row at a time; None when asked to stop meanwhile.

    Not Trainer.evaluate: its data loader draws from the random numbers that training goes on with, and a resumed run
    would leave the uninterrupted one's track.
    """
    loss, tokens = 0.0, 0
    trainer.model.eval()
    for row in rows:
        if attempt.is_stopping:
            return None
        attempt.show_life()
        batch = collate([row])
        targets = int((batch["labels"][..., 1:] != -100).sum())
        # A resumed model is evaluated before the trainer has put autocast around it.
        with trainer.accelerator.autocast():
            row_loss, _, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
        loss += row_loss.item() * targets
        tokens += targets
    return loss / tokens


def steps_per_epoch(trainer: SFTTrainer) -> int:
    batch: int = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    return math.ceil(len(trainer.train_dataset) / batch)


def total_steps(trainer: SFTTrainer) -> int:
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    epochs: float = trainer.args.num_train_epochs
    return math.ceil(epochs * steps_per_epoch(trainer))


def run_to_the_end(
    trainer: SFTTrainer, attempt: Attempt, callback: AttemptCallback, resumed: Checkpoint | None
) -> None:
    """Do the steps that are left, from the state in `resumed`."""
    trainer.data_collator = counting(trainer.data_collator, attempt.collated)
    trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    if resumed:
        catch_up(trainer, attempt, callback, resumed)
    if not attempt.standing.finished:
        trainer.train(resume_from_checkpoint=str(resumed.path) if resumed else None)


def catch_up(trainer: SFTTrainer, attempt: Attempt, callback: AttemptCallback, resumed: Checkpoint) -> None:
    """Do what the last attempt was kept from doing between its checkpoint and the step after it."""
    step, total = attempt.standing.step, total_steps(trainer)
    epoch_ended = step % steps_per_epoch(trainer) == 0 or step == total
    if epoch_ended and attempt.standing.evaluated_step != step:
        trainer.model.load_adapter(str(resumed.path), "default", is_trainable=True)
        if callback.evaluate() is None:
            raise attempt.stop()
    if callback.has_lost_patience or step >= total:
        attempt.finish()
    attempt.save({})


def needs(attempt: Attempt, trainer: SFTTrainer, after_imports: int) -> dict[str, Any]:
    """What this attempt really needed, to compare with the plan. `after_imports` is memory in use before loading."""
    rate, warm_up = attempt.steady_pace() or (None, 0.0)
    return {
        "attempt_steps": attempt.standing.step - attempt.began_at_step,
        "per_device_train_batch_size": trainer.args.per_device_train_batch_size,
        "steady_tokens_per_second": rate,
        "startup_seconds": None if attempt.startup_seconds is None else attempt.startup_seconds + warm_up,
        "stage_seconds": process_age_seconds(),
        "memory_after_imports_bytes": after_imports,
        "training_peak_bytes": training_peak_bytes(after_imports),
    }


def training_facts(standing: Standing, loaded: LoadedModel, trainer: SFTTrainer) -> dict[str, Any]:
    """The facts of `result.json`."""
    return {
        "steps": standing.step,
        "epochs": standing.epoch,
        "train_loss": standing.loss_sum / standing.step,
        "best_step": standing.best_step,
        "best_loss": standing.best_loss,
        "stopped_early": standing.step < total_steps(trainer),
        "content_tokens": standing.content_tokens,
        "padding_tokens": standing.padding_tokens,
        "target_tokens": standing.target_tokens,
        "samples": standing.samples,
        "seconds": standing.seconds,
        "tokens_per_second": standing.content_tokens / standing.seconds,
        "peak_memory_bytes": peak_resident_bytes(),
        "peak_cuda_reserved_bytes": peak_cuda_reserved_bytes(),
        "trainable_parameters": loaded.trainable_parameters,
        "target_modules": loaded.target_modules,
        "base_linear": loaded.base_linear,
        "quantization": loaded.quantization,
        # A CPU has no 8-bit optimizer: Unsloth takes the 32-bit one there.
        "optim": str(trainer.args.optim.value),
        "packing": bool(trainer.args.packing),
        "versions": versions(),
    }
