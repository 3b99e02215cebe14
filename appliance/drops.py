"""From what lies in the inbox to what should be done about it. Pure: a listing goes in, decisions come out.

The listing is the truth. It is folded into sightings (how long has each file been unchanged), sightings are grouped
into drops (what belongs together), and each drop says whether it is ready or what it waits for.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from appliance.drop_problems import ambiguous, full_button, not_a_dataset, odd_in_folder, too_many, unsafe_file
from appliance.errors import Problem
from appliance.job import Role
from appliance.names import CHECK_FOLDER, parse_number, role_of
from appliance.settling import Area, Drop, Files, Member, Rules, View, judge, rows_elsewhere
from appliance.sightings import Ending, Entry, Kind, Sighting

Groups = dict[str, Files]


def find_drops(
    sightings: Mapping[str, Sighting],
    *,
    now: float,
    rules: Rules,
    endings: Mapping[str, Ending] = {},
    wanted: Mapping[str, str | None] = {},
    held: Iterable[str] = (),
    unread: Iterable[str] = (),
) -> list[Drop]:
    """Every drop in the inbox, oldest change first.

    `endings` says how the files that are quiet end (a quiet file without an entry is not ready yet), `wanted` what the
    `dataset` key of each quiet recipe names; recipes in `unread` were not looked into yet. Files in `held` are still
    open for writing somewhere.
    """
    view = View(sightings, _by_folder(sightings), now, rules, endings, wanted, frozenset(held), frozenset(unread))
    drops: list[Drop] = []
    for area in _areas(sightings, rules):
        drops += _drops_of_area(view, area)
    return sorted(drops, key=lambda drop: (drop.since, drop.name))


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[path.rpartition("/")[0] or "."].append(path)
    return folders


def _areas(sightings: Mapping[str, Sighting], rules: Rules) -> Iterator[Area]:
    for root, dry_run in ((PurePosixPath("."), False), (PurePosixPath(CHECK_FOLDER), True)):
        yield Area(str(root), None, dry_run)
        for recipe in sorted(rules.recipe_folders):
            if str(root / recipe) in sightings:
                yield Area(str(root / recipe), recipe, dry_run)


def _drops_of_area(view: View, area: Area) -> list[Drop]:
    files, folders, unsafe = [], [], []
    for path, sighting in view.children(area.path):
        if sighting.entry.kind is Kind.FOLDER:
            folders.append(path)
        elif sighting.entry.is_plain:
            files.append(path)
        else:
            unsafe.append(path)
    drops = list(_loose_drops(view, area, files))
    drops += [_unsafe_drop(view, area, path) for path in unsafe]
    drops += [drop for path in folders if (drop := _folder_drop(view, area, path)) is not None]
    return drops


def _loose_drops(view: View, area: Area, files: Iterable[str]) -> Iterator[Drop]:
    """Files lying in an area, joined by stem, then recipes to the dataset that their `dataset` key names."""
    groups: Groups = defaultdict(list)
    for path in files:
        stem, role = role_of(_name(path))
        groups[stem].append((path, role))
    _follow_dataset_keys(view, groups)
    _join_twins(groups)
    for stem, members in groups.items():
        yield from _drops_of_group(view, area, stem, members)


def _follow_dataset_keys(view: View, groups: Groups) -> None:
    """Move a recipe without a dataset of its own stem to the group of the file that it names."""
    for stem in list(groups):
        members = groups[stem]
        if any(role is Role.DATASET for _, role in members):
            continue
        for recipe in [path for path, role in members if role is Role.RECIPE]:
            wanted = view.wants(recipe)
            if wanted is None or rows_elsewhere(wanted):
                continue
            target = _group_of(unicodedata.normalize("NFC", wanted), groups)
            if target is not None and target != stem:
                members.remove((recipe, Role.RECIPE))
                groups[target].append((recipe, Role.RECIPE))
        if not members:
            del groups[stem]


def _group_of(wanted: str, groups: Groups) -> str | None:
    """The stem under which the dataset of this name lies; a Mac writes the same name in other bytes."""
    for stem in {role_of(name)[0] for name in (wanted, unicodedata.normalize("NFD", wanted))}:
        for path, role in groups.get(stem, ()):
            if role is Role.DATASET and unicodedata.normalize("NFC", _name(path)) == wanted:
                return stem
    return None


def _join_twins(groups: Groups) -> None:
    """Put a recipe beside the one dataset whose name differs in nothing but case or normal form."""
    lonely = [stem for stem, members in groups.items() if not any(role is Role.DATASET for _, role in members)]
    if not lonely:
        return
    datasets: dict[str, list[str]] = defaultdict(list)
    for stem, members in groups.items():
        if any(role is Role.DATASET for _, role in members):
            datasets[_folded(stem)].append(stem)
    for stem in lonely:
        twins = datasets.get(_folded(stem), [])
        if len(twins) == 1 and all(role is not Role.OTHER for _, role in groups[stem]):
            groups[twins[0]] += groups.pop(stem)


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def _drops_of_group(view: View, area: Area, stem: str, members: Files) -> Iterator[Drop]:
    datasets = [member for member in members if member[1] is Role.DATASET]
    strangers = [member for member in members if member[1] is Role.OTHER]
    partners = [member for member in members if member[1] not in (Role.DATASET, Role.OTHER)]
    for stranger in strangers:
        problem = full_button(stranger[0]) if is_button(stranger[0]) else not_a_dataset(stranger[0])
        yield judge(view, area, stem, [stranger], problems=(problem,))
    recipes = [member for member in partners if member[1] is Role.RECIPE]
    if len(datasets) > 1:
        yield from _several_datasets(view, area, stem, datasets, partners)
    elif not datasets and len(recipes) > 1 and all(rows_elsewhere(view.wants(path)) for path, _ in recipes):
        # Rows of somewhere else, for each recipe from somewhere else.
        for recipe in recipes:
            yield judge(view, area, role_of(_name(recipe[0]))[0], [recipe])
    elif datasets or partners:
        yield judge(view, area, _name_of_drop(view, stem, datasets, recipes), datasets + partners)


def _several_datasets(view: View, area: Area, stem: str, datasets: Files, partners: Files) -> Iterator[Drop]:
    """Datasets of one stem: each is a drop of its own, and a recipe goes with the one that it names."""
    if not partners:
        for dataset in datasets:
            yield judge(view, area, stem, [dataset])
        return
    names = {_name(path): (path, role) for path, role in datasets}
    asked = {view.wants(path) for path, role in partners if role is Role.RECIPE}
    if len(asked) == 1 and (meant := names.get(next(iter(asked)) or "")):
        yield judge(view, area, stem, [meant, *partners])
        for dataset in datasets:
            if dataset != meant:
                yield judge(view, area, stem, [dataset])
        return
    yield judge(view, area, stem, datasets + partners, problems=(ambiguous(datasets, partners),))


def _name_of_drop(view: View, stem: str, datasets: Files, recipes: Files) -> str:
    """The dataset's stem, or that of a recipe which names its dataset itself."""
    if datasets and len(recipes) == 1 and view.wants(recipes[0][0]) is not None:
        return role_of(_name(recipes[0][0]))[0]
    return stem


def _unsafe_drop(view: View, area: Area, path: str) -> Drop:
    stem, _ = role_of(_name(path))
    problem = unsafe_file(path, _what_it_is(view.sightings[path].entry))
    return judge(view, area, stem, [(path, Role.OTHER)], problems=(problem,))


def _what_it_is(entry: Entry) -> str:
    return "file with several names (a hard link)" if entry.kind is Kind.FILE else str(entry.kind)


def _folder_drop(view: View, area: Area, folder: str) -> Drop | None:
    """A folder with one dataset (or `train.*` and `eval.*`) and perhaps one recipe is one drop."""
    name = _name(folder)
    if area.library_recipe is None and (name in view.rules.recipe_folders or folder == CHECK_FOLDER):
        return None
    children = dict(view.children(folder))
    if not children:
        return None
    files, problems = _folder_roles(children)
    return judge(view, area, name, files, folder=folder, problems=problems)


def idle_folders(sightings: Mapping[str, Sighting], drops: Iterable[Drop], rules: Rules) -> Iterator[tuple[str, str]]:
    """The folders in the inbox that are no drops, nor those of a recipe, each with why. Nobody else tells of them."""
    areas = {area.path.removeprefix(".") for area in _areas(sightings, rules)}
    known = {*areas, *(drop.folder for drop in drops)}
    folders = {path for path, seen in sightings.items() if seen.entry.kind is Kind.FOLDER}
    idle = {path for path in folders - known if path.rpartition("/")[0] in areas}
    for path in sorted(idle - {path.rpartition("/")[0] for path in sightings}):
        yield path, "this folder is empty; it becomes a drop once a dataset lies in it"
    for path in sorted(idle & {path.rpartition("/")[0] for path in folders}):
        yield path, "there are folders in this folder, and what lies in those is not taken in"


def dropped_folder(path: str, rules: Rules) -> str | None:
    """The dropped folder that a file lies in; None for one in the inbox itself or in the folder of a recipe."""
    folder = path.rpartition("/")[0]
    above, _, name = folder.rpartition("/")
    of_a_recipe = above in ("", CHECK_FOLDER) and name in rules.recipe_folders
    return None if folder in ("", CHECK_FOLDER) or of_a_recipe else folder


def _folder_roles(children: Mapping[str, Sighting]) -> tuple[Files, tuple[Problem, ...]]:
    files: Files = []
    problems: list[Problem] = []
    for path, sighting in sorted(children.items()):
        files.append(_folder_member(path))
        if not sighting.entry.is_plain:
            files[-1] = (path, Role.OTHER)
            problems.append(odd_in_folder(path, _what_it_is(sighting.entry)))
        elif files[-1][1] is Role.OTHER:
            problems.append(not_a_dataset(path))
    problems += too_many(files)
    return files, tuple(problems)


def _folder_member(path: str) -> Member:
    stem, role = role_of(_name(path))
    return path, Role.EVAL if role is Role.DATASET and stem.lower() == "eval" else role


def _name(path: str) -> str:
    return path.rpartition("/")[2]


# What a button file may do, on what: `0007.cancel`, `queue.pause`.
JOB_BUTTONS = ("cancel", "retry", "approve")
QUEUE_BUTTONS = ("pause", "resume")


def is_bare_button(path: str) -> bool:
    """Whether a button is called by its number or by `queue` alone: nobody calls a file with anything in it so."""
    return (
        is_button(path) is not None and path.partition(".")[0].lower().removeprefix("queue").strip("0123456789") == ""
    )


def is_button(path: str) -> tuple[str, str] | None:
    """`("cancel", "0007")` or `("pause", "queue")` for a button file lying in the inbox, else None."""
    if "/" in path:
        return None
    target, _, action = path.lower().removesuffix(".txt").rpartition(".")
    number = target.split("-")[0]
    if target == "queue" and action in QUEUE_BUTTONS:
        return action, "queue"
    if parse_number(number) is not None and action in JOB_BUTTONS:
        return action, number
    return None
