"""The database file as a whole: is it sound, a copy of it every day, and what to tell a person when it is not."""

import logging
import os
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from appliance.disk import NOTHING_FREE_BYTES, space_of
from appliance.errors import ApplianceError
from appliance.files import sync

logger = logging.getLogger(__name__)

DATABASE: Final = "appliance.sqlite"
BACKUPS_KEPT: Final = 7
DAY_SECONDS: Final = 86_400.0
REBUILD: Final = (
    "`appliance serve --rebuild` makes a new one from its last copy and the job folders; nothing is deleted."
)


class StoreError(ApplianceError):
    """The database cannot be used; the hint says what to do. Never answered by starting empty."""

    exit_code = 3


class LockedError(StoreError):
    """Another program holds the database; that passes."""


def explain(error: sqlite3.Error, path: Path) -> StoreError:
    """What a person can do about an error of the database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LockedError(
            f"the database {path} is locked by another program",
            hint="Close what has it open, for example a database browser, then try again.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StoreError(
            f"the database {path} cannot be written: {error}",
            hint=f"Let user {os.geteuid()} write the folder {path.parent} and what is in it; is it mounted read-only?",
        )
    # A database that is opened needs a little room at once; where there is none SQLite calls that an error of the disk.
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path.parent)):
        hint = "Make room there. The appliance goes on by itself if it runs; otherwise start it again."
        return StoreError(f"the disk of {path.parent} is full", hint=hint)
    if code == sqlite3.SQLITE_IOERR:
        hint = "Look at the kernel's log: the disk may be failing. The backups lie in the folder backup beside it."
        return StoreError(f"the disk of {path.parent} reports an error: {error}", hint=hint)
    return StoreError(f"the database {path} cannot be used: {error}", hint=f"It is damaged. {REBUILD}")


def _is_full(folder: Path) -> bool:
    try:
        return space_of(folder).free_bytes < NOTHING_FREE_BYTES
    except OSError:
        return False


def check_database(path: Path) -> None:
    """See that an existing database is sound, without changing it. Raises StoreError."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=5.0)) as connection:
            problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
    except sqlite3.Error as error:
        raise explain(error, path) from error
    if problems:
        raise StoreError(f"the database {path} is damaged: {problems[0]}", hint=REBUILD)


class DailyBackup:
    """A copy of the database a day, taken while it is in use, whole or not at all. The newest few are kept."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._folder = database.parent / "backup"
        self._thread: threading.Thread | None = None
        self._tried = float("-inf")

    def keep_up(self, wall: float) -> None:
        """Take today's, in a thread of its own, if there is none yet. A failed one is tried again in an hour."""
        target = self._folder / f"{self._database.stem}-{datetime.fromtimestamp(wall, UTC):%Y-%m-%d}.sqlite"
        busy = self._thread is not None and self._thread.is_alive()
        if busy or target.exists() or abs(wall - self._tried) < DAY_SECONDS / 24:
            return
        self._tried = wall
        self._thread = threading.Thread(target=self._take, args=(target,), name="backup", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def _take(self, target: Path) -> None:
        try:
            back_up(self._database, target)
            for old in sorted(self._folder.glob(f"{self._database.stem}-*.sqlite"))[:-BACKUPS_KEPT]:
                old.unlink()
        except (sqlite3.Error, OSError) as error:
            logger.warning("the daily copy of the database was not made: %s", error)


def back_up(database: Path, target: Path) -> None:
    """Copy a database that is in use. Raises OSError or sqlite3.Error; `target` is then as it was."""
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        source = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        with closing(source), closing(sqlite3.connect(temporary)) as copy:
            source.backup(copy, pages=256)
        sync(temporary)
        temporary.rename(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def forget_copies(database: Path) -> None:
    """Remove the daily copies: somebody had a job deleted that they know of. The next one is taken at once."""
    for path in (database.parent / "backup").glob(f"{database.stem}-*.sqlite"):
        path.unlink(missing_ok=True)


def newest_backup(database: Path) -> Path | None:
    """The newest daily copy that is sound."""
    for path in sorted((database.parent / "backup").glob(f"{database.stem}-*.sqlite"), reverse=True):
        try:
            check_database(path)
        except StoreError:
            continue
        return path
    return None
