"""Turning a settled drop into a job, in the only order that neither loses nor doubles a file:

open → copy while hashing → fsync → stat again → rename into place → fsync the directory → one transaction
(job and drop keys) → unlink the source if it is still the same.

The copying half is slow and lies in `copying.py`; `record` is quick and belongs to the loop.
"""

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from appliance.copying import Copied
from appliance.errors import InputError, Problem, Reason
from appliance.files import sync
from appliance.inbox import Inbox
from appliance.job import DroppedFile, Job, JobState, Outcome, Role, Stage
from appliance.job_dir import JobDir
from appliance.names import job_id, parse_number, printable
from appliance.outbox import find_result
from appliance.places import Places, highest_number
from appliance.recipe_yaml import parse_recipe
from appliance.sightings import Entry
from appliance.store import DropKey, Store
from appliance.texts.why import gist

logger = logging.getLogger(__name__)

# The outcome of a drop that cannot be used; its problems stand in the `problems.json` of the check.
REJECTION: Final[dict[str, object]] = {
    "outcome": Outcome.REJECTED, "stage": Stage.CHECK, "failure": None, "message": "", "hint": None,
}  # fmt: skip


def record(copied: Copied, *, installation: str, store: Store, places: Places, now: float) -> list[Job]:
    """Make the job (one a recipe) and record it. Only then may the sources go from the inbox.

    Returns the new jobs. A drop with problems, or one that waits or runs already, becomes a job whose outcome is
    rejected and only has to be published. The copies in `copied.staging` are gone afterwards, also when this fails.
    """
    try:
        return _record(copied, installation=installation, store=store, places=places, now=now)
    finally:
        shutil.rmtree(copied.staging, ignore_errors=True)


def _record(copied: Copied, *, installation: str, store: Store, places: Places, now: float) -> list[Job]:
    recipes: list[DroppedFile | None] = [file for file in copied.files if file.role is Role.RECIPE]
    if copied.problems:
        # All of it comes back together, with one reason.
        recipes = recipes[:1]
    number = next_number(store, places)
    staged = [
        _stage(copied, recipe, _Birth(number + index, now, installation), store=store, recipes=places.recipes)
        for index, recipe in enumerate(recipes or [None])
    ]
    for one in staged:
        one.path.rename(places.jobs / one.job.id)
    sync(places.jobs)
    with store.transaction():
        for one in staged:
            store.add_job(one.job, copied.keys if one is staged[0] else (), identity=one.identity)
            store.note(one.job.number, "taken_in", now=now, bytes=sum(file.bytes for file in one.job.files))
    return [one.job for one in staged]


def remove_source(inbox: Inbox, path: str, entry: Entry, folder: str | None = None) -> bool:
    """Remove a source that is safe and recorded, and the dropped folder it lay in once that is empty.

    False when the name is gone or holds something newer. Raises OSError when it cannot go.
    """
    removed = inbox.remove(path, entry)
    if folder is not None:
        inbox.remove_folder(folder)
    return removed


def next_number(store: Store, places: Places) -> int:
    """The next sequence number: above every job, every job directory, and what was seen in the outbox."""
    return max(store.highest_number(), highest_number(places.jobs)) + 1


def settle_orphan(path: Path, *, present: Callable[[str], Entry | None], store: Store, incoming: Path) -> Job | None:
    """Put right a job directory that has no row: the daemon died between the rename and the transaction.

    While every source still lies in the inbox as it was, nothing has happened: the directory goes, and the drop is
    taken in again. Otherwise the directory is the only copy (the database is older than it), and becomes a job.
    `present` says how a name in the inbox looks now.
    """
    try:
        job = JobDir(path).read_job()
    except FileNotFoundError:
        # It was whole when it came here: the rest of one that was being removed when the daemon died.
        _discard(path, incoming)
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        # What was dropped may lie in it and nowhere else.
        logger.error("job.json in %s is damaged, so the folder is left as it is: %s", path, error)
        return None
    from_inbox = [file for file in job.files if file.source]
    if all(_still_there(present(file.source), file) for file in from_inbox):
        _discard(path, incoming)
        return None
    store.add_job(job, drop_keys(job), identity=JobDir(path).identity())
    return job


def drop_keys(job: Job) -> list[DropKey]:
    """The identities of the files that a job came from, by what its record says of them."""
    files = [file for file in job.files if file.source]
    return [DropKey(os.fsencode(f.source), f.device, f.inode, f.mtime_ns, f.bytes) for f in files]


def _discard(path: Path, incoming: Path) -> None:
    """Remove a job directory so that no half of it is ever taken for one: every start empties `incoming`."""
    gone = path.rename(incoming / uuid.uuid4().hex)
    sync(path.parent)
    shutil.rmtree(gone, ignore_errors=True)


def _still_there(entry: Entry | None, file: DroppedFile) -> bool:
    return entry is not None and entry.identity == (file.device, file.inode, file.mtime_ns, file.bytes)


@dataclass(frozen=True)
class EarlierRows:
    """Finds the data files that earlier jobs had: in the state folder, or in their result in the outbox."""

    store: Store
    places: Places

    def files_of(self, name: str) -> list[tuple[DroppedFile, Path]] | Problem:
        """The dataset of `job:0007`, and its held-out file where it had one; or why they cannot be had."""
        digits = name.removeprefix("job:")
        number = parse_number(digits)
        job = self.store.job(number) if number is not None else None
        if job is None:
            return _no_rows(name, f"there is no job {digits.zfill(4)}; STATUS.html and `appliance jobs` list them")
        wanted = [file for file in job.files if file.role in (Role.DATASET, Role.EVAL)]
        found = [(file, path) for file in wanted if (path := self.path_of(job, file)) is not None]
        if not any(file.role is Role.DATASET for file in wanted):
            return _no_rows(name, f"job {job.id} had no dataset; name one that had")
        if len(found) < len(wanted):
            message = f"the dataset of job {job.id} is not kept any more, or its result was moved out of the outbox"
            return _no_rows(name, f"{message}; drop the file itself")
        return found

    def path_of(self, job: Job, file: DroppedFile) -> Path | None:
        """Where a dropped file of a job lies now."""
        result = find_result(self.places.outbox, job.id)
        folders = [self.places.jobs / job.id / "dropped", *([result / "dropped"] if result else [])]
        return next((folder / file.name for folder in folders if (folder / file.name).is_file()), None)


def _no_rows(name: str, message: str) -> Problem:
    return Problem("no_such_rows", message, Reason.DATASET_MISSING, key="dataset", found=name)


@dataclass(frozen=True)
class _Birth:
    """What a job is given when it is made, whatever was dropped."""

    number: int
    time: float
    installation: str


@dataclass(frozen=True)
class _Staged:
    job: Job
    path: Path
    identity: str | None


def _stage(copied: Copied, recipe: DroppedFile | None, birth: _Birth, *, store: Store, recipes: Path) -> _Staged:
    """A complete job directory, still beside its final place."""
    drop = copied.drop
    files = tuple(file for file in copied.files if file.role is not Role.RECIPE or file is recipe or copied.problems)
    path = _with_files(copied.staging, files)
    job_dir = JobDir(path)
    library = drop.library_recipe or ("default" if recipe is None else None)
    problems = copied.problems + _copy_library_recipe(job_dir, library, recipes)
    identity = _identity(job_dir, files, library, dry_run=drop.dry_run)
    problems += _duplicate(store, identity, files)
    name = _job_name(copied, recipe)
    job = Job(
        number=birth.number,
        id=job_id(birth.number, name),
        uuid=str(uuid.uuid4()),
        name=printable(name),
        state=JobState.QUEUED,
        created=birth.time,
        installation=birth.installation,
        files=files,
        dry_run=drop.dry_run,
        library_recipe=library,
        outcome=Outcome.REJECTED if problems else None,
    )
    if problems:
        job_dir.write_problems(Stage.CHECK, problems)
        job_dir.write_outcome({**REJECTION, "message": gist(problems)})
    else:
        job_dir.write_identity(identity)
    job_dir.write_job(job)
    sync(path)
    return _Staged(job, path, None if problems else identity)


def _job_name(copied: Copied, recipe: DroppedFile | None) -> str:
    """The drop's name, or the recipe's where several recipes share a dataset."""
    several = sum(file.role is Role.RECIPE for file in copied.files) > 1
    return PurePosixPath(recipe.name).stem if recipe is not None and several else copied.drop.name


def _with_files(staging: Path, files: tuple[DroppedFile, ...]) -> Path:
    """A directory with these of the copied files. Dropped files are never written to, so links do."""
    path = staging / uuid.uuid4().hex
    (path / "dropped").mkdir(parents=True)
    for file in files:
        (path / file.path).hardlink_to(staging / file.path)
    sync(path / "dropped")
    return path


def _copy_library_recipe(job_dir: JobDir, name: str | None, recipes: Path) -> tuple[Problem, ...]:
    """Freeze the library recipe as it is now: a later edit of the library does not change a job that waits."""
    if name is None:
        return ()
    try:
        job_dir.library_recipe.write_bytes((recipes / f"{name}.yaml").read_bytes())
    except OSError as error:
        message = f"the library recipe {name}.yaml cannot be read ({error.strerror}). Ask whoever runs the appliance."
        return (Problem(code="library_recipe_missing", message=message, reason=Reason.OTHER, found=name),)
    sync(job_dir.library_recipe)
    return ()


def _identity(job_dir: JobDir, files: tuple[DroppedFile, ...], library: str | None, *, dry_run: bool) -> str:
    """What makes another drop the same: the bytes of the data and the resolved recipe."""
    parts = [f"{file.role} {file.sha256}" for file in files if file.role in (Role.DATASET, Role.EVAL, Role.OTHER)]
    return hashlib.sha256(
        "\n".join([*sorted(parts), _recipe_text(job_dir, files, library), str(dry_run)]).encode()
    ).hexdigest()


def _recipe_text(job_dir: JobDir, files: tuple[DroppedFile, ...], library: str | None) -> str:
    own = next(((job_dir.path / file.path).read_bytes() for file in files if file.role is Role.RECIPE), b"")
    below = (f"{library}.yaml", job_dir.library_recipe.read_bytes()) if job_dir.library_recipe.exists() else None
    try:
        return parse_recipe(own, name="recipe.yaml", library=below).model_dump_json()
    except InputError:
        return own.hex()


def _duplicate(store: Store, identity: str, files: tuple[DroppedFile, ...]) -> tuple[Problem, ...]:
    twin = store.active_job_with_identity(identity)
    if twin is None:
        return ()
    message = (
        f"the same data with the same recipe is already job {twin.id}, which has not ended. Nothing was lost: wait for"
        " it, or drop the file again with another recipe."
    )
    name = files[0].name if files else None
    return (Problem(code="duplicate", message=message, file=name, found=twin.id, expected="a drop that is new"),)
