"""What trainings have really needed on this machine: written down when one has ended, read when the next is planned."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.planning.calibration import Calibration, Measurement, measure
from appliance.store import DATABASE, Store


def record_measurement(store: Store, job_dir: JobDir, *, now: float) -> None:
    """Write down what a finished training needed, if it was trained as planned."""
    trained = job_dir.result(Stage.TRAIN)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        # A job that an older version planned says less; it is not measured.
        plan = job_dir.plan()
        if plan is not None and trained is not None and (measurement := measure(plan, trained)) is not None:
            store.add_measurement(measurement.dump(), now=now)


def read_calibration(state: Path) -> Calibration:
    """What the database in the state directory knows; empty where there is none to read."""
    path = state / DATABASE
    try:
        if not path.exists():
            return Calibration()
        store = Store(path, readonly=True)
        records = store.measurements()
        store.close()
    except (ApplianceError, OSError, sqlite3.Error):
        # A plan without corrections is better than none; whether the database is sound is the daemon's business.
        return Calibration()
    return Calibration(tuple(_readable(records)))


def _readable(records: Iterable[str]) -> Iterator[Measurement]:
    """Those that this version understands."""
    for record in records:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            yield Measurement.load(record)
