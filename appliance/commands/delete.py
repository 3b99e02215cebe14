"""`appliance delete`: remove every trace of a job, and say what remains where this program cannot reach."""

from collections.abc import Iterable, Iterator

from appliance.commands.state import find_job, open_state
from appliance.deletion import OnHub, Remains, delete_job, on_hub
from appliance.errors import ApplianceError
from appliance.hub.intentions import Intentions
from appliance.inbox import Inbox
from appliance.job import ENDED, Job
from appliance.label_cache import LabelCache
from appliance.places import Places
from appliance.push_store import PushStore
from appliance.pushing import job_reference, own_repository
from appliance.settings import Settings
from appliance.store import Store


class StillActiveError(ApplianceError):
    """The job has not ended, or its push has not."""

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
    if not settings.outbox.is_dir():
        raise NotDeletedError(
            f"the outbox {settings.outbox.resolve()} is not there, and nothing was deleted",
            hint="Mount it, or set APPLIANCE_OUTBOX, so that what it holds of the job goes, too.",
        )
    if job.state not in ENDED:
        raise StillActiveError(f"job {job.id} has not ended yet", hint=f"Run `appliance cancel {job.number}` first.")
    pushes = PushStore(store)
    was = pushes.call_off(job.number)
    if was is None:
        raise StillActiveError(f"job {job.id} is being pushed", hint="Wait for its end, or stop the appliance.")
    try:
        # The Hub first: while the job is known here, what failed there can be tried again.
        left_there = _delete_on_hub(job, store, settings) if hub else None
    except BaseException:
        pushes.take_up_again(job.number, was)
        raise
    inbox = Inbox(settings.inbox.resolve(), store.fact("installation") or "")
    remains = delete_job(job, store, Places.of(settings), inbox, LabelCache.in_state(settings.state))
    print(f"job {job.id} was deleted: its files, rows, labels, checkpoints, samples, logs and results are gone")
    for line in _lines(job, remains, left_there):
        print(line)
    if remains.files:
        raise NotDeletedError("not everything could be removed", hint="Remove the files named above by hand.")


def _delete_on_hub(job: Job, store: Store, settings: Settings) -> list[str]:
    """Take back what was pushed, and say what is left there. Raises ApplianceError; then nothing was deleted here."""
    intentions = Intentions.in_state(settings.state)
    places = on_hub(job, store, intentions)
    if places and settings.hub_token is None:
        raise NoTokenError(
            f"{_where(places)}, and no token to delete it with is set; nothing was deleted here either",
            hint="Set APPLIANCE_HUB_TOKEN_FILE, or delete it on the Hub and run `appliance delete` without --hub.",
        )
    return [line for place in places for line in _take_back(job, place, settings.hub_token or "", intentions)]


def _take_back(job: Job, place: OnHub, token: str, intentions: Intentions) -> tuple[str, ...]:
    # Only here: the Hub's library takes half a second to import.
    from appliance.hub.connection import connect
    from appliance.hub.faults import explain
    from appliance.hub.removal import Taken, remove

    own = place.repository.endswith(f"/{own_repository(job.name, job.number, job.uuid)}")
    taken = Taken(place.repository, job.installation, job.uuid, job_reference(job.number), shared=not own)
    try:
        return remove(connect(token), taken, intentions)
    except Exception as error:
        # Whatever the library raises has a class and a way out.
        why = explain(error)
        raise NotDeletedError(
            f"{_where([place])}, and nothing was deleted here either: {why.message}", hint=why.hint
        ) from error


def _where(places: Iterable[OnHub]) -> str:
    return " and ".join(f"the adapter {'is' if place.surely else 'may be'} in {place.repository}" for place in places)


def _lines(job: Job, remains: Remains, left_there: list[str] | None) -> Iterator[str]:
    for path in remains.files:
        yield f"  still there: {path}"
    for other in remains.same_data:
        yield f"  the same data is part of job {other}; delete it as well if the data must go"
    for place in remains.on_hub:
        if left_there is not None:
            what = "its adapter" if place.surely else "whatever a push had left"
            yield f"  {what} was taken back from {place.repository}; copies that others fetched are not known here"
        elif place.surely:
            yield f"  its adapter was pushed to the Hub and is still there: {place.repository}"
        else:
            yield f"  a push of its adapter to the Hub was begun, and it may be there: {place.repository}"
    yield from (f"  {line}" for line in left_there or ())
    yield "  not known here: copies that people took out of the outbox, and backups of these folders"
