"""Rows that lie on the Hub: `dataset: hub:org/name` in a recipe, before anybody has fetched them."""

from fnmatch import fnmatchcase

from appliance.job import Job, Role
from appliance.job_dir import JobDir
from appliance.recipe_yaml import peek
from appliance.settings import Settings

PREFIX = "hub:"


def dataset_to_fetch(job: Job, job_dir: JobDir) -> str | None:
    """The Hub's id of the dataset that a job still has to fetch; None when it has its rows, or none are named."""
    if any(file.role in (Role.DATASET, Role.OTHER) for file in job.files):
        return None
    recipes = [job_dir.path / file.path for file in job.files if file.role is Role.RECIPE]
    try:
        text = (recipes[0] if recipes else job_dir.library_recipe).read_bytes()
    except OSError:
        return None
    named = peek(text).dataset
    return named.removeprefix(PREFIX) if named and named.startswith(PREFIX) else None


def is_allowed_dataset(dataset: str, settings: Settings) -> bool:
    """Whether the administrator lets jobs take this dataset from the Hub: none by default."""
    return any(fnmatchcase(dataset, pattern) for pattern in settings.allowed_datasets)
