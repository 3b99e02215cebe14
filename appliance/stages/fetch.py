"""Stage fetch: the base model is on this machine, complete, from a pinned commit, and safe to load."""

from pathlib import Path
from typing import Any

from appliance.allow_list import is_allowed
from appliance.errors import StageFailure
from appliance.hub_rows import dataset_to_fetch
from appliance.job import FailureClass, Stage
from appliance.job_dir import JobDir
from appliance.model_shelf import mark_used
from appliance.models import (
    UnusableModel,
    canonical_id,
    find_config,
    local_folder,
    read_config,
    read_license,
    refuse_unsafe,
    size_of,
)
from appliance.planning.advice import refuse_what_never_fits
from appliance.planning.architectures import read_shape
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.stages.fetch_one import Download
from appliance.stages.mirrors import mirror_in_4_bits
from appliance.stages.planned_for import machine_to_plan_for
from appliance.stages.rows import fetch_rows


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """See that the recipe's base model is here; before that, in a run of its own, rows that lie on the Hub.

    Raises InputError for one that this machine can never train, StageFailure `model_unavailable`, or NotReadyError.
    """
    dataset = dataset_to_fetch(job.read_job(), job)
    if dataset is not None:
        return fetch_rows(dataset, job, settings)
    recipe = Recipe.model_validate_json((job.path / "check" / "recipe.json").read_text())
    folder, commit = local_folder(recipe.base_model, settings.models), None
    loaded = canonical_id(recipe.base_model)
    try:
        if folder is None:
            loaded, folder = _download(recipe, job.stage(Stage.FETCH), settings)
            commit = folder.name
        refuse_unsafe(folder)
        refuse_what_never_fits(recipe, read_shape(read_config(folder)), machine_to_plan_for(settings))
    except UnusableModel as error:
        raise StageFailure(FailureClass.MODEL_UNAVAILABLE, error.message, hint=error.hint) from None
    mark_used(loaded, settings)
    return {
        "base_model": recipe.base_model,
        "base_model_id": canonical_id(recipe.base_model),
        "base_model_loaded": loaded,
        "base_model_commit": commit,
        "path": str(folder),
        "bytes": size_of(folder),
        "license": read_license(folder),
        "dataset": (job.result(Stage.FETCH) or {}).get("dataset"),
    }


def _download(recipe: Recipe, stage: Path, settings: Settings) -> tuple[str, Path]:
    """The repository that is loaded, and the directory of its snapshot: the mirror that holds the model in 4 bits
    already where there is one, it may be used and nothing is pinned; else the model itself."""
    asked = canonical_id(recipe.base_model)
    mirror = mirror_in_4_bits(asked) if recipe.load_in_4bit and recipe.revision is None else None
    if mirror is not None and is_allowed(mirror, settings):
        try:
            return mirror, _download_one(mirror, recipe, stage, settings)
        except StageFailure as failure:
            if failure.failure != FailureClass.MODEL_UNAVAILABLE:
                raise
    return asked, _download_one(asked, recipe, stage, settings)


def _download_one(repository: str, recipe: Recipe, stage: Path, settings: Settings) -> Path:
    config = find_config(repository, recipe.revision, settings)
    if config is None:
        config = read_config(Download(repository, recipe.revision, stage, settings, config_to=stage / "config").run())
    # What needs code of its own has a reason of its own to be refused.
    if "auto_map" not in config:
        refuse_what_never_fits(recipe, read_shape(config), machine_to_plan_for(settings))
    return Download(repository, recipe.revision, stage, settings).run()
