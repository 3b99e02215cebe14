"""Every trace of a job, removed: first the files, last the rows. Safe to repeat."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from appliance.database import forget_copies
from appliance.hub.intentions import Intentions
from appliance.inbox import Inbox
from appliance.intake import Places
from appliance.job import Job
from appliance.label_cache import LabelCache
from appliance.names import printable
from appliance.pushing import own_repository
from appliance.store import Store


@dataclass(frozen=True)
class Remains:
    """What is left of a job: files that cannot go, other jobs with the same data, and what was pushed."""

    files: tuple[str, ...] = ()
    same_data: tuple[str, ...] = ()
    pushed: str | None = None


def delete_job(job: Job, store: Store, places: Places, inbox: Inbox, labels: LabelCache) -> Remains:
    """Remove an ended job from inbox, outbox, caches, state folder and database, in this order."""
    left = [path for path in _sources(job, store, inbox)]
    for folder in (*_results(job, places.outbox), places.jobs / job.id):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            left.append(str(folder))
    for file in job.files:
        labels.forget(file.sha256)
    Intentions.in_state(places.state).forget(own_repository(job.name, job.number, job.uuid))
    remains = Remains(tuple(left), _same_data(job, store), pushed_to(job, store))
    if not left:
        store.delete_job(job.number)
        forget_copies(store.path)
    return remains


def pushed_to(job: Job, store: Store) -> str | None:
    """The repository that this job was pushed to last."""
    pushed = [event["repository"] for event in store.events(job.number) if event["event"] == "pushed"]
    return str(pushed[-1]) if pushed else None


def _results(job: Job, outbox: Path) -> list[Path]:
    """Every folder of this job in the outbox: results under any ending, and what a crash left half published."""
    names = [path for path in outbox.iterdir() if path.is_dir()]
    return [path for path in names if path.name == job.id or path.name.lstrip(".").startswith(f"{job.id}.")]


def _sources(job: Job, store: Store, inbox: Inbox) -> list[str]:
    """Take away what was taken in and still lies in the inbox. Returns what cannot go."""
    left = []
    for key in store.sources_of(job.number):
        path = os.fsdecode(key.path)
        try:
            entry = inbox.entry(path)
            if entry is not None and entry.identity == key.identity:
                inbox.remove(path, entry)
        except OSError:
            left.append(printable(str(inbox.path / path)))
    return left


def _same_data(job: Job, store: Store) -> tuple[str, ...]:
    data = {file.sha256 for file in job.files if file.role in ("dataset", "eval")}
    others = (other for other in store.recent_jobs(10**6) if other.number != job.number)
    return tuple(other.id for other in others if data & {file.sha256 for file in other.files})
