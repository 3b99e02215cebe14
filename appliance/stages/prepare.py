"""Stage prepare: rows become token ids and labels that are proven right, and the plan says what training will take."""

from pathlib import Path
from typing import Any

from appliance.errors import InputError
from appliance.files import write_json
from appliance.hardware import this_machine
from appliance.job import Role, Stage
from appliance.job_dir import JobDir, RowProgress
from appliance.models import read_config
from appliance.planning.fitting import sequence_cap, would_fit
from appliance.planning.model_shape import read_shape
from appliance.planning.plan import DataFacts, does_not_fit, make_plan
from appliance.recipe import Recipe
from appliance.settings import Settings


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Label a job's rows and plan its training. Raises InputError for labels or a plan that must not be trained."""
    check, fetch = job.result(Stage.CHECK), job.result(Stage.FETCH)
    assert check is not None, "check comes before prepare"
    assert fetch is not None, "fetch comes before prepare"
    recipe = Recipe.model_validate_json((job.path / "check" / "recipe.json").read_text())
    shape, machine = read_shape(read_config(Path(fetch["path"]))), this_machine(settings)
    facts = _label(job, recipe, check, Path(fetch["path"]), sequence_cap(recipe, shape, machine))
    data = DataFacts(check["rows"], facts["train_rows"], facts["tokens_total"], facts["max_seq_length"])
    plan = make_plan(recipe, shape, data, machine)
    write_json(job.stage(Stage.PREPARE) / "plan.json", plan.as_json())
    if not plan.fits:
        raise InputError([does_not_fit(plan, would_fit(recipe, shape, machine, plan.max_seq_length))])
    return facts


def _label(job: JobDir, recipe: Recipe, check: dict[str, Any], model: Path, cap: int) -> dict[str, Any]:
    # Imported late: planning and asking a cache need neither Transformers nor a tokenizer.
    from appliance.stages.training.labels.tokenizer import hide_torch

    hide_torch()
    from appliance.stages.training.labels.dataset import Request, label_dataset

    record, held_out = job.read_job(), job.path / "check" / "eval.jsonl"
    progress = RowProgress(job.stage(Stage.PREPARE), total=check["rows"])
    request = Request(
        recipe=recipe,
        name=check["dataset"],
        conversational=check["type"] == "conversational",
        rows=job.path / "check" / "rows.jsonl",
        held_out=held_out if held_out.exists() else None,
        model=model,
        held_out_name=next((file.name for file in record.files if file.role is Role.EVAL), None),
        created=record.created,
        cap=cap,
        folder=job.stage(Stage.PREPARE),
    )
    try:
        return label_dataset(request, progress.report)
    finally:
        progress.close()
