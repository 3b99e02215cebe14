"""The base models on this machine: what each takes on the disk, and when a job last used it."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from appliance.disk import GB, reserve_bytes, space_of
from appliance.errors import ApplianceError
from appliance.files import sync
from appliance.models import (
    UnusableModel,
    cache_folder,
    canonical_id,
    has_all_weights,
    read_config,
    refuse_unsafe,
    size_of,
)
from appliance.settings import Settings

CHUNK_BYTES: Final = 8 << 20
# What is half there: an import, or a removal, that was cut short.
PARTIAL: Final = ".partial-"
# No copy goes on for so long without a new byte, and no removal takes so long.
ABANDONED_SECONDS: Final = 86400.0
CACHED: Final = "models--"


class ShelfError(ApplianceError):
    """A model cannot be put on the shelf or taken from it."""

    exit_code = 2


class NoRoomError(ApplianceError):
    """The disk has no room for a model."""

    exit_code = 3


@dataclass(frozen=True)
class Shelved:
    """One base model: its Hub id, where it lies, and since when no job has used it (Unix seconds)."""

    name: str
    place: str
    path: Path
    bytes: int
    used: float
    complete: bool


def shelf(settings: Settings) -> list[Shelved]:
    """All of them, the least recently used first: the order in which to make room."""
    found = [*_in_models_folder(settings), *_in_cache(settings)]
    return sorted(found, key=lambda model: (model.used, model.name))


def mark_used(name: str, settings: Settings) -> None:
    """A job uses this model now. Only the order in `models list` hangs on it: what cannot be noted fails no job."""
    mark = _mark(name, settings)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def import_model(source: Path, name: str | None, settings: Settings, progress: Callable[[int, int], object]) -> Shelved:
    """Copy a model's directory into the models folder: whole, or not at all.

    `name` is its Hub id; a directory `org--name`, or a snapshot of the Hugging Face cache, says it itself. `progress`
    is called with the bytes done and all. Raises ShelfError, UnusableModel or NoRoomError.
    """
    if not (source / "config.json").is_file():
        raise ShelfError(f"{source} is not a model: it has no config.json", hint="Name the directory that holds it.")
    read_config(source)
    refuse_unsafe(source)
    if not has_all_weights(source):
        raise UnusableModel(f"the weights in {source} are not complete", hint="Fetch the missing files and try again.")
    name = name or _name_of(source)
    target = settings.models / name.replace("/", "--")
    if target.exists():
        raise ShelfError(
            f"{name} is on the shelf already, in {target}", hint=f"`appliance models remove {name}` first."
        )
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not _is_hidden(path.relative_to(source))]
    total = sum(path.stat().st_size for path in files)
    settings.models.mkdir(parents=True, exist_ok=True)
    _sweep(settings, now=time.time())
    _keep_room(total, settings)
    partial = settings.models / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        _copy(source, files, partial, lambda done: progress(done, total))
        partial.rename(target)
        sync(settings.models)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _shelved(name, "models folder", target, settings, complete=True)


def remove_model(name: str, settings: Settings) -> list[Shelved]:
    """Take a model off the shelf, wherever it lies, and return what was removed.

    Of a linked folder only the link goes. Raises ShelfError when the model is not there.
    """
    _sweep(settings, now=time.time())
    wanted = canonical_id(name)
    found = [model for model in shelf(settings) if model.name == wanted]
    if not found:
        raise ShelfError(f"there is no model {wanted} on this machine", hint="`appliance models list` shows them.")
    removed = [_remove(model) for model in found]
    _mark(wanted, settings).unlink(missing_ok=True)
    return removed


def _remove(model: Shelved) -> Shelved:
    if model.path.is_symlink():
        # What it leads to is somebody else's, and stays: nothing is free again.
        model.path.unlink()
        return replace(model, bytes=0)
    # Out of sight at once: an interrupted removal leaves nothing that could be taken for a model.
    partial = model.path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
    model.path.rename(partial)
    partial.touch()
    shutil.rmtree(partial)
    return model


def _sweep(settings: Settings, *, now: float) -> None:
    """Take away what a power cut left of imports and removals."""
    for folder in (settings.models, cache_folder(settings) / "hub"):
        for partial in folder.glob(f"{PARTIAL}*"):
            # What vanishes meanwhile is being removed.
            with contextlib.suppress(FileNotFoundError):
                last = max(path.lstat().st_mtime for path in (partial, *partial.rglob("*")))
                if now - last > ABANDONED_SECONDS:
                    shutil.rmtree(partial, ignore_errors=True)


def _is_hidden(path: Path) -> bool:
    """Whether it belongs to a program: git's history, or half of a download."""
    return any(part.startswith(".") for part in path.parts)


def _in_models_folder(settings: Settings) -> Iterator[Shelved]:
    for folder in _inside(settings.models):
        if (folder / "config.json").is_file() and not folder.name.startswith("."):
            name = canonical_id(folder.name)
            yield _shelved(name, "models folder", folder, settings, complete=has_all_weights(folder))


def _in_cache(settings: Settings) -> Iterator[Shelved]:
    for folder in _inside(cache_folder(settings) / "hub"):
        if not folder.name.startswith(CACHED):
            continue
        name = canonical_id(folder.name.removeprefix(CACHED))
        complete = any(folder.glob("complete-*")) or any(map(has_all_weights, (folder / "snapshots").glob("*")))
        yield _shelved(name, "cache", folder, settings, complete=complete)


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, if it is there. Raises OSError where that cannot be seen: it is not taken for empty."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _shelved(name: str, place: str, path: Path, settings: Settings, *, complete: bool) -> Shelved:
    mark = _mark(name, settings)
    used = (mark if mark.exists() else path).stat().st_mtime
    return Shelved(name, place, path, size_of(path), used, complete)


def _mark(name: str, settings: Settings) -> Path:
    return settings.state / "cache" / "models used" / canonical_id(name).replace("/", "--")


def _name_of(source: Path) -> str:
    """The Hub id that a directory names itself by."""
    for folder in (source, *source.resolve().parents):
        name = folder.name.removeprefix(CACHED)
        if "--" in name:
            return canonical_id(name)
    raise ShelfError(
        f"{source.name} does not say which model it is",
        hint="Add --name ORG/NAME, as the Hub calls it: the adapter will name it as its base.",
    )


def _keep_room(total: int, settings: Settings) -> None:
    space = space_of(settings.models)
    free = space.free_bytes - reserve_bytes(settings, space)
    if total > free:
        raise NoRoomError(
            f"the model takes {total / GB:.1f} GB, but only {max(0.0, free / GB):.1f} GB are free beside the reserve",
            hint=room_hint(settings),
        )


def room_hint(settings: Settings) -> str:
    """How to make room: the models that no job has used for the longest time."""
    oldest = shelf(settings)[:3]
    if not oldest:
        return "Make room on the volume that holds the models."
    days = [f"{model.name} ({model.bytes / GB:.1f} GB, {_ago(model.used)})" for model in oldest]
    return f"`appliance models remove` makes room; used least recently: {', '.join(days)}."


def _ago(used: float) -> str:
    days = int((time.time() - used) // 86400)
    return "used today" if days < 1 else f"not used for {days} day{'s' if days > 1 else ''}"


def _copy(source: Path, files: list[Path], target: Path, progress: Callable[[int], object]) -> None:
    done = 0
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as reading, copy.open("xb") as writing:
            while chunk := reading.read(CHUNK_BYTES):
                writing.write(chunk)
                done += len(chunk)
                progress(done)
            writing.flush()
            os.fsync(writing.fileno())
