"""`appliance models`: the base models on this machine."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from appliance.allow_list import is_allowed
from appliance.disk import reserve_bytes, space_of
from appliance.errors import ApplianceError, InputError, NotReadyError
from appliance.files import write_json
from appliance.job import Job, JobState, Stage, Waiting
from appliance.job_dir import JobDir, read_progress
from appliance.model_shelf import ShelfError, Shelved, import_model, remove_model, shelf
from appliance.models import canonical_id, find_config
from appliance.planning.architectures import read_shape
from appliance.planning.model_shape import Tier
from appliance.processes import StageProcess, start_stage
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.store import DATABASE, Store
from appliance.texts.wording import plural, size

LOOK_SECONDS: Final = 0.2
# The stage speaks to jobs, which are tried again; here nobody does that.
_WITHOUT_NETWORK: Final = "Try again when the network is back, or bring it in: `appliance models import DIR`."


def list_models(*, as_json: bool) -> None:
    """Print them, the least recently used first."""
    settings = Settings.load()
    found = shelf(settings)
    if as_json:
        print(json.dumps([_facts(model) for model in found], indent=2))
        return
    if not found:
        print("No base models yet: the first job fetches its own, or `appliance models fetch ID`.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "where", "size", "last used"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for model in found:
        used = datetime.fromtimestamp(model.used).astimezone().strftime("%Y-%m-%d %H:%M")
        name = model.name if model.complete else f"{model.name} (incomplete)"
        table.add_row(name, model.place, size(model.bytes), used)
    Console().print(table)
    _print_room(found, settings)


def fetch_model(name: str, revision: str | None, *, in_16_bits: bool) -> None:
    """Fetch a base model as a job with it would, so that the job finds it."""
    settings = Settings.load()
    if not is_allowed(name, settings):
        raise ShelfError(f"{name} is not allowed here", hint="The administrator sets APPLIANCE_ALLOWED_BASE_MODELS.")
    settings.state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.state, prefix="fetch-") as folder:
        job = JobDir(Path(folder))
        recipe = Recipe(
            base_model=name, revision=revision, load_in_4bit=not (in_16_bits or _in_16_only(name, revision, settings))
        )
        job.write_job(Job(0, "0000-fetch", "fetch", name=name, state=JobState.RUNNING, created=time.time()))
        job.stage(Stage.CHECK)
        write_json(job.path / Stage.CHECK / "recipe.json", recipe.model_dump(mode="json"))
        process = start_stage(Stage.FETCH, job, settings=settings)
        try:
            code = _follow(process, job)
        finally:
            process.kill()
        result = _result(job, code)
    print(f"{result['base_model_loaded']} is here: {size(result['bytes'])} in {result['path']}")


def import_from(source: Path, name: str | None) -> None:
    """Copy a model's directory into the models folder."""
    settings = Settings.load()
    with _bar(f"copying {source.name}") as (bar, task):
        model = import_model(source, name, settings, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{model.name} is here: {size(model.bytes)} in {model.path}")


def remove(name: str) -> None:
    """Take a model off the disk. Raises ShelfError while a job needs it."""
    settings = Settings.load()
    if needing := _jobs_with(canonical_id(name), settings):
        one = len(needing) == 1
        raise ShelfError(
            f"{plural(len(needing), 'job')} that {'has not ended needs' if one else 'have not ended need'} {name}:"
            f" {', '.join(needing)}",
            hint=f"Wait until {'it has' if one else 'they have'} ended, or cancel {'it' if one else 'them'}.",
        )
    for model in remove_model(name, settings):
        print(f"{model.name} is gone from the {model.place}: {size(model.bytes)} are free again")


def _facts(model: Shelved) -> dict[str, Any]:
    return {
        "name": model.name,
        "place": model.place,
        "path": str(model.path),
        "bytes": model.bytes,
        "last_used": model.used,
        "complete": model.complete,
    }


def _print_room(found: list[Shelved], settings: Settings) -> None:
    space = space_of(found[0].path)
    in_all = size(sum(model.bytes for model in found))
    print(f"\n{in_all} in all, {size(space.free_bytes)} free on the disk of {found[0].name}")
    if space.free_bytes < reserve_bytes(settings, space):
        print("That is less than the reserve: remove from the top, what no job has used for the longest time.")


def _in_16_only(name: str, revision: str | None, settings: Settings) -> bool:
    config = find_config(name, revision, settings)
    return config is not None and read_shape(config).tier is Tier.IN_16_BIT


def _follow(process: StageProcess, job: JobDir) -> int:
    """Show the bytes that arrive until the stage ends. Returns its exit code."""
    with _bar("fetching") as (bar, task):
        while (code := process.poll()) is None:
            progress = read_progress(job.path / Stage.FETCH)
            bar.update(task, completed=progress.done or 0, total=progress.total)
            time.sleep(LOOK_SECONDS)
    return code


def _result(job: JobDir, code: int) -> dict[str, Any]:
    """The stage's result, or its failure as an error of the command line."""
    result, failure = job.result(Stage.FETCH), job.failure(Stage.FETCH)
    if code == 0 and result is not None:
        return result
    if problems := job.problems(Stage.FETCH):
        raise InputError(problems)
    if failure is not None and "waiting" in failure:
        hint = _WITHOUT_NETWORK if failure["waiting"] == Waiting.NETWORK else failure["hint"]
        raise NotReadyError(failure["message"], waiting=failure["waiting"], hint=hint)
    if failure is not None:
        raise ShelfError(failure["message"], hint=failure["hint"])
    raise ApplianceError(f"fetching ended with code {code}")


def _jobs_with(name: str, settings: Settings) -> list[str]:
    path = settings.state / DATABASE
    if not path.exists():
        return []
    store = Store(path, readonly=True)
    jobs = [job.id for job in store.active_jobs() if name in _models_of(job, settings)]
    store.close()
    return jobs


def _models_of(job: Job, settings: Settings) -> set[str | None]:
    """What its recipe names, and what is loaded in its place: a mirror that is stored in 4 bits."""
    fetched = JobDir(settings.state / "jobs" / job.id).result(Stage.FETCH) or {}
    return {canonical_id(job.base_model or ""), fetched.get("base_model_loaded")}


@contextmanager
def _bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        yield bar, bar.add_task(what, total=None)
