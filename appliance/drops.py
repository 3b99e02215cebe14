"""From what lies in the inbox to what should be done about it. Pure: a listing goes in, decisions come out.

The listing is the truth. It is folded into sightings (how long has each file been unchanged), sightings are grouped
into drops (what belongs together), and each drop says whether it is ready or what it waits for.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from appliance.drop_problems import not_a_dataset, odd_in_folder, too_many, unsafe_file
from appliance.errors import Problem
from appliance.job import Role
from appliance.names import CHECK_FOLDER, printable, role_of

# How long a file whose end looks unfinished must lie unchanged before it is taken as it is. Windows Explorer sets the
# final size first and fills in the bytes later; a laptop may sleep in the middle.
OPEN_LINE_SECONDS = 60.0
NUL_BYTES_SECONDS = 15 * 60.0


class Kind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    OTHER = "special file"


@dataclass(frozen=True)
class Entry:
    """One name in the inbox as a listing saw it."""

    kind: Kind
    size: int
    mtime_ns: int
    device: int
    inode: int
    links: int = 1


@dataclass(frozen=True)
class Sighting:
    """An entry and the monotonic time since when it has looked exactly so."""

    entry: Entry
    since: float


class Ending(StrEnum):
    """How the end of a quiet file looks."""

    CLOSED = "closed"
    OPEN_LINE = "open line"
    NUL_BYTES = "NUL bytes"


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


@dataclass(frozen=True)
class Drop:
    """Files that arrived together. `files` are paths relative to the inbox; several recipes mean several jobs."""

    name: str
    files: tuple[tuple[str, Role], ...]
    state: DropState
    why: str = ""
    since: float = 0.0
    folder: str | None = None
    library_recipe: str | None = None
    dry_run: bool = False
    problems: tuple[Problem, ...] = ()

    def paths(self, role: Role) -> tuple[str, ...]:
        return tuple(path for path, its_role in self.files if its_role is role)


def observe(known: Mapping[str, Sighting], listing: Mapping[str, Entry], *, now: float) -> dict[str, Sighting]:
    """Fold a new listing into what we knew. A changed file starts its wait again."""
    return {
        path: known[path] if path in known and known[path].entry == entry else Sighting(entry, since=now)
        for path, entry in listing.items()
    }


def find_drops(
    sightings: Mapping[str, Sighting],
    *,
    now: float,
    rules: Rules,
    endings: Mapping[str, Ending] = {},
    wanted: Mapping[str, str | None] = {},
) -> list[Drop]:
    """Every drop in the inbox, oldest change first.

    `endings` says how the files that are quiet end (a quiet file without an entry is not ready yet), `wanted` what the
    `dataset` key of each quiet recipe names.
    """
    view = _View(sightings, _by_folder(sightings), now, rules, endings, wanted)
    drops: list[Drop] = []
    for area in _areas(sightings, rules):
        drops += _drops_of_area(view, area)
    return sorted(drops, key=lambda drop: (drop.since, drop.name))


@dataclass(frozen=True)
class _Area:
    """A place where files of the same stem find each other: the inbox, a recipe folder, or either under `check/`."""

    path: PurePosixPath
    library_recipe: str | None
    dry_run: bool


@dataclass(frozen=True)
class _View:
    sightings: Mapping[str, Sighting]
    folders: Mapping[str, list[str]]
    now: float
    rules: Rules
    endings: Mapping[str, Ending]
    wanted: Mapping[str, str | None]

    def children(self, folder: PurePosixPath) -> Iterator[tuple[str, Sighting]]:
        return ((path, self.sightings[path]) for path in self.folders.get(str(folder), ()))

    def wants(self, recipe: str) -> str | None:
        return self.wanted.get(recipe)


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[path.rpartition("/")[0] or "."].append(path)
    return folders


def _areas(sightings: Mapping[str, Sighting], rules: Rules) -> Iterator[_Area]:
    for root, dry_run in ((PurePosixPath("."), False), (PurePosixPath(CHECK_FOLDER), True)):
        yield _Area(root, None, dry_run)
        for recipe in sorted(rules.recipe_folders):
            if str(root / recipe) in sightings:
                yield _Area(root / recipe, recipe, dry_run)


def _drops_of_area(view: _View, area: _Area) -> list[Drop]:
    files, folders, unsafe = [], [], []
    for path, sighting in view.children(area.path):
        if sighting.entry.kind is Kind.FOLDER:
            folders.append(path)
        elif sighting.entry.kind is Kind.FILE and sighting.entry.links == 1:
            files.append(path)
        else:
            unsafe.append(path)
    drops = list(_loose_drops(view, area, files))
    drops += [_unsafe_drop(view, area, path) for path in unsafe]
    drops += [drop for path in folders if (drop := _folder_drop(view, area, path)) is not None]
    return drops


def _loose_drops(view: _View, area: _Area, files: Iterable[str]) -> Iterator[Drop]:
    """Files lying in an area, joined by stem, then recipes to the dataset that their `dataset` key names."""
    groups: dict[str, list[tuple[str, Role]]] = defaultdict(list)
    for path in files:
        stem, role = role_of(PurePosixPath(path).name)
        groups[stem].append((path, role))
    _follow_dataset_keys(view, groups)
    for stem, members in groups.items():
        yield from _drops_of_group(view, area, stem, members)


def _follow_dataset_keys(view: _View, groups: dict[str, list[tuple[str, Role]]]) -> None:
    """Move a recipe without a dataset of its own stem to the group of the file that it names."""
    for stem in list(groups):
        members = groups[stem]
        if any(role is Role.DATASET for _, role in members):
            continue
        for recipe in [path for path, role in members if role is Role.RECIPE]:
            wanted = view.wants(recipe)
            target = role_of(wanted)[0] if wanted and ":" not in wanted else stem
            names = {PurePosixPath(path).name for path, role in groups.get(target, []) if role is Role.DATASET}
            if target != stem and wanted in names:
                members.remove((recipe, Role.RECIPE))
                groups[target].append((recipe, Role.RECIPE))
        if not members:
            del groups[stem]


def _drops_of_group(view: _View, area: _Area, stem: str, members: list[tuple[str, Role]]) -> Iterator[Drop]:
    datasets = [member for member in members if member[1] is Role.DATASET]
    others = [member for member in members if member[1] is not Role.DATASET]
    strangers = [member for member in others if member[1] is Role.OTHER]
    partners = [member for member in others if member[1] is not Role.OTHER]
    for stranger in strangers:
        yield _judge(view, area, stem, [stranger], problems=(not_a_dataset(stranger[0]),))
    if len(datasets) <= 1:
        if datasets or partners:
            yield _judge(view, area, _name(view, stem, datasets, partners), datasets + partners)
    else:
        # Two datasets of one stem: each is a drop of its own and the recipe goes with every one of them.
        for dataset in datasets:
            yield _judge(view, area, stem, [dataset, *partners])


def _name(view: _View, stem: str, datasets: list[tuple[str, Role]], partners: list[tuple[str, Role]]) -> str:
    """The dataset's stem, or that of a recipe which names its dataset itself."""
    recipes = [path for path, role in partners if role is Role.RECIPE]
    if datasets and len(recipes) == 1 and view.wants(recipes[0]) is not None:
        return role_of(PurePosixPath(recipes[0]).name)[0]
    return stem


def _judge(
    view: _View,
    area: _Area,
    name: str,
    files: list[tuple[str, Role]],
    *,
    folder: str | None = None,
    problems: tuple[Problem, ...] = (),
) -> Drop:
    """Whether these files are ready, or what they wait for."""
    since = max(view.sightings[path].since for path, _ in files)
    state, why = (DropState.READY, "") if problems else _pairing(view, area, files, since, in_folder=folder is not None)
    if view.now - since < view.rules.quiet_seconds:
        state, why = DropState.SETTLING, "still being copied, or copied a moment ago"
    elif state is DropState.READY and not problems:
        state, why = _endings(view, files)
    return Drop(
        name=name,
        files=tuple(files),
        state=state,
        why=why,
        since=since,
        folder=folder,
        library_recipe=area.library_recipe,
        dry_run=area.dry_run,
        problems=problems,
    )


def _pairing(
    view: _View, area: _Area, files: list[tuple[str, Role]], since: float, *, in_folder: bool
) -> tuple[DropState, str]:
    datasets = [path for path, role in files if role is Role.DATASET]
    recipes = [path for path, role in files if role is Role.RECIPE]
    if not datasets:
        return _waiting_for_data(view, files, recipes)
    alone = not recipes and area.library_recipe is None and not in_folder
    if alone and view.now - since < view.rules.pair_seconds:
        stem = role_of(PurePosixPath(datasets[0]).name)[0]
        return DropState.AWAITING_PAIR, f"waits a moment for a recipe {printable(stem)}.yaml"
    return DropState.READY, ""


def _waiting_for_data(view: _View, files: list[tuple[str, Role]], recipes: list[str]) -> tuple[DropState, str]:
    for recipe in recipes:
        wanted = view.wants(recipe)
        if wanted is not None and wanted.startswith(("job:", "hub:")):
            return DropState.READY, ""
        if wanted is not None:
            return DropState.AWAITING_PAIR, f"waits for its dataset {printable(wanted)}"
    stem = role_of(PurePosixPath(files[0][0]).name)[0]
    return DropState.AWAITING_PAIR, f"waits for its dataset {printable(stem)}.jsonl"


def _endings(view: _View, files: list[tuple[str, Role]]) -> tuple[DropState, str]:
    """A quiet file that looks cut off gets more time; after that it is taken as it is and checked."""
    for path, role in files:
        if role not in (Role.DATASET, Role.EVAL):
            continue
        quiet = view.now - view.sightings[path].since
        ending = view.endings.get(path)
        if ending is None:
            return DropState.CHECKING, "its end is being looked at"
        if ending is Ending.OPEN_LINE and quiet < OPEN_LINE_SECONDS:
            return DropState.SETTLING, "its last line is not finished; waits for the rest"
        if ending is Ending.NUL_BYTES and quiet < NUL_BYTES_SECONDS:
            return DropState.SETTLING, "it ends in zeros, as a copy in progress does; waits for the rest"
    return DropState.READY, ""


def _unsafe_drop(view: _View, area: _Area, path: str) -> Drop:
    stem, _ = role_of(PurePosixPath(path).name)
    problem = unsafe_file(path, _what_it_is(view.sightings[path].entry))
    return _judge(view, area, stem, [(path, Role.OTHER)], problems=(problem,))


def _what_it_is(entry: Entry) -> str:
    return "file with several names (a hard link)" if entry.kind is Kind.FILE else str(entry.kind)


def _folder_drop(view: _View, area: _Area, folder: str) -> Drop | None:
    """A folder with one dataset (or `train.*` and `eval.*`) and perhaps one recipe is one drop."""
    here = PurePosixPath(folder)
    if area.library_recipe is None and (here.name in view.rules.recipe_folders or folder == CHECK_FOLDER):
        return None
    children = dict(view.children(here))
    if not children:
        return None
    files, problems = _folder_roles(children)
    if any(role is Role.DATASET for _, role in files) or problems:
        return _judge(view, area, here.name, files, folder=folder, problems=problems)
    recipes = [path for path, role in files if role is Role.RECIPE]
    if not any((view.wants(path) or "").startswith(("job:", "hub:")) for path in recipes):
        since = max(sighting.since for sighting in children.values())
        why = "waits for a dataset in the folder"
        return Drop(
            here.name, tuple(files), DropState.AWAITING_PAIR, why, since, folder, area.library_recipe, area.dry_run
        )
    return _judge(view, area, here.name, files, folder=folder)


def _folder_roles(children: Mapping[str, Sighting]) -> tuple[list[tuple[str, Role]], tuple[Problem, ...]]:
    files: list[tuple[str, Role]] = []
    problems: list[Problem] = []
    for path, sighting in sorted(children.items()):
        name = PurePosixPath(path).name
        stem, role = role_of(name)
        if role is Role.DATASET and stem.lower() == "eval":
            role = Role.EVAL
        files.append((path, role))
        if sighting.entry.kind is not Kind.FILE or sighting.entry.links != 1:
            files[-1] = (path, Role.OTHER)
            problems.append(odd_in_folder(name, _what_it_is(sighting.entry)))
        elif role is Role.OTHER:
            problems.append(not_a_dataset(path))
    problems += too_many(files)
    return files, tuple(problems)


# What a button file may do, on what: `0007.cancel`, `queue.pause`.
JOB_BUTTONS = ("cancel", "retry", "approve")
QUEUE_BUTTONS = ("pause", "resume")


def is_button(path: str) -> tuple[str, str] | None:
    """`("cancel", "0007")` or `("pause", "queue")` for a button file lying in the inbox, else None."""
    if "/" in path:
        return None
    target, _, action = path.lower().removesuffix(".txt").rpartition(".")
    number = target.split("-")[0]
    if target == "queue" and action in QUEUE_BUTTONS:
        return action, "queue"
    if number.isascii() and number.isdigit() and action in JOB_BUTTONS:
        return action, number
    return None
