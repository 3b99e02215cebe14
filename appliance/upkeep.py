"""What keeps the books safe besides writing them: room on the disk that can be given up, and a copy every day."""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Final

from appliance.database import DailyBackup, LockedError, explain
from appliance.disk import (
    NOTHING_FREE_BYTES,
    Ballast,
    existing,
    is_disk_trouble,
    is_full,
    reserve_bytes,
    space_of,
)
from appliance.job import Job, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.models import cache_folder
from appliance.preflight import fits, lacks_room, little_room, needed_bytes, promised_bytes
from appliance.settings import Settings

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 10.0


class Upkeep:
    """Asked once a turn, and told of every error that a turn met."""

    def __init__(self, settings: Settings, database: Path) -> None:
        """Makes room at once when there is none: the database could not even be opened."""
        self._settings = settings
        self._state = database.parent
        self._database = database
        self._backup = DailyBackup(database)
        self._ballast = Ballast(self._state)
        self._next = float("-inf")
        self.trouble: str | None = None
        self.at_work: Callable[[], Iterable[tuple[Job, Stage, JobDir]]] = lambda: ()
        """The stages that run now, as soon as somebody knows: they were promised the room that they still need."""
        self.arriving: Callable[[], int] = lambda: 0
        """The bytes that running downloads still bring, as soon as somebody knows."""
        self._promise: int | None = None
        self._let_in: dict[tuple[int, Stage], int] = {}
        if space_of(self._state).free_bytes < NOTHING_FREE_BYTES:
            self._ballast.drop()

    def keep(self, now: float, wall: float) -> None:
        """Restore the ballast when there is room, and see to the daily copy."""
        self._promise = None
        self._let_in.clear()
        if now < self._next:
            return
        self._next = now + EVERY_SECONDS
        if self._ballast.restore():
            self.trouble = None
        self._backup.keep_up(wall)

    def met(self, error: BaseException) -> bool:
        """Whether an error is one that passes: then the loop goes on, however long it takes."""
        if is_disk_trouble(error):
            if is_full(error):
                # A bad sector or a disk that is read-only gives no room back.
                self._ballast.drop()
            self.trouble = f"the disk of the state folder is full or broken ({error}); work goes on when there is room"
            return True
        return isinstance(error, sqlite3.Error) and isinstance(explain(error, self._database), LockedError)

    def met_with_one_job(self, error: BaseException) -> None:
        """An error with the files of one job. Only a full disk is everybody's; a bad sector in one of them is not."""
        if isinstance(error, OSError) and is_full(error):
            self.met(error)

    def obstacle(self, job: Job, stage: Stage, job_dir: JobDir) -> tuple[Waiting, str] | None:
        """Why a stage should not start for lack of disk. What is finished is published: that makes room."""
        if stage is Stage.PUBLISH:
            return None
        if not self._ballast.is_there:
            return Waiting.DISK, "the disk of the state folder is full"
        others = sum(needs for key, needs in self._let_in.items() if key != (job.number, stage))
        promised = self._promised() + others
        held = lacks_room(job, stage, job_dir, self._state, self._settings, promised=promised)
        if held is None:
            # It may begin in this turn: whoever is asked about next finds so much less.
            self._let_in[job.number, stage] = needed_bytes(job, stage, job_dir)
        return held

    def lacks_room_for(self, size: int, copying: int) -> str | None:
        """Why a drop of `size` bytes is not taken in beside those that are being copied; None when there is room."""
        space = space_of(self._state)
        needs, reserve = size + NOTHING_FREE_BYTES, reserve_bytes(self._settings, space)
        promised = copying + self._promised()
        if self._ballast.is_there and fits(needs, reserve, space, promised=promised):
            return None
        return little_room("taking in what lies in the inbox", needs, reserve, space, promised=promised)

    def _promised(self) -> int:
        # Once a turn: thousands of drops may wait for room.
        if self._promise is None:
            arriving = self.arriving()
            self._promise = promised_bytes(self.at_work()) + (arriving if arriving and self._downloads_come_here else 0)
        return self._promise

    @cached_property
    def _downloads_come_here(self) -> bool:
        """Whether models are fetched onto the disk of the state folder. Asked only when one is."""
        try:
            return os.stat(existing(cache_folder(self._settings))).st_dev == os.stat(self._state).st_dev
        except OSError:
            return False

    def leave_word(self, job_dir: JobDir) -> None:
        """Tell a download that begins what room of its disk is promised to others; downloads agree among themselves."""
        job_dir.write_promised(promised_bytes(self.at_work()) if self._downloads_come_here else 0)

    def close(self) -> None:
        self._backup.wait(EVERY_SECONDS)
