"""Ended jobs that somebody wants to run again: their files are copied back, and they become new jobs.

A number is never used twice, and what stands in the outbox stays there: a retry is a new job with the same files, or
with another recipe. The request is kept until the new job is recorded, so a crash in between loses nothing.
"""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath

from appliance.actions import why_not
from appliance.copying import Copied, copy_rows, place_for, staging_in
from appliance.errors import Problem, Reason
from appliance.files import sync, write_whole
from appliance.intake import EarlierRows, record
from appliance.job import ENDED, DroppedFile, Job, Role
from appliance.places import Places
from appliance.settling import Drop, DropState
from appliance.store import Request, Store

logger = logging.getLogger(__name__)

# After our own storage failed, it is tried again after this long.
PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class NewRecipe:
    """A recipe to run a job again with, as its file was written."""

    name: str
    text: bytes


@dataclass(frozen=True)
class LibraryRecipe:
    """A recipe of the library to run a job again with, instead of whatever it had."""

    name: str


AnotherRecipe = NewRecipe | LibraryRecipe


class Reruns:
    """Times are Unix seconds. `wake` is called from a thread when there is something for the loop to do."""

    def __init__(
        self, store: Store, places: Places, installation: str, *, wake: Callable[[], object] = lambda: None
    ) -> None:
        self._store = store
        self._places = places
        self._installation = installation
        self._wake = wake
        self._copies = ThreadPoolExecutor(1, thread_name_prefix="again")
        self._copying: dict[int, Future[Copied]] = {}
        self._paused_until = float("-inf")

    def turn(self, wall: float) -> list[Job]:
        """Begin what was asked for, and record what has been copied back. Returns the new jobs."""
        jobs: list[Job] = []
        for request in self._store.requests():
            if request.action == "retry" and wall >= self._paused_until:
                jobs += self._follow(request, wall)
        return jobs

    def close(self) -> None:
        self._copies.shutdown(wait=False, cancel_futures=True)

    def _follow(self, request: Request, wall: float) -> list[Job]:
        future = self._copying.get(request.id)
        if future is not None:
            return self._record(request, wall) if future.done() else []
        job = self._store.job(int(request.target)) if request.target.isdigit() else None
        if job is None or job.state not in ENDED:
            self._store.drop_request(request.id)
            return []
        if recipe_in(request) is None and (reason := why_not(job, "retry", hub=False)):
            logger.warning("not run again: %s", reason, extra={"job": job.id})
            self._store.drop_request(request.id)
            return []
        self._copying[request.id] = self._copies.submit(
            copy_back, job, recipe_in(request), self._places, EarlierRows(self._store, self._places)
        )
        self._copying[request.id].add_done_callback(lambda _: self._wake())
        return []

    def _record(self, request: Request, wall: float) -> list[Job]:
        try:
            with self._store.transaction():
                copied = self._copying.pop(request.id).result()
                jobs = record(copied, installation=self._installation, store=self._store, places=self._places, now=wall)
                self._store.note(int(request.target), "run_again", now=wall, job=jobs[0].id)
                self._store.drop_request(request.id)
        except OSError as error:
            self._paused_until = wall + PAUSE_SECONDS
            logger.error("running job %s again waits: the state folder cannot be written: %s", request.target, error)
            return []
        return jobs


def recipe_in(request: Request) -> AnotherRecipe | None:
    """The recipe that came with a request, if one did."""
    if (library := request.arguments.get("library_recipe")) is not None:
        return LibraryRecipe(str(library))
    text = request.arguments.get("recipe")
    if text is None:
        return None
    name = PurePath(str(request.arguments.get("recipe_name", "recipe.yaml"))).name
    return NewRecipe(name, str(text).encode("utf-8", "surrogateescape"))


def copy_back(job: Job, recipe: AnotherRecipe | None, places: Places, rows: EarlierRows) -> Copied:
    """Copy the files of an ended job into private storage again. Raises OSError when our own storage fails."""
    problems: list[Problem] = []
    with staging_in(places.incoming) as staging:
        files = _files_of(job, recipe, staging, rows, problems)
        sync(staging / "dropped")
    drop = Drop(job.name, (), DropState.READY, library_recipe=_library(job, recipe), dry_run=job.dry_run)
    return Copied(drop, staging, tuple(files), (), (), tuple(problems))


def _files_of(
    job: Job, recipe: AnotherRecipe | None, staging: Path, rows: EarlierRows, problems: list[Problem]
) -> list[DroppedFile]:
    wanted = [file for file in job.files if recipe is None or file.role is not Role.RECIPE]
    found = [(file, path) for file in wanted if (path := rows.path_of(job, file)) is not None]
    if len(found) < len(wanted):
        message = (
            f"the files of job {job.id} are not kept any more, or its result was moved out of the outbox;"
            " drop them again"
        )
        problems.append(Problem("no_such_rows", message, Reason.DATASET_MISSING, found=job.id))
    files = copy_rows(found, staging, problems)
    return [*files, _write_recipe(recipe, staging)] if isinstance(recipe, NewRecipe) else files


def _write_recipe(recipe: NewRecipe, staging: Path) -> DroppedFile:
    target = place_for(recipe.name, staging)
    write_whole(target, recipe.text)
    digest = hashlib.sha256(recipe.text).hexdigest()
    return DroppedFile(
        name=target.name, role=Role.RECIPE, path=f"dropped/{target.name}", bytes=len(recipe.text), sha256=digest,
        source="", device=0, inode=0, mtime_ns=0,
    )  # fmt: skip


def _library(job: Job, recipe: AnotherRecipe | None) -> str | None:
    """What the recipe inherits from: the folder's recipe again. No recipe inherits from `default.yaml`."""
    if isinstance(recipe, LibraryRecipe):
        return recipe.name
    had_recipe = any(file.role is Role.RECIPE for file in job.files)
    stands_alone = recipe is not None and not had_recipe and job.library_recipe == "default"
    return None if stands_alone else job.library_recipe
