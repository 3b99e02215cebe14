"""The reception: watches the inbox and turns what has settled into jobs.

Everything that touches the inbox's own file system (listing, looking at ends, copying, removing) happens in threads of
its own, because a network share can hang for minutes. The loop only folds in what they found.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from appliance import intake
from appliance.copying import ChangedWhileCopying, Copied, copy_in
from appliance.drops import dropped_folder, is_button
from appliance.inbox import Availability, Inbox
from appliance.job import Job
from appliance.names import job_number, printable
from appliance.places import Places, is_recipe
from appliance.settling import Drop, DropState, Rules
from appliance.sightings import Entry, Sighting
from appliance.store import DropKey, Store
from appliance.survey import Leftover, Survey, Surveyor

logger = logging.getLogger(__name__)

# A listing that takes longer than this means that the share hangs.
HUNG_SECONDS = 15.0
# Small drops have places of their own: they never wait behind somebody's gigabytes.
LARGE_COPIES = 2
SMALL_COPIES = 2
SMALL_BYTES = 64 * 10**6
# Between surveys, time alone may make a drop ready; with more names than this, only surveys are looked at.
FEW_NAMES = 500
# After our own storage failed, copying is tried again after this long; so is removing what could not be removed.
PAUSE_SECONDS = 30.0
# A source that was not removed and is not seen so often is gone: somebody else took it away.
SURVEYS_ABSENT = 3


@dataclass(frozen=True)
class Button:
    """A button file: `action` on `target` (a job number, or `queue`)."""

    path: str
    action: str
    target: str


@dataclass(frozen=True)
class _Copy:
    """A drop that is being copied in, and how large it will be."""

    future: Future[Copied]
    small: bool
    bytes: int


class Reception:
    """Times are monotonic seconds: a clock that jumps must not make a file look quiet."""

    def __init__(
        self,
        inbox: Inbox,
        store: Store,
        places: Places,
        rules: Rules,
        *,
        scan_seconds: float,
        wake: Callable[[], object] = lambda: None,
        lacks_room_for: Callable[[int, int], str | None] = lambda size, copying: None,
    ) -> None:
        """`wake` is called from a thread when there is something for the loop to do.

        `lacks_room_for` says why so many bytes cannot be taken in now, beside so many that are being copied; such a
        drop stays in the inbox.
        """
        self.inbox = inbox
        self.availability = Availability.UNAVAILABLE
        self.drops: list[Drop] = []
        self.last_scan: float | None = None
        self.storage_problem: str | None = None
        self.no_room: str | None = None
        self.recipes: tuple[str, ...] | None = None
        """The library at the last look; None until then."""
        self._store = store
        self._places = places
        self._rules = rules
        self._scan_seconds = scan_seconds
        self._wake = wake
        self._lacks_room_for = lacks_room_for
        self._surveyor = Surveyor(inbox, rules, places.recipes)
        self._surveys = ThreadPoolExecutor(1, thread_name_prefix="survey")
        self._copies = ThreadPoolExecutor(LARGE_COPIES + SMALL_COPIES, thread_name_prefix="copy")
        self._removals = ThreadPoolExecutor(1, thread_name_prefix="removal")
        self._survey: Future[Survey] | None = None
        self._survey_began = float("-inf")
        self._seen = Survey(Availability.UNAVAILABLE)
        self._sightings: dict[str, Sighting] = {}
        self._copying: dict[tuple[str, ...], _Copy] = {}
        self._removing: dict[DropKey, Future[bool]] = {}
        self._not_before: dict[DropKey, float] = {}
        self._absent: dict[DropKey, int] = {}
        self._pressed: dict[str, Entry] = {}
        self._orphans_settled = False
        self._paused_until = float("-inf")

    def look(self, now: float, *, woken: bool = False) -> bool:
        """Fold in the newest survey and begin the next when it is due. True when there was something new."""
        news = self._survey is not None and self._survey.done()
        if news:
            self._fold(now)
        elif self._survey is not None and now - self._survey_began > HUNG_SECONDS:
            self.availability = Availability.UNAVAILABLE
        if self._survey is None and (woken or now - self._survey_began >= self._scan_seconds):
            self._survey_began = now
            self._survey = self._surveys.submit(self._surveyor.look, now, self._store.unremoved())
        if not news and 0 < len(self._sightings) <= FEW_NAMES:
            self.drops = self._seen.find_drops(self._sightings, self._rules, now=now)
        self._note_removals(now)
        return news

    @property
    def busy(self) -> bool:
        """Whether a drop is being copied, or the sources of one removed."""
        return bool(self._copying or self._removing)

    @property
    def idle(self) -> tuple[tuple[str, str], ...]:
        """Folders in the inbox that are no drops, each with why."""
        return self._seen.idle

    def furnish(self, put: Callable[[], None]) -> None:
        """Let a thread put into the inbox what belongs there, before the next look at it."""
        self._surveys.submit(put)

    def buttons(self) -> list[Button]:
        """The button files that lie in the inbox and were not acted on."""
        found = []
        for path, sighting in self._seen.buttons.items():
            button = is_button(path)
            if button is not None and self._pressed.get(path) != sighting.entry:
                found.append(Button(path, *button))
        return found

    def remove_button(self, button: Button) -> None:
        """Take a button file away once it was acted on. One that cannot go is warned about, and never acts again."""
        sighting = self._seen.buttons.get(button.path)
        if sighting is not None:
            self._pressed[button.path] = sighting.entry
            self._removals.submit(self._remove_button, button.path, sighting.entry)

    def take_in(self, now: float, *, wall: float) -> list[Job]:
        """Begin copying what is ready, and record what has been copied. Returns the new jobs."""
        if self.availability is not Availability.AVAILABLE or now < self._paused_until:
            return []
        if not self._orphans_settled:
            self._settle_orphans()
        self._begin_copies()
        return self._record_copies(now, wall=wall)

    def close(self) -> None:
        """Let the threads end; one that hangs on a share is left behind."""
        for pool in (self._surveys, self._copies, self._removals):
            pool.shutdown(wait=False, cancel_futures=True)

    def _fold(self, now: float) -> None:
        done, self._survey = self._survey, None
        assert done is not None, "only called with a survey that is done"
        survey = self._seen = done.result()
        self.availability = survey.availability
        self.recipes = survey.recipes
        self._rules = replace(self._rules, recipe_folders=survey.recipe_folders)
        # What was taken in since the survey began is no new file, though it was seen.
        taken = {key.identity for key in self._store.unremoved()}
        self._sightings = {path: seen for path, seen in survey.sightings.items() if seen.entry.identity not in taken}
        self.drops = survey.drops
        if survey.availability is not Availability.AVAILABLE:
            return
        self.last_scan = now
        self._pressed = {path: entry for path, entry in self._pressed.items() if path in survey.button_names}
        for key in survey.returned:
            self._store.forget_source(key)
        self._forget_absent(survey.absent)
        for leftover in survey.leftovers:
            self._finish_removal(leftover, now)

    def _forget_absent(self, absent: Iterable[DropKey]) -> None:
        """A renamed file may hide between two names during one listing, not during several."""
        self._absent = {key: self._absent.get(key, 0) + 1 for key in absent}
        for key, surveys in self._absent.items():
            if surveys >= SURVEYS_ABSENT and key not in self._removing:
                self._store.forget_source(key)

    def _finish_removal(self, leftover: Leftover, now: float) -> None:
        """What was taken in and lies there still: remove it, where a crash or a refusal cut that short."""
        key = leftover.key
        if not key.kept and key not in self._removing and now >= self._not_before.get(key, now):
            folder = dropped_folder(leftover.path, self._rules)
            self._removing[key] = self._submit_removal(leftover.path, leftover.entry, folder)

    def _submit_removal(self, path: str, entry: Entry, folder: str | None = None) -> Future[bool]:
        future = self._removals.submit(intake.remove_source, self.inbox, path, entry, folder)
        future.add_done_callback(lambda _: self._wake())
        return future

    def _note_removals(self, now: float) -> None:
        for key, future in list(self._removing.items()):
            if not future.done():
                continue
            del self._removing[key]
            error = future.exception()
            if isinstance(error, OSError):
                if key not in self._not_before:
                    path = printable(key.path.decode(errors="surrogateescape"))
                    logger.warning("%s was taken in and cannot be removed: %s", path, error.strerror)
                self._not_before[key] = now + PAUSE_SECONDS
            elif future.result():
                self._store.forget_source(key)
                self._not_before.pop(key, None)

    def _remove_button(self, path: str, entry: Entry) -> None:
        try:
            self.inbox.remove(path, entry)
        except OSError as error:
            logger.warning("%s cannot be removed from the inbox: %s", printable(path), error.strerror)

    def _begin_copies(self) -> None:
        self.no_room = None
        large = sum(not copy.small for copy in self._copying.values())
        free = {True: SMALL_COPIES - (len(self._copying) - large), False: LARGE_COPIES - large}
        for index, drop in enumerate(self.drops if any(free.values()) else ()):
            paths = tuple(path for path, _ in drop.files)
            if drop.state is not DropState.READY or not all(path in self._sightings for path in paths):
                continue
            entries = {path: self._sightings[path].entry for path in paths}
            small = sum(entry.size for entry in entries.values()) <= SMALL_BYTES
            if free[small] <= 0 or any(set(paths) & set(taken) for taken in self._copying):
                continue
            size = sum(entry.size for entry in entries.values() if entry.size <= self._rules.max_bytes)
            copying = sum(copy.bytes for copy in self._copying.values())
            if (no_room := self._lacks_room_for(size, copying)) is not None:
                self.no_room = no_room
                self.drops[index] = replace(drop, why="waits for room on the disk")
                continue
            free[small] -= 1
            self._copying[paths] = _Copy(self._submit_copy(drop, entries), small, size)

    def _submit_copy(self, drop: Drop, entries: dict[str, Entry]) -> Future[Copied]:
        lookup = intake.EarlierRows(self._store, self._places)
        future = self._copies.submit(
            copy_in,
            self.inbox,
            drop,
            entries,
            self._places.incoming,
            max_bytes=self._rules.max_bytes,
            rows_of=lookup.files_of,
            is_recipe=partial(is_recipe, self._places.recipes),
        )
        future.add_done_callback(lambda _: self._wake())
        return future

    def _record_copies(self, now: float, *, wall: float) -> list[Job]:
        jobs: list[Job] = []
        for paths, copy in list(self._copying.items()):
            if not copy.future.done():
                continue
            del self._copying[paths]
            for path in paths:
                self._sightings.pop(path, None)
            try:
                copied = copy.future.result()
                jobs += intake.record(
                    copied, installation=self.inbox.installation, store=self._store, places=self._places, now=wall
                )
            except ChangedWhileCopying:
                logger.info("a drop changed while it was copied; the new file counts")
            except sqlite3.Error:
                # A folder without a row is left: it is put right before anything else is taken in.
                self._orphans_settled = False
                raise
            except OSError as error:
                # What was renamed into place without a row is put right before anything else is taken in.
                self._orphans_settled = False
                self._paused_until = now + PAUSE_SECONDS
                self.storage_problem = f"the state folder cannot be written: {error.strerror}"
                logger.error("intake waits: %s", self.storage_problem)
            else:
                self.storage_problem = None
                for (path, entry), key in zip(copied.sources, copied.keys, strict=True):
                    if not key.kept:
                        self._removing[key] = self._submit_removal(path, entry, copied.drop.folder)
        return jobs

    def _settle_orphans(self) -> None:
        """Put right what a crash in the middle of an intake left behind."""
        for path in sorted(self._places.jobs.iterdir()):
            number = job_number(path.name)
            if number is not None and self._store.job(number) is None:
                intake.settle_orphan(path, present=self._present, store=self._store, incoming=self._places.incoming)
        self._orphans_settled = True

    def _present(self, path: str) -> Entry | None:
        """How a name looked in the newest survey."""
        sighting = self._sightings.get(path)
        return sighting.entry if sighting is not None else None
