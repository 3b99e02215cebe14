"""`appliance serve --rebuild`: a new database from the last daily copy and the `job.json` of every job folder."""

import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from appliance.database import DATABASE, newest_backup
from appliance.files import sync
from appliance.intake import drop_keys
from appliance.job import ENDED, Job, JobState, Stage, lost
from appliance.job_dir import JobDir
from appliance.lock import InstanceLock
from appliance.names import SENTINEL, job_number
from appliance.order import next_stage
from appliance.places import Places
from appliance.settings import Settings
from appliance.store import Store

logger = logging.getLogger(__name__)

PARTS: Final = ("", "-wal", "-shm")


def rebuild_database(settings: Settings) -> None:
    """Do it for the installation that the settings name. Raises AlreadyRunningError beside a running daemon."""
    settings.state.mkdir(parents=True, exist_ok=True)
    lock = InstanceLock(settings.state)
    try:
        places = Places.of(settings)
        places.jobs.mkdir(exist_ok=True)
        known = rebuild(settings.state / DATABASE, places, settings.inbox)
        logger.info("the database was made anew and knows %d jobs", known)
    finally:
        lock.release()


def rebuild(database: Path, places: Places, inbox: Path) -> int:
    """Put a new database in the place of a damaged one, which is kept. Returns how many jobs it knows.

    Built beside the old one and renamed at the end: cut short anywhere, it is begun again, and no start finds half.
    """
    new = database.with_name(f"{database.name}.new")
    for part in PARTS:
        new.with_name(new.name + part).unlink(missing_ok=True)
    backup = newest_backup(database)
    if backup is not None:
        shutil.copyfile(backup, new)
        logger.info("starting from the daily copy %s", backup.name)
    store = Store(new)
    known = _fill(store, places, inbox)
    store.close()
    sync(new)
    _keep_old(database)
    new.rename(database)
    sync(database.parent)
    return known


def _fill(store: Store, places: Places, inbox: Path) -> int:
    for job in _found(places.jobs):
        if store.job(job.number) is None:
            store.add_job(job, drop_keys(job), identity=JobDir(places.jobs / job.id).identity())
        else:
            store.save(job)
    now = time.time()
    # They are as old as the copy: where a job stands now, its folder tells, and what was asked for was done since.
    store.close_attempts(now=now)
    for request in store.requests():
        store.drop_request(request.id)
    gone = [job for job in store.recent_jobs(10**6) if not (places.jobs / job.id / "job.json").exists()]
    for job in gone:
        if job.state in ENDED:
            # Deleted since that copy was taken.
            store.delete_job(job.number)
        else:
            store.save(lost(job, "its folder was lost with the database", now=now))
    if store.fact("installation") is None:
        store.set_fact("installation", _installation(store, inbox))
    store.note(None, "database_rebuilt", now=now)
    return sum(store.count_by_state().values())


def _found(jobs: Path) -> Iterator[Job]:
    """What the job folders say of themselves. A job that ran is begun again at its first stage without a result."""
    for path in sorted(jobs.iterdir()):
        if job_number(path.name) is None:
            continue
        try:
            job = JobDir(path).read_job()
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.error("the record of %s cannot be read and is left out: %s", path.name, error)
            continue
        yield job if job.state in ENDED else _begun_again(job, JobDir(path))


def _begun_again(job: Job, job_dir: JobDir) -> Job:
    due = replace(job, state=JobState.QUEUED, stage=None, not_before=0.0)
    if job_dir.outcome() is None and next_stage(job, job_dir) is Stage.PUBLISH:
        # Its last stage is done, and how the job ends was not written down: that is gone through at the first turn.
        return replace(due, state=JobState.RUNNING, stage=Stage.PREPARE if job.dry_run else Stage.VERIFY)
    return due


def _installation(store: Store, inbox: Path) -> str:
    """Who we are: as the jobs remember it, or the inbox, or somebody new."""
    remembered = next((job.installation for job in store.recent_jobs(50) if job.installation), None)
    return remembered or _sentinel(inbox) or str(uuid.uuid4())


def _sentinel(inbox: Path) -> str | None:
    try:
        return (inbox / SENTINEL).read_text().strip() or None
    except (OSError, ValueError):
        return None


def _keep_old(database: Path) -> None:
    kept = database.parent / "damaged" / time.strftime("%Y-%m-%dT%H-%M-%S")
    for part in PARTS:
        old = database.with_name(database.name + part)
        if old.exists():
            kept.mkdir(parents=True, exist_ok=True)
            old.rename(kept / old.name)
    if kept.exists():
        logger.info("the damaged database lies in %s", kept)
