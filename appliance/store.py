"""The SQLite database: jobs, drop keys, attempts, events, requests and counters.

One writer, write-ahead log, `synchronous=FULL`: what was committed survives a power cut. Every change of a job goes
through a transaction of this module; readers may be other threads and other processes.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from appliance.database import DATABASE as DATABASE
from appliance.database import StoreError as StoreError
from appliance.database import explain
from appliance.job import Job, JobState, Outcome, Push, Stage
from appliance.job_dir import job_from_json, job_to_json
from appliance.progress import Tally
from appliance.store_schema import SCHEMA_VERSION, migrate

BUSY_SECONDS = 10.0
# The fact that holds the highest number of what is no job here: deleted, or in the outbox from another time.
HIGHEST = "highest number"
LONGEST_JUMP = 100_000

# A job that ends so gives a result, and not its files back.
SENT_OUT: Final = (Outcome.SUCCEEDED, Outcome.CHECKED)


@dataclass(frozen=True)
class DropKey:
    """The identity of a source file that was taken in."""

    path: bytes
    device: int
    inode: int
    mtime_ns: int
    size: int
    kept: bool = False
    """Left in the inbox on purpose: too large to copy, or not readable."""

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """The very file, whatever it is called."""
        return (self.device, self.inode, self.mtime_ns, self.size)


@dataclass(frozen=True)
class Request:
    """What a person asked for: `action` on `target`, written by the command line, a page or a button file."""

    id: int
    action: str
    target: str
    arguments: dict[str, Any]


class Store:
    """An open database. Connections are per thread, so that readers never wait for the loop."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self._readonly = readonly
        self._local = threading.local()
        try:
            with self.transaction() if not readonly else self._reading() as connection:
                _check(connection, path, migrating=not readonly)
        except sqlite3.Error as error:
            raise explain(error, path) from error

    @property
    def connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = _connect(self.path, readonly=self._readonly)
        connection: sqlite3.Connection = self._local.connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic change. Nested calls join the outer transaction."""
        connection = self.connection
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # Also a full disk that refuses at the last moment: the transaction is then still open.
            _roll_back(connection)
            raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        yield self.connection

    def close(self) -> None:
        """Close this thread's connection."""
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection

    # Facts about the installation

    def fact(self, name: str) -> str | None:
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_fact(self, name: str, value: str) -> None:
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # Jobs

    def add_job(self, job: Job, keys: Iterable[DropKey] = (), *, identity: str | None = None) -> None:
        """Record a new job and the files that it came from, in one transaction.

        `identity` is what makes another drop the same: a hash of the data and the resolved recipe.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO jobs (number, id, uuid, state, record, identity) VALUES (?, ?, ?, ?, ?, ?)",
                (job.number, job.id, job.uuid, job.state, _dump(job), identity),
            )
            connection.executemany(
                "INSERT INTO drop_keys (number, path, device, inode, mtime_ns, size, kept)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(job.number, k.path, str(k.device), str(k.inode), k.mtime_ns, k.size, k.kept) for k in keys],
            )

    def active_job_with_identity(self, identity: str) -> Job | None:
        """The job that waits or runs with the same data and recipe, and of which something is still to come."""
        rows = self.connection.execute(
            "SELECT record FROM jobs WHERE identity = ? AND state IN ('queued', 'running')", (identity,)
        )
        jobs = (_load(row[0]) for row in rows)
        return next((job for job in jobs if not job.cancel_requested and job.outcome in (None, *SENT_OUT)), None)

    def save(self, job: Job) -> None:
        """Replace the record of a job."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, record = ?, finished = ? WHERE number = ?",
                (job.state, _dump(job), job.finished, job.number),
            )

    def job(self, number: int) -> Job | None:
        row = self.connection.execute("SELECT record FROM jobs WHERE number = ?", (number,)).fetchone()
        return _load(row[0]) if row else None

    def active_jobs(self) -> list[Job]:
        """Jobs that have not ended, oldest first."""
        rows = self.connection.execute("SELECT record FROM jobs WHERE state IN ('queued', 'running') ORDER BY number")
        return [_load(row[0]) for row in rows]

    def recent_jobs(self, limit: int = 50, states: Iterable[JobState] = JobState) -> list[Job]:
        """The newest jobs in these states, newest first."""
        chosen = tuple(states)
        marks = ", ".join("?" * len(chosen))
        rows = self.connection.execute(
            f"SELECT record FROM jobs WHERE state IN ({marks}) ORDER BY number DESC LIMIT ?",  # noqa: S608
            (*chosen, limit),
        )
        return [_load(row[0]) for row in rows]

    def ended_since(self, time: float) -> list[Job]:
        """Jobs that ended at or after `time`, oldest first."""
        rows = self.connection.execute("SELECT record FROM jobs WHERE finished >= ? ORDER BY finished, number", (time,))
        return [_load(row[0]) for row in rows]

    def pending_pushes(self) -> list[Job]:
        """Jobs whose result waits to be pushed, oldest first."""
        return self._with_push(Push.PENDING)

    def blocked_pushes(self) -> list[Job]:
        """Jobs whose push needs a person, oldest first."""
        return self._with_push(Push.BLOCKED)

    def _with_push(self, push: Push) -> list[Job]:
        rows = self.connection.execute(
            "SELECT record FROM jobs WHERE json_extract(record, '$.push') = ? ORDER BY number", (push,)
        )
        return [_load(row[0]) for row in rows]

    def count_by_state(self) -> dict[JobState, int]:
        rows = self.connection.execute("SELECT state, count(*) FROM jobs GROUP BY state")
        counts = {JobState(state): count for state, count in rows}
        return {state: counts.get(state, 0) for state in JobState}

    def highest_number(self) -> int:
        """The highest number that was ever given, also to a job that was deleted since."""
        row = self.connection.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()
        return max(int(row[0]), int(self.fact(HIGHEST) or 0))

    def use_up(self, number: int) -> None:
        """No job is given this number any more, nor one below it.

        One that is far above all others is none of ours: somebody's `20261128-backup`.
        """
        highest = self.highest_number()
        if highest < number <= highest + LONGEST_JUMP:
            self.set_fact(HIGHEST, str(number))

    def delete_job(self, number: int) -> None:
        """Remove all that is known of a job, also from where SQLite keeps what was deleted. Its number stays used."""
        self.connection.execute("PRAGMA secure_delete = ON")
        with self.transaction() as connection:
            self.set_fact(HIGHEST, str(self.highest_number()))
            for table in ("drop_keys", "attempts", "events", "jobs"):
                connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))  # noqa: S608
            connection.execute("DELETE FROM requests WHERE target = ?", (str(number),))
            self.forget_progress(number)
        # What was overwritten may still stand in the log.
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # Source files

    def sources_of(self, number: int) -> list[DropKey]:
        """The sources of a job that, as far as is known, still lie in the inbox."""
        rows = self.connection.execute(
            "SELECT path, device, inode, mtime_ns, size, kept FROM drop_keys WHERE number = ? AND removed = 0",
            (number,),
        )
        return [_key(*row) for row in rows]

    def unremoved(self) -> list[DropKey]:
        """The sources that were taken in and, as far as is known, still lie in the inbox."""
        rows = self.connection.execute(
            "SELECT path, device, inode, mtime_ns, size, kept FROM drop_keys WHERE removed = 0"
        )
        return [_key(*row) for row in rows]

    def forget_source(self, key: DropKey) -> None:
        """A source is gone from the inbox: a new file of that name is a new drop, whatever its inode."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE drop_keys SET removed = 1 WHERE path = ? AND device = ? AND inode = ? AND mtime_ns = ?"
                " AND size = ? AND removed = 0",
                (key.path, str(key.device), str(key.inode), key.mtime_ns, key.size),
            )

    # Attempts

    def start_attempt(self, number: int, stage: Stage, *, mark: str, boot_id: str, now: float) -> None:
        """Count an attempt before it starts.

        `mark` says how far the stage has come (its newest checkpoint): an attempt that moved it starts a new count, so
        a job is given up only when it fails again and again at the same place.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO attempts (number, stage, mark, boot_id, started) VALUES (?, ?, ?, ?, ?)",
                (number, stage, mark, boot_id, now),
            )

    def attempts(self, number: int, stage: Stage, *, mark: str | None = None) -> int:
        """Attempts of a stage that count: all, or those that began at `mark`."""
        row = self.connection.execute(
            "SELECT count(*) FROM attempts WHERE number = ? AND stage = ? AND counted = 1 AND (? IS NULL OR mark = ?)",
            (number, stage, mark, mark),
        ).fetchone()
        return int(row[0])

    def note_process(self, number: int, stage: Stage, *, pid: int, pid_started: int) -> None:
        """Remember which process works on the newest attempt, to find it again after a crash of the daemon."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE attempts SET pid = ?, pid_started = ? WHERE rowid ="
                " (SELECT max(rowid) FROM attempts WHERE number = ? AND stage = ?)",
                (pid, pid_started, number, stage),
            )

    def end_attempt(self, number: int, stage: Stage, *, exit_code: int | None, counted: bool, now: float) -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE attempts SET ended = ?, exit_code = ?, counted = ? WHERE rowid ="
                " (SELECT max(rowid) FROM attempts WHERE number = ? AND stage = ?)",
                (now, exit_code, counted, number, stage),
            )

    def open_attempts(self) -> list[dict[str, Any]]:
        """Attempts that no one saw the end of: the daemon or the host went down under them."""
        cursor = self.connection.execute(
            "SELECT number, stage, boot_id, pid, pid_started FROM attempts WHERE ended IS NULL"
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def close_attempts(self, *, now: float) -> None:
        """No stage works any more, and nobody will ever see how these ended. They stay counted."""
        with self.transaction() as connection:
            connection.execute("UPDATE attempts SET ended = ? WHERE ended IS NULL", (now,))

    # How much of a stage's progress is counted

    def progress_offset(self, number: int, stage: Stage) -> int:
        """Bytes of `progress.jsonl` whose events are in the counters already."""
        return int(self.fact(f"progress {number} {stage}") or 0)

    def set_progress_offset(self, number: int, stage: Stage, offset: int) -> None:
        self.set_fact(f"progress {number} {stage}", str(offset))

    def tally(self, number: int, stage: Stage) -> Tally | None:
        """What a stage's steps have raised the counters to; its `progress.jsonl` may have lost its end since."""
        said = self.fact(f"progress {number} {stage} tally")
        return Tally(**json.loads(said)) if said else None

    def set_tally(self, number: int, stage: Stage, tally: Tally) -> None:
        self.set_fact(f"progress {number} {stage} tally", json.dumps(asdict(tally)))

    def forget_progress(self, number: int) -> None:
        """For a job that has ended."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM facts WHERE name LIKE ?", (f"progress {number} %",))

    # What finished trainings have shown

    def add_measurement(self, record: str, *, now: float) -> None:
        with self.transaction() as connection:
            connection.execute("INSERT INTO measurements VALUES (?, ?)", (now, record))

    def measurements(self, limit: int = 500) -> list[str]:
        """The newest first."""
        rows = self.connection.execute("SELECT record FROM measurements ORDER BY rowid DESC LIMIT ?", (limit,))
        return [row[0] for row in rows]

    # Events, requests, counters

    def note(self, number: int | None, event: str, *, now: float, **facts: object) -> None:
        """Append to a job's history; `number` None is the appliance's own."""
        with self.transaction() as connection:
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (now, number, event, json.dumps(facts)))

    def events(self, number: int) -> list[dict[str, Any]]:
        """A job's history, oldest first."""
        rows = self.connection.execute(
            "SELECT time, event, facts FROM events WHERE number = ? ORDER BY rowid", (number,)
        )
        return [{"time": time, "event": event, **json.loads(facts)} for time, event, facts in rows]

    def ask(self, action: str, target: str, *, now: float, **arguments: object) -> None:
        """Leave a request for the loop."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO requests (action, target, arguments, asked) VALUES (?, ?, ?, ?)",
                (action, target, json.dumps(arguments), now),
            )

    def requests(self) -> list[Request]:
        rows = self.connection.execute("SELECT id, action, target, arguments FROM requests ORDER BY id")
        return [Request(id, action, target, json.loads(arguments)) for id, action, target, arguments in rows]

    def drop_request(self, request_id: int) -> None:
        with self.transaction() as connection:
            connection.execute("DELETE FROM requests WHERE id = ?", (request_id,))

    def count(self, name: str, labels: Mapping[str, str] | None = None, amount: float = 1.0) -> None:
        """Add to a counter that goes on across restarts."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO counters VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
                (name, json.dumps(labels or {}, sort_keys=True), amount),
            )

    def observe(
        self, name: str, value: float, buckets: Iterable[float], labels: Mapping[str, str] | None = None
    ) -> None:
        """Add to a histogram that goes on across restarts. Only the first bucket that holds `value` is counted."""
        with self.transaction():
            edge = next((edge for edge in buckets if value <= edge), float("inf"))
            self.count(f"{name}_bucket", {**(labels or {}), "le": str(edge)})
            self.count(f"{name}_sum", labels, value)

    def counters(self) -> list[tuple[str, Mapping[str, str], float]]:
        rows = self.connection.execute("SELECT name, labels, value FROM counters")
        return [(name, json.loads(labels), value) for name, labels, value in rows]


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    if not readonly:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _check(connection: sqlite3.Connection, path: Path, *, migrating: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the database {path} was written by a newer appliance (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="Start the newer version again, or see docs/upgrade.md for going back.",
        )
    if migrating:
        migrate(connection, version)


def _key(path: bytes, device: str, inode: str, mtime_ns: int, size: int, kept: int) -> DropKey:
    return DropKey(bytes(path), int(device), int(inode), mtime_ns, size, bool(kept))


def _dump(job: Job) -> str:
    return json.dumps(job_to_json(job))


def _load(record: str) -> Job:
    return job_from_json(json.loads(record))
