"""`appliance delete`: remove every trace of a job, and say what remains where this program cannot reach."""

from collections.abc import Iterator

from appliance.commands.state import find_job, open_state
from appliance.daemon import open_places
from appliance.deletion import Remains, delete_job
from appliance.errors import ApplianceError
from appliance.inbox import Inbox
from appliance.job import ENDED, Job
from appliance.label_cache import LabelCache


class StillActiveError(ApplianceError):
    """The job has not ended."""

    exit_code = 2


class NotDeletedError(ApplianceError):
    """Something is still there that should not be."""

    exit_code = 1


class NoHubDeletionError(ApplianceError):
    """Results on the Hub cannot be deleted from here."""

    exit_code = 3


def delete(name: str, *, hub: bool) -> None:
    """Delete a job from state, caches and outbox."""
    store, settings = open_state()
    job = find_job(store, name)
    if job.state not in ENDED:
        raise StillActiveError(f"job {job.id} has not ended yet", hint=f"Run `appliance cancel {job.number}` first.")
    if hub:
        raise NoHubDeletionError(
            "deleting from the Hub is not part of this version, and nothing was deleted here either",
            hint="Delete the repository on the Hub, then run `appliance delete` without --hub.",
        )
    inbox = Inbox(settings.inbox.resolve(), store.fact("installation") or "")
    remains = delete_job(job, store, open_places(settings), inbox, LabelCache.in_state(settings.state))
    print(f"job {job.id} was deleted: its files, rows, labels, checkpoints, samples, logs and results are gone")
    for line in _lines(job, remains):
        print(line)
    if remains.files:
        raise NotDeletedError("not everything could be removed", hint="Remove the files named above by hand.")


def _lines(job: Job, remains: Remains) -> Iterator[str]:
    for path in remains.files:
        yield f"  still there: {path}"
    for other in remains.same_data:
        yield f"  the same data is part of job {other}; delete it as well if the data must go"
    if remains.pushed:
        yield f"  its adapter was pushed to the Hub and is still there: {remains.pushed}"
    yield "  not known here: copies that people took out of the outbox, and backups of these folders"
