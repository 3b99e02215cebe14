"""Stage prepare: rows become token ids and labels that are proven right, and the plan says what training will take."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.errors import InputError
from appliance.files import write_json
from appliance.job import Role, Stage
from appliance.job_dir import JobDir, RowProgress
from appliance.label_cache import LabelCache
from appliance.models import read_config
from appliance.planning.advice import does_not_fit, would_fit
from appliance.planning.architectures import read_shape
from appliance.planning.fitting import sequence_cap
from appliance.planning.plan import DataFacts, make_plan
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.stages.fetched import base_model_folder
from appliance.stages.label_key import label_key, settings_that_matter
from appliance.stages.planned_for import machine_to_plan_for

# What labelling leaves, besides the tokenizer's folder.
OUTPUTS: Final = ("train.arrow", "eval.arrow", "labels.json", "labels.txt", "samples.jsonl")
TOKENIZER: Final = "tokenizer"


@dataclass(frozen=True)
class Inputs:
    """Everything that labels are made from."""

    recipe: Recipe
    check: dict[str, Any]
    rows: Path
    held_out: Path | None
    held_out_name: str | None
    model: Path
    created: float
    cap: int

    @property
    def dataset_sha256(self) -> str:
        return str(self.check["dataset_sha256"])

    def key(self) -> str:
        """The same for every job whose labels are the same."""
        return label_key(
            self.recipe,
            self.rows,
            self.held_out,
            self.model,
            self.created,
            names=[self.check["dataset"], self.held_out_name],
            type=self.check["type"],
            cap=self.cap,
        )


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Label a job's rows and plan its training. Raises InputError for labels or a plan that must not be trained."""
    check, fetch = job.result(Stage.CHECK), job.result(Stage.FETCH)
    assert check is not None, "check comes before prepare"
    assert fetch is not None, "fetch comes before prepare"
    recipe = Recipe.model_validate_json((job.path / "check" / "recipe.json").read_text())
    model = base_model_folder(fetch)
    shape, machine = read_shape(read_config(model)), machine_to_plan_for(settings)
    inputs = _inputs(job, recipe, check, model, sequence_cap(recipe, shape, machine))
    facts = _label(job.stage(Stage.PREPARE), settings, inputs)
    data = DataFacts(
        rows=check["rows"],
        examples=facts["train_rows"],
        tokens=facts["tokens_total"],
        max_seq_length=facts["max_seq_length"],
        held_out=facts["eval_rows"],
        lengths=facts["row_lengths"],
    )
    plan = make_plan(recipe, shape, data, machine)
    write_json(job.plan_file, plan.as_json())
    if not plan.fits:
        advice = would_fit(recipe, shape, machine, plan.max_seq_length)
        raise InputError([does_not_fit(plan.memory, machine, advice)])
    return facts


def _inputs(job: JobDir, recipe: Recipe, check: dict[str, Any], model: Path, cap: int) -> Inputs:
    record, held_out = job.read_job(), job.path / "check" / "eval.jsonl"
    return Inputs(
        recipe=recipe,
        check=check,
        rows=job.path / "check" / "rows.jsonl",
        held_out=held_out if held_out.exists() else None,
        held_out_name=next((file.name for file in record.files if file.role is Role.EVAL), None),
        model=model,
        created=record.created,
        cap=cap,
    )


def _label(folder: Path, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """The facts of the labels: those of an earlier job that has the same ones, or of labelling now."""
    _clear(folder)
    # Whoever has datasets deleted does not want their tokens kept either.
    if settings.keep_datasets == "delete":
        return _label_now(folder, inputs)
    cache, dataset, key = LabelCache.in_state(settings.state), inputs.dataset_sha256, inputs.key()
    facts = cache.take(dataset, key, folder)
    if facts is None:
        _clear(folder)
        facts = _label_now(folder, inputs)
        tokenizer = (str(file.relative_to(folder)) for file in (folder / TOKENIZER).rglob("*"))
        cache.keep(dataset, key, folder, [*OUTPUTS, *tokenizer], facts)
    return facts


def _clear(folder: Path) -> None:
    """Remove what an attempt before this one left: other jobs may have the same file under another name."""
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)


def _label_now(folder: Path, inputs: Inputs) -> dict[str, Any]:
    # Imported late: planning and asking the cache need neither Transformers nor a tokenizer.
    from appliance.stages.training.labels.tokenizer import hide_torch

    hide_torch()
    from appliance.stages.training.labels.dataset import Request, label_dataset

    progress = RowProgress(folder, total=inputs.check["rows"])
    request = Request(
        recipe=settings_that_matter(inputs.recipe),
        name=inputs.check["dataset"],
        conversational=inputs.check["type"] == "conversational",
        rows=inputs.rows,
        held_out=inputs.held_out,
        model=inputs.model,
        held_out_name=inputs.held_out_name,
        created=inputs.created,
        cap=inputs.cap,
        folder=folder,
    )
    try:
        return label_dataset(request, progress.report)
    finally:
        progress.close()
