"""`appliance delete`: remove every trace of a job, and say what remains where this program cannot reach."""

from collections.abc import Iterator

from appliance.commands.state import find_job, open_state
from appliance.daemon import open_places
from appliance.deletion import Remains, delete_job, pushed_to
from appliance.errors import ApplianceError
from appliance.hub.intentions import Intentions
from appliance.inbox import Inbox
from appliance.job import ENDED, Job
from appliance.label_cache import LabelCache
from appliance.pushing import job_reference, own_repository
from appliance.settings import Settings
from appliance.store import Store


class StillActiveError(ApplianceError):
    """The job has not ended."""

    exit_code = 2


class NotDeletedError(ApplianceError):
    """Something is still there that should not be."""

    exit_code = 1


class NoTokenError(ApplianceError):
    """Deleting from the Hub needs the token that pushed."""

    exit_code = 3


def delete(name: str, *, hub: bool) -> None:
    """Delete a job from state, caches and outbox, and with `hub` from the Hub."""
    store, settings = open_state()
    job = find_job(store, name)
    if job.state not in ENDED:
        raise StillActiveError(f"job {job.id} has not ended yet", hint=f"Run `appliance cancel {job.number}` first.")
    # The Hub first: while the job is known here, what failed there can be tried again.
    on_hub = _delete_on_hub(job, store, settings) if hub else None
    inbox = Inbox(settings.inbox.resolve(), store.fact("installation") or "")
    remains = delete_job(job, store, open_places(settings), inbox, LabelCache.in_state(settings.state))
    print(f"job {job.id} was deleted: its files, rows, labels, checkpoints, samples, logs and results are gone")
    for line in _lines(job, remains, on_hub):
        print(line)
    if remains.files:
        raise NotDeletedError("not everything could be removed", hint="Remove the files named above by hand.")


def _delete_on_hub(job: Job, store: Store, settings: Settings) -> tuple[str, ...]:
    """Take back what was pushed, and say what is left there. Raises ApplianceError; then nothing was deleted here."""
    repository = pushed_to(job, store)
    if repository is None:
        return ()
    if settings.hub_token is None:
        raise NoTokenError(
            f"the adapter is in {repository}, and no token to delete it with is set; nothing was deleted here either",
            hint="Set APPLIANCE_HUB_TOKEN_FILE, or delete it on the Hub and run `appliance delete` without --hub.",
        )
    # Only here: the Hub's library takes half a second to import.
    from appliance.hub.connection import connect
    from appliance.hub.faults import explain
    from appliance.hub.removal import Taken, remove

    own = repository.endswith(f"/{own_repository(job.name, job.number, job.uuid)}")
    taken = Taken(repository, job.installation, job.uuid, job_reference(job.number), shared=not own)
    try:
        return remove(connect(settings.hub_token), taken, Intentions.in_state(settings.state))
    except Exception as error:
        # Whatever the library raises has a class and a way out.
        why = explain(error)
        raise NotDeletedError(
            f"it is still in {repository}, and nothing was deleted here either: {why.message}", hint=why.hint
        ) from error


def _lines(job: Job, remains: Remains, on_hub: tuple[str, ...] | None) -> Iterator[str]:
    for path in remains.files:
        yield f"  still there: {path}"
    for other in remains.same_data:
        yield f"  the same data is part of job {other}; delete it as well if the data must go"
    if remains.pushed and on_hub is None:
        yield f"  its adapter was pushed to the Hub and is still there: {remains.pushed}"
    elif remains.pushed:
        yield f"  its adapter was taken back from {remains.pushed}; copies that others fetched are not known here"
        yield from (f"  {line}" for line in on_hub or ())
    yield "  not known here: copies that people took out of the outbox, and backups of these folders"
