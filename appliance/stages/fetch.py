"""Stage fetch: the base model is on this machine, complete, from a pinned commit, and safe to load."""

from pathlib import Path
from typing import Any

from appliance.allow_list import is_allowed
from appliance.errors import NotReadyError, StageFailure
from appliance.hub_rows import dataset_to_fetch
from appliance.job import FailureClass, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.model_shelf import mark_used
from appliance.models import (
    UnusableModel,
    canonical_id,
    find_config,
    is_whole,
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
    earlier = job.result(Stage.FETCH) or {}
    try:
        again = "path" in earlier
        loaded, folder, commit = _again(recipe, earlier, job, settings) if again else _find(recipe, job, settings)
        refuse_unsafe(folder)
        if not is_whole(folder):
            raise UnusableModel(
                f"the weights in {folder} are not complete", hint="Add the missing files and try again."
            )
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
        "dataset": earlier.get("dataset"),
    }


Found = tuple[str, Path, str | None]
"""The repository that is loaded, its directory, and the commit; None for a directory that is on this machine."""


def _find(recipe: Recipe, job: JobDir, settings: Settings) -> Found:
    folder = local_folder(recipe.base_model, settings.models)
    if folder is not None:
        return canonical_id(recipe.base_model), folder, None
    loaded, folder = _download(recipe, job.stage(Stage.FETCH), settings)
    return loaded, folder, folder.name


def _again(recipe: Recipe, earlier: dict[str, Any], job: JobDir, settings: Settings) -> Found:
    """The model that is gone since it was fetched: that very one, for labels, plan and checkpoints were made with it.

    Raises NotReadyError where it was a directory that is not there: its disk may only be away.
    """
    loaded, commit = earlier["base_model_loaded"], earlier["base_model_commit"]
    if commit is not None:
        return loaded, Download(loaded, commit, job.stage(Stage.FETCH), settings).run(), commit
    folder = local_folder(recipe.base_model, settings.models)
    if folder is None:
        raise NotReadyError(
            f"the base model {loaded} is no longer in {earlier['path']}: mount its disk or put it back there, or cancel"
            " the job",
            waiting=Waiting.DISK,
        )
    return loaded, folder, None


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
