"""`appliance cancel`, `pause`, `resume`: leave a request for the daemon."""

import time

from appliance.commands.state import find_job, open_state
from appliance.errors import ApplianceError
from appliance.job import ENDED


class TooLateError(ApplianceError):
    """The job has ended already."""

    exit_code = 2


def cancel(name: str) -> None:
    """Ask the daemon to stop a job."""
    store, _ = open_state()
    job = find_job(store, name)
    if job.state in ENDED:
        raise TooLateError(f"job {job.id} has ended already: {job.state}")
    store.ask("cancel", str(job.number), now=time.time())
    print(f"job {job.id} will stop; its files come back in outbox/{job.id}.cancelled")


def queue(action: str) -> None:
    """Ask the daemon to pause or resume the queue."""
    store, _ = open_state()
    store.ask(action, "queue", now=time.time())
    print("no new training starts until `appliance resume`" if action == "pause" else "the queue goes on")
