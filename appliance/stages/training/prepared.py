"""What the stages before left for training: paths and numbers, read once and typed. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.planning.machine import MachineKind
from appliance.recipe import Recipe
from appliance.stages.fetched import base_model_folder


@dataclass(frozen=True)
class TrainingPlan:
    """The part of `plan.json` that the trainer is built from."""

    machine_kind: MachineKind
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    max_seq_length: int
    num_train_epochs: float
    warmup_steps: int
    packing: bool
    optim: str
    target_modules: tuple[str, ...]
    target_module_count: int
    unquantised_module_count: int

    @classmethod
    def read(cls, path: Path) -> Self:
        plan = json.loads(path.read_text())
        return cls(
            machine_kind=plan.get("machine_kind", "cpu"),
            per_device_train_batch_size=plan["per_device_train_batch_size"],
            gradient_accumulation_steps=plan["gradient_accumulation_steps"],
            gradient_checkpointing=bool(plan["gradient_checkpointing"]),
            max_seq_length=plan["max_seq_length"],
            num_train_epochs=plan["num_train_epochs"],
            warmup_steps=plan["warmup_steps"],
            packing=plan["packing"],
            optim=plan["optim"],
            target_modules=tuple(plan["target_modules"]),
            target_module_count=plan["target_module_count"],
            unquantised_module_count=plan.get("unquantised_module_count", 0),
        )


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to train."""

    recipe: Recipe
    plan: TrainingPlan
    base: Path
    tokenizer: Path
    train_rows: Path
    eval_rows: Path | None
    samples: Path
    facts: dict[str, Any]

    @classmethod
    def read(cls, job: JobDir) -> Self:
        """Everything `check`, `fetch` and `prepare` left; they have checked it, so nothing is checked again.

        Raises ModelGoneError when the base model is gone since.
        """
        prepare, eval_rows = job.path / Stage.PREPARE, job.path / Stage.PREPARE / "eval.arrow"
        fetched = job.result(Stage.FETCH)
        facts = job.result(Stage.PREPARE)
        assert fetched is not None, "fetch comes before training"
        assert facts is not None, "prepare comes before training"
        base = base_model_folder(fetched)
        return cls(
            recipe=Recipe.model_validate_json((job.path / Stage.CHECK / "recipe.json").read_bytes()),
            plan=TrainingPlan.read(job.plan_file),
            base=base,
            tokenizer=prepare / "tokenizer",
            train_rows=prepare / "train.arrow",
            eval_rows=eval_rows if eval_rows.exists() else None,
            samples=prepare / "samples.jsonl",
            facts=facts,
        )
