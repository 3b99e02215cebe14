"""One look at the inbox: what lies in it, what belongs together, what is ready. Done in a thread of its own.

A network share can hang for minutes and a folder can hold ten thousands of names; the loop only folds in what was
found.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from appliance.drops import find_drops, idle_folders, is_bare_button, is_button
from appliance.inbox import Availability, Inbox
from appliance.job import Role
from appliance.names import CHECK_FOLDER, role_of
from appliance.places import library_recipes
from appliance.recipe_yaml import peek
from appliance.settling import Drop, Rules
from appliance.sightings import Ending, Entry, Kind, Sighting, observe
from appliance.store import DropKey

logger = logging.getLogger(__name__)

# How many files are looked into at a time: the rest waits for the next survey, and no file waits for all of them.
MOST_ENDS = 500
MOST_RECIPES = 100
MOST_UNFINISHED = 100
# How many folders that are no drops are told of.
MOST_IDLE = 20
# A button is an empty file; some programs cannot make one, and put a line end or a byte-order mark into it.
BLANK_BYTES = 16
# `echo stop > 0007.cancel`: a word in a file that is called exactly like a button belongs to pressing it.
WORD_BYTES = 64
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Leftover:
    """A file that was taken in already and still lies in the inbox, under this or another name."""

    path: str
    entry: Entry
    key: DropKey


@dataclass(frozen=True)
class Survey:
    """What one look at the inbox found. `sightings` are without buttons and leftovers."""

    availability: Availability
    sightings: dict[str, Sighting] = field(default_factory=dict)
    endings: Mapping[str, Ending] = field(default_factory=dict)
    wanted: Mapping[str, str | None] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    drops: list[Drop] = field(default_factory=list)
    buttons: Mapping[str, Sighting] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    returned: tuple[DropKey, ...] = ()
    """Files that could not be taken and now can: they count as new."""
    absent: tuple[DropKey, ...] = ()
    """Sources that are nowhere to be seen."""
    button_names: frozenset[str] = frozenset()
    """All files that are buttons, also those that were seen too lately to act."""
    idle: tuple[tuple[str, str], ...] = ()
    """Folders that are no drops, each with why."""
    recipes: tuple[str, ...] = ()
    """The library as it is now."""
    recipe_folders: frozenset[str] = frozenset()

    def find_drops(self, sightings: Mapping[str, Sighting], rules: Rules, *, now: float) -> list[Drop]:
        """What is ready and what waits at this time."""
        return find_drops(
            sightings,
            now=now,
            rules=rules,
            endings=self.endings,
            wanted=self.wanted,
            held=self.held,
            unread=self.unread,
        )


class Surveyor:
    """Remembers from one look to the next since when each file has looked the same, and what stands in it."""

    def __init__(self, inbox: Inbox, rules: Rules, library: Path | None = None) -> None:
        """`library` is the folder of the ready-made recipes, which come and go; without it those of `rules` stay."""
        self._inbox = inbox
        self._rules = rules
        self._library = library
        self._recipes = tuple(sorted(rules.recipe_folders))
        self._library_trouble = ""
        self._sightings: dict[str, Sighting] = {}
        self._endings: dict[tuple[str, Entry], Ending] = {}
        self._wanted: dict[tuple[str, Entry], str | None] = {}

    def look(self, now: float, taken: Sequence[DropKey]) -> Survey:
        """Look at the inbox. `now` is the monotonic time at which the look begins, `taken` what was taken from it."""
        began = time.monotonic()
        availability = self._inbox.availability()
        try:
            listing = self._inbox.listing() if availability is Availability.AVAILABLE else {}
        except OSError:
            availability = Availability.UNAVAILABLE
        if availability is not Availability.AVAILABLE:
            # Nothing is thought deleted, and nothing is thought quiet, while the inbox cannot be seen.
            self._sightings = {}
            return Survey(availability, recipes=self._recipes, recipe_folders=self._rules.recipe_folders)
        # After the listing: of a file in a recipe's folder that was listed, the recipe is known.
        self._read_library(listing)
        now += time.monotonic() - began
        self._sightings = observe(self._sightings, listing, now=now)
        return self._survey(now, taken)

    def _read_library(self, listing: Mapping[str, Entry]) -> None:
        try:
            if self._library is None or not self._library.is_dir():
                return
            self._recipes = library_recipes(self._library)
        except OSError as error:
            # Its disk is away: the library that was seen last stays.
            if repr(error) != self._library_trouble:
                logger.warning("the library of recipes cannot be read: %s", error)
            self._library_trouble = repr(error)
            return
        self._library_trouble = ""
        # Who drops into the folder of a recipe that went means that recipe, and is told that it is gone.
        gone = self._rules.recipe_folders.difference(self._recipes)
        left = {name for name in gone if name in listing or f"{CHECK_FOLDER}/{name}" in listing}
        self._rules = replace(self._rules, recipe_folders=frozenset(left.union(self._recipes)))

    def _survey(self, now: float, taken: Sequence[DropKey]) -> Survey:
        found = _recognise(self._sightings, taken, self._rules.max_bytes)
        returned = tuple(old.key for old in found if old.key.kept and self._is_takeable(old))
        leftovers = tuple(old for old in found if old.key not in returned)
        passed_over = {old.path for old in leftovers}
        buttons = {
            path: seen for path, seen in self._sightings.items() if is_button(path) and self._is_pressed(path, seen)
        }
        sightings = {
            path: seen for path, seen in self._sightings.items() if path not in passed_over and path not in buttons
        }
        there = {old.key for old in found}
        survey = Survey(
            Availability.AVAILABLE,
            sightings,
            self._look_at_ends(sightings),
            self._look_at_recipes(sightings),
            self._held(sightings),
            frozenset(path for path in _recipes(sightings) if (path, sightings[path].entry) not in self._wanted),
            # Whoever makes a file writes into it a moment later.
            buttons={path: seen for path, seen in buttons.items() if now - seen.since >= self._rules.quiet_seconds},
            button_names=frozenset(buttons),
            leftovers=leftovers,
            returned=returned,
            absent=tuple(key for key in taken if key not in there),
            recipes=self._recipes,
            recipe_folders=self._rules.recipe_folders,
        )
        survey.drops.extend(survey.find_drops(sightings, self._rules, now=now))
        idle = islice(idle_folders(self._sightings, survey.drops, self._rules), MOST_IDLE)
        return replace(survey, idle=tuple(idle))

    def _is_pressed(self, path: str, seen: Sighting) -> bool:
        """Whether a file that is called like a button has nothing in it that anybody could miss."""
        if seen.entry.kind is not Kind.FILE:
            return False
        if seen.entry.size == 0 or (seen.entry.size <= WORD_BYTES and is_bare_button(path)):
            return True
        if seen.entry.size > BLANK_BYTES:
            return False
        text = self._inbox.read_small(path)
        return text is not None and not text.removeprefix(BYTE_ORDER_MARK).strip()

    def _is_takeable(self, old: Leftover) -> bool:
        """Whether a file that was left in the inbox can be taken now: it became readable, or the limit was raised."""
        return old.entry.is_plain and old.entry.size <= self._rules.max_bytes and self._inbox.can_read(old.path)

    def _look_at_ends(self, sightings: Mapping[str, Sighting]) -> dict[str, Ending]:
        """How the data files end, those that lie for longest first. Unfinished ones are looked at again each time."""
        shown = {(path, sightings[path].entry) for path in _data_files(sightings)}
        self._endings = {key: ending for key, ending in self._endings.items() if key in shown}
        fresh = sorted(shown - self._endings.keys(), key=lambda key: sightings[key[0]].since)
        unfinished = [key for key, ending in self._endings.items() if ending is not Ending.CLOSED]
        for key in [*unfinished[:MOST_UNFINISHED], *fresh[:MOST_ENDS]]:
            self._endings[key] = self._inbox.ending(key[0])
        return {path: ending for (path, _), ending in self._endings.items()}

    def _look_at_recipes(self, sightings: Mapping[str, Sighting]) -> dict[str, str | None]:
        shown = {(path, sightings[path].entry) for path in _recipes(sightings)}
        self._wanted = {key: wanted for key, wanted in self._wanted.items() if key in shown}
        fresh = sorted(shown - self._wanted.keys(), key=lambda key: sightings[key[0]].since)
        for key in fresh[:MOST_RECIPES]:
            text = self._inbox.read_small(key[0])
            self._wanted[key] = peek(text).dataset if text is not None else None
        return {path: wanted for (path, _), wanted in self._wanted.items()}

    def _held(self, sightings: Mapping[str, Sighting]) -> frozenset[str]:
        unfinished = [key for key, ending in self._endings.items() if ending is not Ending.CLOSED]
        return frozenset(path for path, _ in unfinished[:MOST_UNFINISHED] if self._inbox.held_open(path))


def _recognise(sightings: Mapping[str, Sighting], taken: Sequence[DropKey], max_bytes: float) -> list[Leftover]:
    """The files that were taken in already. A file is known by what it is, not by its name, which may have changed."""
    if not taken:
        return []
    by_identity = {key.identity: key for key in taken}
    growing = {(key.device, key.inode): key for key in taken if key.kept and key.size > max_bytes}
    found = []
    for path, seen in sightings.items():
        key = by_identity.get(seen.entry.identity)
        if key is None and seen.entry.size > max_bytes:
            # Refused for its size already, and grown since.
            key = growing.get((seen.entry.device, seen.entry.inode))
        if key is not None:
            found.append(Leftover(path, seen.entry, key))
    return found


def _data_files(sightings: Mapping[str, Sighting]) -> Iterable[str]:
    return _of_roles(sightings, Role.DATASET, Role.EVAL)


def _recipes(sightings: Mapping[str, Sighting]) -> Iterable[str]:
    return _of_roles(sightings, Role.RECIPE)


def _of_roles(sightings: Mapping[str, Sighting], *roles: Role) -> list[str]:
    return [
        path for path, seen in sightings.items() if seen.entry.is_plain and role_of(path.rpartition("/")[2])[1] in roles
    ]
