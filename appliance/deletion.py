"""Every trace of a job, removed: first the files, last the rows. Safe to repeat."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from appliance.database import forget_copies
from appliance.hub.intentions import Intentions
from appliance.inbox import Inbox
from appliance.job import Job, Role
from appliance.label_cache import LabelCache
from appliance.names import printable
from appliance.places import Places
from appliance.pushing import own_repository
from appliance.store import Store


@dataclass(frozen=True)
class OnHub:
    """A repository with a job's adapter. `surely`: a push there ended well; otherwise one was begun, and may have."""

    repository: str
    surely: bool


@dataclass(frozen=True)
class Remains:
    """What is left of a job: files that cannot go, other jobs with the same data, and what was pushed."""

    files: tuple[str, ...] = ()
    same_data: tuple[str, ...] = ()
    on_hub: tuple[OnHub, ...] = ()


def delete_job(job: Job, store: Store, places: Places, inbox: Inbox, labels: LabelCache) -> Remains:
    """Remove an ended job from inbox, outbox, state folder, caches and database, in this order."""
    left = [path for path in _sources(job, store, inbox)]
    for folder in (*_results(job, places.outbox), places.jobs / job.id):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            left.append(str(folder))
    for file in job.files:
        labels.forget(file.sha256)
    intentions = Intentions.in_state(places.state)
    remains = Remains(tuple(left), _same_data(job, store), on_hub(job, store, intentions))
    if not left:
        intentions.forget(own_repository(job.name, job.number, job.uuid))
        store.delete_job(job.number)
        forget_copies(store.path)
    return remains


def on_hub(job: Job, store: Store, intentions: Intentions) -> tuple[OnHub, ...]:
    """Where this job was pushed to, or a push was begun to: one that was blocked may have got its commit through."""
    events = store.events(job.number)
    pushed = [event["repository"] for event in events if event["event"] == "pushed"]
    begun = [event["repository"] for event in events if event["event"] == "push_started" and event.get("repository")]
    meant = intentions.of(own_repository(job.name, job.number, job.uuid))
    return tuple(OnHub(name, surely=name in pushed) for name in dict.fromkeys([*pushed, *begun, *meant]))


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
    data = {file.sha256 for file in job.files if file.role in (Role.DATASET, Role.EVAL)}
    others = (other for other in store.recent_jobs(10**6) if other.number != job.number)
    return tuple(other.id for other in others if data & {file.sha256 for file in other.files})
