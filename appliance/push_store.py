"""What is known of each job's push: attempts, when the next one is due, how the last one ended. Survives restarts."""

from dataclasses import dataclass, replace
from typing import Any, Final

from appliance.job import Push
from appliance.processes import boot_id, runs
from appliance.pushing import Pending, PushError, PushResult
from appliance.store import Store

# The fact that holds when a push last went through, in Unix seconds.
LAST_SUCCESS: Final = "hub last success"


@dataclass(frozen=True)
class PushRow:
    """One job's push. `next_try` is Unix seconds; `pid` is set while a process works on it."""

    number: int
    attempts: int = 0
    next_try: float = 0.0
    result: PushResult | None = None
    message: str = ""
    hint: str | None = None
    repository: str | None = None
    url: str | None = None
    boot_id: str | None = None
    pid: int | None = None
    pid_started: int | None = None


_COLUMNS = ", ".join(PushRow.__dataclass_fields__)


class PushStore:
    """The table of pushes. A job whose push is pending and that has no row has not been tried yet."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def row(self, number: int) -> PushRow:
        cursor = self._store.connection.execute(f"SELECT {_COLUMNS} FROM pushes WHERE number = ?", (number,))  # noqa: S608
        found = cursor.fetchone()
        return _row(found) if found else PushRow(number)

    def working(self) -> list[PushRow]:
        """Pushes that a process was at when the daemon went down."""
        cursor = self._store.connection.execute(f"SELECT {_COLUMNS} FROM pushes WHERE pid IS NOT NULL")  # noqa: S608
        return [_row(found) for found in cursor]

    def is_at_work(self, number: int) -> bool:
        """Whether the process that was noted for a push runs at this moment."""
        row = self.row(number)
        return row.pid is not None and row.boot_id == boot_id() and runs(row.pid, row.pid_started or 0)

    def call_off(self, number: int) -> Push | None:
        """Let no push of a job begin any more, and say what its push was. None, and no change, while one is at work.

        One whose process starts at this very moment is ended at once by whoever started it.
        """
        with self._store.transaction():
            job = self._store.job(number)
            if job is None or self.is_at_work(number):
                return None
            self._store.save(replace(job, push=Push.OFF))
        return job.push

    def take_up_again(self, number: int, push: Push) -> None:
        """What was called off is as it was."""
        with self._store.transaction():
            job = self._store.job(number)
            if job is not None:
                self._store.save(replace(job, push=push))

    def is_called_off(self, number: int) -> bool:
        job = self._store.job(number)
        return job is None or job.push is Push.OFF

    def pending(self, number: int, *, repository: str | None) -> Pending:
        """A pending push as `next_push` wants it; `repository` is the shared one that it goes to."""
        row = self.row(number)
        return Pending(number, row.attempts, row.next_try, row.result, repository)

    def make(self, number: int) -> None:
        """A row for a push that has none yet."""
        with self._store.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO pushes (number) VALUES (?)", (number,))

    def begin(self, number: int, *, next_try: float, boot_id: str) -> int:
        """Count an attempt before it starts, with the time of the next one if nobody sees how this one ends."""
        with self._store.transaction() as connection:
            self.make(number)
            connection.execute(
                "UPDATE pushes SET attempts = attempts + 1, next_try = ?, boot_id = ? WHERE number = ?",
                (next_try, boot_id, number),
            )
        return self.row(number).attempts

    def note_process(self, number: int, *, pid: int, pid_started: int) -> None:
        self._change(number, pid=pid, pid_started=pid_started)

    def end(self, number: int, error: PushError, *, next_try: float) -> None:
        """How an attempt ended that did not get there."""
        facts = {"result": error.result, "message": error.message, "hint": error.hint}
        self._change(number, pid=None, next_try=next_try, **facts)

    def pushed(self, number: int, *, repository: str, url: str, message: str) -> None:
        facts = {"repository": repository, "url": url, "message": message, "hint": None}
        self._change(number, pid=None, result=PushResult.OK, **facts)

    def stopped(self, number: int) -> None:
        """It was asked to stop: the attempt does not count, and the next one is due at once."""
        self._change(number, pid=None, next_try=0.0, attempts=max(0, self.row(number).attempts - 1))

    def lost(self, number: int, *, done: bool) -> None:
        """Its process is gone, and nobody saw how it ended. If it was `done`, that is noted at once."""
        self._change(number, pid=None, **({"next_try": 0.0} if done else {}))

    def start_over(self, number: int) -> None:
        """Somebody asked for it: as if it had never been tried."""
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM pushes WHERE number = ?", (number,))

    def _change(self, number: int, **values: Any) -> None:  # noqa: ANN401
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._store.transaction() as connection:
            connection.execute(f"UPDATE pushes SET {columns} WHERE number = ?", (*values.values(), number))  # noqa: S608


def _row(found: tuple[Any, ...]) -> PushRow:
    row = dict(zip(PushRow.__dataclass_fields__, found, strict=True))
    return PushRow(**{**row, "result": PushResult(row["result"]) if row["result"] else None})
