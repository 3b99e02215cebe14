"""The reception: watches the inbox and turns what has settled into jobs.

Everything that touches the inbox's own file system (listing, looking at ends, copying) happens in threads of its own,
because a network share can hang for minutes. The loop only folds in what they found.
"""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from appliance import intake
from appliance.copying import ChangedWhileCopying, Copied, copy_in
from appliance.drops import Drop, DropState, Ending, Entry, Kind, Rules, Sighting, find_drops, is_button, observe
from appliance.inbox import Availability, Inbox
from appliance.intake import Places
from appliance.job import Job, Role
from appliance.names import job_number, printable, role_of
from appliance.recipe_yaml import peek
from appliance.store import DropKey, Store

logger = logging.getLogger(__name__)

# A listing that takes longer than this means that the share hangs.
HUNG_SECONDS = 15.0
COPIES_AT_ONCE = 2
# Between surveys, time alone may make a drop ready; with more names than this, only surveys are looked at.
FEW_NAMES = 2000
# After our own storage failed, copying is tried again after this long.
STORAGE_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Survey:
    """What one look at the inbox found."""

    availability: Availability
    listing: Mapping[str, Entry] = field(default_factory=dict)
    endings: Mapping[str, Ending] = field(default_factory=dict)
    wanted: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Button:
    """A button file: `action` on `target` (a job number, or `queue`)."""

    path: str
    action: str
    target: str


class Reception:
    """Times are monotonic seconds: a clock that jumps must not make a file look quiet."""

    def __init__(
        self, inbox: Inbox, store: Store, places: Places, rules: Rules, *, scan_seconds: float, max_bytes: float
    ) -> None:
        self.inbox = inbox
        self.availability = Availability.UNAVAILABLE
        self.drops: list[Drop] = []
        self.last_scan: float | None = None
        self.storage_problem: str | None = None
        self._store = store
        self._places = places
        self._rules = rules
        self._scan_seconds = scan_seconds
        self._max_bytes = max_bytes
        self._surveyor = _Surveyor(inbox)
        self._surveys = ThreadPoolExecutor(1, thread_name_prefix="survey")
        self._copies = ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="copy")
        self._survey: Future[Survey] | None = None
        self._survey_began = float("-inf")
        self._sightings: dict[str, Sighting] = {}
        self._endings: Mapping[str, Ending] = {}
        self._wanted: Mapping[str, str | None] = {}
        self._copying: dict[tuple[str, ...], Future[Copied]] = {}
        self._orphans_settled = False
        self._paused_until = float("-inf")
        self._warned: set[DropKey] = set()

    def look(self, now: float, *, woken: bool = False) -> bool:
        """Fold in the newest survey and begin the next when it is due. True when there was something new."""
        news = False
        if self._survey is not None and self._survey.done():
            self._fold(self._survey.result(), now)
            self._survey, news = None, True
        elif self._survey is not None and now - self._survey_began > HUNG_SECONDS:
            self.availability = Availability.UNAVAILABLE
        if self._survey is None and (woken or now - self._survey_began >= self._scan_seconds):
            self._survey_began = now
            self._survey = self._surveys.submit(self._surveyor)
        if news or 0 < len(self._sightings) <= FEW_NAMES:
            self._find_drops(now)
        return news

    @property
    def busy(self) -> bool:
        """Whether a drop is being copied."""
        return bool(self._copying)

    def buttons(self) -> list[Button]:
        """The button files that lie in the inbox."""
        found = []
        for path, sighting in self._sightings.items():
            button = is_button(path)
            if button is not None and sighting.entry.kind is Kind.FILE:
                found.append(Button(path, *button))
        return found

    def remove_button(self, button: Button) -> None:
        """Take a button file away once it was acted on; one that cannot go is warned about and acts again."""
        sighting = self._sightings.pop(button.path, None)
        if sighting is None:
            return
        try:
            self.inbox.remove(button.path, sighting.entry)
        except OSError as error:
            logger.warning("%s cannot be removed from the inbox: %s", printable(button.path), error.strerror)

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
        self._surveys.shutdown(wait=False, cancel_futures=True)
        self._copies.shutdown(wait=False, cancel_futures=True)

    def _fold(self, survey: Survey, now: float) -> None:
        self.availability = survey.availability
        if survey.availability is not Availability.AVAILABLE:
            # Nothing is thought deleted, and nothing is thought quiet, while the inbox cannot be seen.
            self._sightings = {}
            return
        self.last_scan = now
        self._sightings = observe(self._sightings, survey.listing, now=now)
        self._endings, self._wanted = survey.endings, survey.wanted

    def _find_drops(self, now: float) -> None:
        self._pass_over_leftovers()
        files = {path: sighting for path, sighting in self._sightings.items() if is_button(path) is None}
        self.drops = find_drops(files, now=now, rules=self._rules, endings=self._endings, wanted=self._wanted)

    def _pass_over_leftovers(self) -> None:
        """Leave out what was taken in already, and finish its removal where a crash or a refusal cut that short."""
        for source, keys in self._store.unremoved().items():
            path = os.fsdecode(source)
            sighting = self._sightings.get(path)
            key = next((key for key in keys if sighting is not None and _is_same(key, sighting.entry)), None)
            if sighting is None or key is None:
                continue
            if not key.kept:
                self._finish_removal(path, sighting.entry, key)
            del self._sightings[path]

    def _begin_copies(self) -> None:
        for drop in self.drops:
            if len(self._copying) >= COPIES_AT_ONCE:
                return
            paths = tuple(path for path, _ in drop.files)
            if drop.state is not DropState.READY or any(set(paths) & set(taken) for taken in self._copying):
                continue
            if not all(path in self._sightings for path in paths):
                continue
            entries = {path: self._sightings[path].entry for path in paths}
            self._copying[paths] = self._copies.submit(
                copy_in, self.inbox, drop, entries, self._places.incoming, max_bytes=self._max_bytes
            )

    def _finish_removal(self, path: str, entry: Entry, key: DropKey) -> None:
        try:
            self.inbox.remove(path, entry)
        except OSError as error:
            if key not in self._warned:
                self._warned.add(key)
                logger.warning("%s was taken in and cannot be removed: %s", printable(path), error.strerror)
            return
        self._store.mark_removed(key.path)

    def _record_copies(self, now: float, *, wall: float) -> list[Job]:
        jobs: list[Job] = []
        for paths, future in list(self._copying.items()):
            if not future.done():
                continue
            del self._copying[paths]
            try:
                jobs += intake.record(
                    future.result(), inbox=self.inbox, store=self._store, places=self._places, now=wall
                )
                self.storage_problem = None
            except ChangedWhileCopying:
                logger.info("a drop changed while it was copied; the new file counts")
            except OSError as error:
                # What was renamed into place without a row is put right before anything else is taken in.
                self._orphans_settled = False
                self._paused_until = now + STORAGE_PAUSE_SECONDS
                self.storage_problem = f"the state folder cannot be written: {error.strerror}"
                logger.error("intake waits: %s", self.storage_problem)
            for path in paths:
                self._sightings.pop(path, None)
        return jobs

    def _settle_orphans(self) -> None:
        """Put right what a crash in the middle of an intake left behind."""
        for path in sorted(self._places.jobs.iterdir()):
            number = job_number(path.name)
            if number is not None and self._store.job(number) is None:
                intake.settle_orphan(path, inbox=self.inbox, store=self._store)
        for source in self._store.unremoved():
            if self.inbox.entry(os.fsdecode(source)) is None:
                self._store.mark_removed(source)
        self._orphans_settled = True


def _is_same(key: DropKey, entry: Entry) -> bool:
    """Whether this is the very file that was taken in."""
    return (key.device, key.inode, key.mtime_ns, key.size) == (entry.device, entry.inode, entry.mtime_ns, entry.size)


class _Surveyor:
    """Lists the inbox, and looks into files it has not seen in this shape before."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._endings: dict[tuple[str, Entry], Ending] = {}
        self._wanted: dict[tuple[str, Entry], str | None] = {}

    def __call__(self) -> Survey:
        availability = self._inbox.availability()
        if availability is not Availability.AVAILABLE:
            return Survey(availability)
        try:
            listing = self._inbox.listing()
        except OSError:
            return Survey(Availability.UNAVAILABLE)
        files = {path: entry for path, entry in listing.items() if entry.kind is Kind.FILE and entry.links == 1}
        self._endings = {
            (path, entry): self._endings.get((path, entry)) or self._inbox.ending(path)
            for path, entry in files.items()
            if role_of(path.rpartition("/")[2])[1] in (Role.DATASET, Role.EVAL)
        }
        self._wanted = {
            (path, entry): self._wanted[path, entry] if (path, entry) in self._wanted else self._peek(path)
            for path, entry in files.items()
            if role_of(path.rpartition("/")[2])[1] is Role.RECIPE
        }
        return Survey(
            availability,
            listing,
            {path: ending for (path, _), ending in self._endings.items()},
            {path: wanted for (path, _), wanted in self._wanted.items()},
        )

    def _peek(self, path: str) -> str | None:
        text = self._inbox.read_small(path)
        return peek(text).dataset if text is not None else None
