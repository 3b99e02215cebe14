"""Finds out what is worth telling, from what is written down, and tells each thing once.

It reads the database as the metrics do: nothing in the code has to remember to notify. What was found is marked as told
before it is sent: after a crash nobody is told twice.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from appliance.counting import try_to_count
from appliance.disk import reserve_bytes
from appliance.files import open_below
from appliance.job import Job, Outcome
from appliance.machine_watch import MachineReading
from appliance.metric_table import Notice
from appliance.outbox import find_result
from appliance.receivers import PAUSES_SECONDS, Receiver
from appliance.settings import Settings
from appliance.status_files import result_row
from appliance.store import Store
from appliance.texts.notices import Message, gathered, of_blocked_push, of_ended_job, of_low_disk, of_memory_guard

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 2.0
# A disk counts as recovered only when this much more than the reserve is free: no message for every file that moves.
RECOVERED: Final = 1.25
PROBLEM_BYTES: Final = 1 << 20
CURSOR: Final = "notified of jobs"
BLOCKED: Final = "notified of blocked pushes"
TRIPS: Final = "notified of guard trips"
DISKS: Final = "notified of low disks"


class Notifier:
    """Looks every few seconds, in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        jobs: Path,
        machine: Callable[[], MachineReading],
        *,
        pauses_seconds: tuple[float, ...] = PAUSES_SECONDS,
    ) -> None:
        self._settings = settings
        self._store = store
        self._jobs = jobs
        self._machine = machine
        self._receivers = [Receiver(url, self._count, pauses_seconds=pauses_seconds) for url in settings.notify_urls]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self, now: float) -> None:
        """Begin, with what happens from now on. Without an address there is nothing to do."""
        if not self._receivers:
            return
        if self._store.fact(CURSOR) is None:
            self._store.set_fact(CURSOR, json.dumps([now, 0]))
            self._store.set_fact(TRIPS, str(self._trips()))
        for receiver in self._receivers:
            receiver.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for receiver in self._receivers:
            receiver.stop()

    def look(self) -> list[Message]:
        """What has happened since the last look, marked as told."""
        # The outbox is read here, and a share may hang: no writer of the database waits for it.
        marks: dict[str, str] = {}
        found = [*self._ended(marks), *self._blocked(marks), *self._guard(marks), *self._disks(marks)]
        if marks:
            with self._store.transaction():
                for name, value in marks.items():
                    self._store.set_fact(name, value)
        return gathered(found)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            try:
                messages = self.look()
            except Exception:
                # Whatever it is, the next look may succeed; a notifier that has ended tells nobody of anything.
                logger.exception("the notifier could not look and tries again")
                continue
            for message in messages:
                for receiver in self._receivers:
                    receiver.tell(message)

    def _count(self, event: Notice, outcome: str) -> None:
        labels = {"event": event, "outcome": outcome}
        try_to_count(self._store, "notifications_total", labels, what=f"a notification ({event}, {outcome})")

    def _ended(self, marks: dict[str, str]) -> Iterator[Message]:
        finished, number = json.loads(self._store.fact(CURSOR) or "[0, 0]")
        new = [job for job in self._store.ended_since(finished) if (job.finished, job.number) > (finished, number)]
        for job in new:
            row = result_row(job, self._jobs, self._settings)
            message = of_ended_job(job, row, self._codes(job))
            if message is not None:
                yield message
        if new:
            marks[CURSOR] = json.dumps([new[-1].finished, new[-1].number])

    def _codes(self, job: Job) -> list[str]:
        """The codes of a rejected drop's problems: what they quote stays beside the data."""
        folder = find_result(self._settings.outbox, job.id) if job.outcome is Outcome.REJECTED else None
        if folder is None:
            return []
        try:
            with open(open_below(folder, "problems.json"), "rb") as file:
                return [str(entry["code"]) for entry in json.loads(file.read(PROBLEM_BYTES))]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return []

    def _blocked(self, marks: dict[str, str]) -> Iterator[Message]:
        told = json.loads(self._store.fact(BLOCKED) or "[]")
        blocked = self._store.blocked_pushes()
        for job in blocked:
            if job.number not in told:
                yield of_blocked_push(job)
        # One that is not blocked any more, and is blocked again later, is news again.
        numbers = [job.number for job in blocked]
        if numbers != told:
            marks[BLOCKED] = json.dumps(numbers)

    def _guard(self, marks: dict[str, str]) -> Iterator[Message]:
        told, trips = int(self._store.fact(TRIPS) or 0), self._trips()
        if trips > told:
            yield of_memory_guard(trips - told)
            marks[TRIPS] = str(trips)

    def _trips(self) -> int:
        return int(sum(value for name, _, value in self._store.counters() if name == "memory_guard_trips_total"))

    def _disks(self, marks: dict[str, str]) -> Iterator[Message]:
        told = json.loads(self._store.fact(DISKS) or "[]")
        low = list(told)
        for volume, space in self._machine().disks.items():
            reserve = reserve_bytes(self._settings, space)
            if volume not in told and space.free_bytes < reserve:
                low.append(volume)
                yield of_low_disk(volume, space.free_bytes)
            elif volume in told and space.free_bytes > RECOVERED * reserve:
                low.remove(volume)
        if low != told:
            marks[DISKS] = json.dumps(low)
