"""`appliance retry`: run an ended job again, as it was or with another recipe."""

import time
from pathlib import Path

from appliance.actions import why_not, why_not_with_library, why_not_with_recipe
from appliance.checking import Files, check_files
from appliance.commands.state import find_job, open_state
from appliance.errors import ApplianceError, InputError
from appliance.job import Job
from appliance.places import how_to_name_a_recipe, is_library_recipe
from appliance.settings import Settings
from appliance.sources import Source
from appliance.store import Store
from appliance.yaml_text import LARGEST

# How long to wait for the daemon to say which number the new job has.
WAIT_SECONDS = 5.0


class CannotRetryError(ApplianceError):
    """The job cannot be run again, or not with this file."""

    exit_code = 2


def retry(name: str, recipe: Path | None) -> None:
    """Ask the daemon to run a job again, and say which job it becomes."""
    store, settings = open_state()
    job = find_job(store, name)
    library = str(recipe) if recipe and is_library_recipe(recipe, settings.recipes) else None
    if reason := _why_not(job, recipe, library):
        raise CannotRetryError(reason, hint="`appliance jobs` lists the jobs and how they stand.")
    arguments: dict[str, str] = {}
    if library is not None:
        arguments = {"library_recipe": library}
    elif recipe is not None:
        arguments = {"recipe": _read(recipe, job, settings), "recipe_name": recipe.name}
    known = len(_runs(store, job))
    store.ask("retry", str(job.number), now=time.time(), **arguments)
    new = _wait_for_number(store, job, known)
    if new is None:
        print(f"job {job.id} will run again as a new job as soon as the appliance runs; `appliance jobs` lists it")
    else:
        print(f"job {job.id} runs again as job {new}")


def _why_not(job: Job, recipe: Path | None, library: str | None) -> str | None:
    if library is not None:
        return why_not_with_library(job)
    return why_not(job, "retry", hub=False) if recipe is None else why_not_with_recipe(job)


def _read(recipe: Path, job: Job, settings: Settings) -> str:
    """The recipe's text. One that stands alone is checked at once: raises InputError with what is wrong with it."""
    try:
        with recipe.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise CannotRetryError(
            f"{recipe} cannot be read: {error.strerror}", hint=how_to_name_a_recipe(settings.recipes)
        ) from error
    if job.library_recipe in (None, "default"):
        problems = check_files(Files(recipe=Source(recipe.name, recipe)), settings).problems
        if problems:
            raise InputError(problems)
    return text.decode("utf-8", "surrogateescape")


def _runs(store: Store, job: Job) -> list[str]:
    return [event["job"] for event in store.events(job.number) if event["event"] == "run_again"]


def _wait_for_number(store: Store, job: Job, known: int) -> str | None:
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        runs = _runs(store, job)
        if len(runs) > known:
            return runs[-1]
        time.sleep(0.1)
    return None
