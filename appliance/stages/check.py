"""Stage check: are the dropped files a recipe and a dataset? Writes the rows in one form, or every problem at once."""

from typing import Any

from appliance.checking import Checked, Files, check_files
from appliance.dataset.rows import Summary
from appliance.errors import InputError, Problem, Reason
from appliance.files import write_json, write_whole
from appliance.job import Role, Stage
from appliance.job_dir import JobDir, RowProgress
from appliance.recipe import Recipe
from appliance.recipe_yaml import recipe_as_yaml
from appliance.settings import Settings
from appliance.sources import Source


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Check the drop of one job. Raises InputError with everything that is wrong with it."""
    folder = job.stage(Stage.CHECK)
    files = _files(job)
    progress = RowProgress(folder)
    checked = check_files(files, settings, rows_folder=folder, progress=progress.report)
    progress.close()
    problems = [*checked.problems, *([] if files.dataset else [_no_dataset(checked, files)])]
    if problems or checked.recipe is None or checked.dataset is None:
        for name in ("rows.jsonl", "eval.jsonl"):
            (folder / name).unlink(missing_ok=True)
        raise InputError(problems)
    write_json(folder / "recipe.json", checked.recipe.model_dump(mode="json"))
    write_whole(folder / "recipe.yaml", recipe_as_yaml(checked.recipe))
    return _result(files, checked, checked.recipe, checked.dataset)


def _files(job: JobDir) -> Files:
    """The dropped files by what they are for, and the library recipe the drop uses."""
    record = job.read_job()

    def first(*roles: Role) -> Source | None:
        found = (file for role in roles for file in record.files if file.role is role)
        return next((Source(file.name, job.path / file.path, file.sha256) for file in found), None)

    library = Source(f"{record.library_recipe}.yaml", job.library_recipe) if record.library_recipe else None
    return Files(
        # A file of an unknown kind that came alone was meant as a dataset: say why it is none.
        dataset=first(Role.DATASET, Role.OTHER),
        held_out=first(Role.EVAL),
        recipe=first(Role.RECIPE),
        library=library,
        checksum=first(Role.CHECKSUM),
        borrowed=any(file.role is Role.DATASET and not file.source for file in record.files),
    )


def _no_dataset(checked: Checked, files: Files) -> Problem:
    asked = checked.recipe.dataset if checked.recipe else None
    wanted = f"{asked}, which the recipe asks for," if asked else "a dataset such as support.jsonl"
    message = f"there is no dataset; drop {wanted} together with the recipe"
    name = files.recipe.name if files.recipe else None
    return Problem("no_dataset", message, Reason.DATASET_MISSING, name, expected=asked or "a .jsonl file")


def _result(files: Files, checked: Checked, recipe: Recipe, dataset: Summary) -> dict[str, Any]:
    summaries = [summary for summary in (dataset, checked.held_out) if summary]
    return {
        "format": dataset.format.name if dataset.format else None,
        "type": dataset.format.type if dataset.format else None,
        "dataset": files.dataset.name if files.dataset else None,
        "dataset_sha256": checked.dataset_sha256,
        "rows": dataset.rows,
        "eval_rows": checked.held_out.rows if checked.held_out else None,
        "warnings": [warning.as_json() for summary in summaries for warning in summary.warnings],
        "notes": list(dict.fromkeys(note for summary in summaries for note in summary.notes)),
        "base_model": recipe.base_model,
        "method": recipe.method,
        "priority": recipe.priority.value,
    }
