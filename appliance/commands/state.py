"""Opening the daemon's database for a command."""

from appliance.errors import ApplianceError
from appliance.job import Job
from appliance.names import named_number
from appliance.settings import Settings
from appliance.store import DATABASE, Store


class NoStateError(ApplianceError):
    """There is no database where the settings say."""

    exit_code = 3


class NoSuchJobError(ApplianceError):
    """No job has that number or id."""

    exit_code = 2


def open_state() -> tuple[Store, Settings]:
    """The database of the installation that the settings name. Raises NoStateError when there is none."""
    settings = Settings.load()
    path = settings.state / DATABASE
    if not path.exists():
        raise NoStateError(
            f"there is no appliance in {settings.state.resolve()}",
            hint="Run this where `appliance serve` runs, or set APPLIANCE_STATE to its state folder.",
        )
    return Store(path), settings


def find_job(store: Store, name: str) -> Job:
    """The job that a person named by number or id. Raises NoSuchJobError."""
    number = named_number(name)
    job = store.job(number) if number is not None else None
    if job is None:
        raise NoSuchJobError(f"there is no job {name}", hint="`appliance jobs` lists them.")
    return job
