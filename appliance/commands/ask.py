"""`appliance cancel`, `approve`, `push`, `pause`, `resume`: leave a request for the daemon."""

import time
from typing import Final

from appliance.actions import why_not
from appliance.commands.state import find_job, open_state
from appliance.errors import ApplianceError
from appliance.job import ENDED, Outcome, outbox_name
from appliance.store import Store

# How long a daemon that runs may take to see a request.
WAIT_SECONDS: Final = 5.0
_DONE: Final = {"pause": "no new training starts until `appliance resume`", "resume": "the queue goes on"}


class TooLateError(ApplianceError):
    """The job has ended already."""

    exit_code = 2


class TooEarlyError(ApplianceError):
    """The job has not ended yet."""

    exit_code = 2


class NoEffectError(ApplianceError):
    """The job is not where this would change anything."""

    exit_code = 2


class NoHubError(ApplianceError):
    """Nobody has set where to push, or with which token."""

    exit_code = 3


def cancel(name: str) -> None:
    """Ask the daemon to stop a job."""
    store, settings = open_state()
    job = find_job(store, name)
    if reason := why_not(job, "cancel", hub=False):
        raise TooLateError(reason)
    store.ask("cancel", str(job.number), now=time.time())
    print(f"job {job.id} will stop; its files come back in {settings.outbox / outbox_name(job.id, Outcome.CANCELLED)}")


def push(name: str) -> None:
    """Ask the daemon to push a result to the Hub, whatever its verdict and whatever became of it before."""
    store, settings = open_state()
    job = find_job(store, name)
    if job.state not in ENDED:
        raise TooEarlyError(f"job {job.id} has not ended yet: {job.state}", hint="Ask again when it has succeeded.")
    if job.outcome is not Outcome.SUCCEEDED:
        raise TooLateError(f"job {job.id} has no result to push: it ended as {job.outcome}")
    if settings.hub_org is None or settings.hub_token is None:
        missing = "APPLIANCE_HUB_ORG" if settings.hub_org is None else "APPLIANCE_HUB_TOKEN_FILE"
        raise NoHubError(f"this appliance does not push: {missing} is not set", hint="Set it, and restart.")
    store.ask("push", str(job.number), now=time.time())
    print(f"job {job.id} will be pushed to {settings.hub_org}; `appliance show {job.number}` says how it goes")


def approve(name: str) -> None:
    """Let a job start that takes longer than those that start by themselves."""
    store, settings = open_state()
    job = find_job(store, name)
    if reason := why_not(job, "approve", hub=False):
        raise NoEffectError(reason, hint=f"`appliance show {job.number}` says how it stands.")
    store.ask("approve", str(job.number), now=time.time())
    print(f"job {job.id} may take longer than {settings.max_job_hours:g} h")


def queue(action: str) -> None:
    """Ask the daemon to pause or resume the queue."""
    store, _ = open_state()
    store.ask(action, "queue", now=time.time())
    later = "" if _is_taken(store, action) else ", as soon as the appliance runs"
    print(f"{_DONE[action]}{later}")


def _is_taken(store: Store, action: str) -> bool:
    """Whether the daemon takes the request away, as it does when it has done it."""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        if all(request.action != action for request in store.requests()):
            return True
        time.sleep(0.1)
    return False
