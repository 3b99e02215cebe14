"""Opening the database: checked before it is used, waited for while it is locked, never replaced."""

import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from appliance.database import REBUILD, LockedError, StoreError, check_database
from appliance.names import job_number
from appliance.store import Store

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
SAY_SECONDS: Final = 60.0


def open_database(database: Path, *, stopping: Callable[[], bool] = lambda: False) -> Store:
    """The database of this installation, sound and with an identity; made at the first start.

    Waits while another program has it locked, until `stopping`. Raises StoreError when it cannot be used.
    """
    _must_not_be_gone(database)
    said = float("-inf")
    while True:
        try:
            check_database(database)
            store = Store(database)
            break
        except LockedError as error:
            if stopping():
                raise
            if time.monotonic() - said > SAY_SECONDS:
                logger.warning("%s, for example a database browser; waiting until it is closed there", error.message)
                said = time.monotonic()
            time.sleep(LOOK_SECONDS)
    if store.fact("installation") is None:
        store.set_fact("installation", str(uuid.uuid4()))
    return store


def _must_not_be_gone(database: Path) -> None:
    """A state folder with jobs and no database is not a new one."""
    jobs = database.parent / "jobs"
    try:
        left = [path.name for path in jobs.iterdir() if job_number(path.name) is not None] if jobs.is_dir() else []
        gone = left and not database.exists()
    except OSError as error:
        raise StoreError(
            f"the state folder {database.parent} cannot be read: {error.strerror}",
            hint=f"Let user {os.geteuid()} read and write it.",
        ) from error
    if gone:
        raise StoreError(f"the database {database} is gone, and {len(left)} job folders are there", hint=REBUILD)
