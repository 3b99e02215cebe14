"""No folder of the appliance lies where another one would take it in, show it to everybody or clear it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Final

from appliance import surroundings
from appliance.doctor.finding import Finding, ok, problem
from appliance.inbox import DEPTH
from appliance.settings import PREFIX, Settings

_FOLDERS: Final = ("outbox", "state", "models", "recipes", "inbox")
_TAKEN_IN: Final = "what lies in it would be taken in as a drop"
# What harm it does to lie in another; a folder that lies in another without being named here does none.
_HARM: Final[Mapping[tuple[str, str], str]] = {
    ("outbox", "inbox"): _TAKEN_IN,
    ("state", "inbox"): _TAKEN_IN,
    ("models", "inbox"): _TAKEN_IN,
    ("recipes", "inbox"): _TAKEN_IN,
    ("state", "outbox"): "whoever collects results could read and change the database",
}
# Folders of the state folder that are cleared, or hold what belongs to jobs.
_OWN: Final = ("jobs", "incoming", "cache", "hub")


def check_nesting(settings: Settings) -> Iterator[Finding]:
    """No two folders are one, and none lies in another in which it would do harm."""
    folders: dict[str, Path] = {name: getattr(settings, name).resolve() for name in _FOLDERS}
    harm = list(_harms(folders))
    prefix = "" if surroundings.in_container() else PREFIX
    for message, *names in harm:
        variables = " or ".join(prefix + name.upper() for name in names)
        yield problem("folders", message, surroundings.on_host(f"set {variables} to another folder"), stops=True)
    if not harm:
        yield ok("folders", "no folder lies in the way of another")


def _harms(folders: Mapping[str, Path]) -> Iterator[tuple[str, str, str]]:
    """What is wrong, and the two folders of which one should be another."""
    for one, other in combinations(_FOLDERS, 2):
        if _is_same(folders[one], folders[other]):
            yield f"{one} and {other} are one folder, {folders[one]}", one, other
    for (inner, outer), harm in _HARM.items():
        if _lies_in(folders[inner], folders[outer]) or (
            outer == "inbox" and _is_seen_in(folders[outer], folders[inner])
        ):
            yield f"{inner} {folders[inner]} lies in {outer} {folders[outer]}: {harm}", inner, outer
    for name in ("inbox", "outbox", "models"):
        if any(_is_same(folders[name], own) or _lies_in(folders[name], own) for own in _own(folders["state"])):
            yield (
                f"{name} {folders[name]} lies in a folder that the appliance keeps for itself and clears",
                name,
                "state",
            )


def _own(state: Path) -> Iterator[Path]:
    return (state / name for name in _OWN)


def _lies_in(inner: Path, outer: Path) -> bool:
    """Whether it does, by its path; another way to the same folder may stand in that."""
    return any(_is_same(above, outer) for above in inner.parents)


def _is_seen_in(inbox: Path, folder: Path) -> bool:
    """Whether it is one of the folders in the inbox, as deep as drops are looked for, whatever its own path says.

    A container mounts each folder by itself, and sees nothing of one lying in another.
    """
    identity, level = _identity(folder), [inbox]
    for _ in range(DEPTH if identity is not None else 0):
        level = [path for above in level for path in _folders_in(above)]
        if any(_identity(path) == identity for path in level):
            return True
    return False


def _is_same(one: Path, other: Path) -> bool:
    return one == other or (_identity(one) is not None and _identity(one) == _identity(other))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _folders_in(path: Path) -> list[Path]:
    with suppress(OSError), os.scandir(path) as entries:
        return [path / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []
