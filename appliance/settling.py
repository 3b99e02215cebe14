"""Whether a drop is ready, or what it waits for. Pure: what was seen goes in, with the time."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from appliance.errors import Problem
from appliance.job import Role
from appliance.names import printable, role_of
from appliance.sightings import Ending, Sighting

# How long a file whose end looks unfinished must lie unchanged before it is taken as it is. Windows Explorer sets the
# final size first and fills in the bytes later; a laptop may sleep in the middle. While another program still has the
# file open for writing it is not abandoned; but some network file systems always say so.
OPEN_LINE_SECONDS = 60.0
NUL_BYTES_SECONDS = 15 * 60.0
HELD_OPEN_SECONDS = 60 * 60.0

Member = tuple[str, Role]
Files = list[Member]


class DropState(StrEnum):
    """The label values of `appliance_inbox_pending`."""

    SETTLING = "settling"
    AWAITING_PAIR = "awaiting_pair"
    CHECKING = "checking"
    READY = "ready"


@dataclass(frozen=True)
class Rules:
    """The settings that intake depends on."""

    quiet_seconds: float
    pair_seconds: float
    recipe_folders: frozenset[str] = frozenset()
    max_bytes: float = math.inf


@dataclass(frozen=True)
class Drop:
    """Files that arrived together. `files` are paths relative to the inbox; several recipes mean several jobs."""

    name: str
    files: tuple[Member, ...]
    state: DropState
    why: str = ""
    since: float = 0.0
    folder: str | None = None
    library_recipe: str | None = None
    dry_run: bool = False
    problems: tuple[Problem, ...] = ()
    rows_of: str | None = None
    """`job:0007` where the recipe takes the rows of an earlier job."""

    def paths(self, role: Role) -> tuple[str, ...]:
        return tuple(path for path, its_role in self.files if its_role is role)


@dataclass(frozen=True)
class Area:
    """A place where files of the same stem find each other: the inbox, a recipe folder, or either under `check/`."""

    path: str
    library_recipe: str | None
    dry_run: bool


@dataclass(frozen=True)
class View:
    """Everything that is known when the drops are found."""

    sightings: Mapping[str, Sighting]
    folders: Mapping[str, list[str]]
    now: float
    rules: Rules
    endings: Mapping[str, Ending]
    wanted: Mapping[str, str | None]
    held: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()

    def children(self, folder: str) -> Iterator[tuple[str, Sighting]]:
        return ((path, self.sightings[path]) for path in self.folders.get(folder, ()))

    def wants(self, recipe: str) -> str | None:
        return self.wanted.get(recipe)


def rows_elsewhere(wanted: str | None) -> bool:
    """Whether a recipe's `dataset` key names rows that need not be dropped: `job:0007`, `hub:org/name`."""
    return wanted is not None and wanted.startswith(("job:", "hub:"))


def judge(
    view: View,
    area: Area,
    name: str,
    files: Files,
    *,
    folder: str | None = None,
    problems: tuple[Problem, ...] = (),
) -> Drop:
    """Whether these files are ready, or what they wait for."""
    since = max(view.sightings[path].since for path, _ in files)
    drop = Drop(
        name=name,
        files=tuple(files),
        state=DropState.READY,
        since=since,
        folder=folder,
        library_recipe=area.library_recipe,
        dry_run=area.dry_run,
        problems=problems,
        rows_of=_rows_of(view, files),
    )
    state, why = _waits(view, drop)
    return replace(drop, state=state, why=why)


def _rows_of(view: View, files: Files) -> str | None:
    if any(role is Role.DATASET for _, role in files):
        return None
    wanted = (view.wants(path) for path, role in files if role is Role.RECIPE)
    return next((name for name in wanted if name is not None and name.startswith("job:")), None)


def _waits(view: View, drop: Drop) -> tuple[DropState, str]:
    """The first thing that a drop waits for."""
    if any(view.sightings[path].entry.size > view.rules.max_bytes for path, _ in drop.files):
        # It will not get smaller, and a file that grows for ever is never quiet.
        return DropState.READY, ""
    if view.now - drop.since < view.rules.quiet_seconds:
        return DropState.SETTLING, "still being copied, or copied a moment ago"
    if drop.problems:
        return DropState.READY, ""
    if any(path in view.unread for path, _ in drop.files):
        return DropState.CHECKING, "its recipe is being looked at"
    state, why = _pairing(view, drop)
    return _endings(view, drop) if state is DropState.READY else (state, why)


def _pairing(view: View, drop: Drop) -> tuple[DropState, str]:
    datasets, recipes = drop.paths(Role.DATASET), drop.paths(Role.RECIPE)
    if not datasets:
        return _waiting_for_data(view, drop, recipes)
    alone = not recipes and drop.library_recipe is None and drop.folder is None
    if alone and view.now - drop.since < view.rules.pair_seconds:
        return DropState.AWAITING_PAIR, f"waits a moment for a recipe {printable(_stem(datasets[0]))}.yaml"
    return DropState.READY, ""


def _waiting_for_data(view: View, drop: Drop, recipes: tuple[str, ...]) -> tuple[DropState, str]:
    for recipe in recipes:
        wanted = view.wants(recipe)
        if rows_elsewhere(wanted):
            return DropState.READY, ""
        if wanted is not None and drop.folder is None:
            return DropState.AWAITING_PAIR, f"waits for its dataset {printable(wanted)}"
    if drop.folder is not None:
        return DropState.AWAITING_PAIR, "waits for a dataset in the folder"
    return DropState.AWAITING_PAIR, f"waits for its dataset {printable(_stem(drop.files[0][0]))}.jsonl"


def _endings(view: View, drop: Drop) -> tuple[DropState, str]:
    """A quiet file that looks cut off gets more time; after that it is taken as it is and checked."""
    for path, role in drop.files:
        if role not in (Role.DATASET, Role.EVAL):
            continue
        quiet = view.now - view.sightings[path].since
        ending = view.endings.get(path)
        if ending is None:
            return DropState.CHECKING, "its end is being looked at"
        if ending is Ending.CLOSED:
            continue
        if path in view.held and quiet < HELD_OPEN_SECONDS:
            return DropState.SETTLING, "it is not finished, and another program still writes it; waits for the rest"
        if ending is Ending.OPEN_LINE and quiet < OPEN_LINE_SECONDS:
            empty = view.sightings[path].entry.size == 0
            what = "it is empty so far" if empty else "its last line is not finished"
            return DropState.SETTLING, f"{what}; waits for the rest"
        if ending is Ending.NUL_BYTES and quiet < NUL_BYTES_SECONDS:
            return (
                DropState.SETTLING,
                "it ends in zeros, as a copy in progress does; waits a quarter of an hour for the rest",
            )
    return DropState.READY, ""


def _stem(path: str) -> str:
    return role_of(path.rpartition("/")[2])[0]
