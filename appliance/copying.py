"""Copying a drop out of the inbox into private storage: hashed, on the disk, and surely the file that was listed."""

import hashlib
import os
import pwd
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from appliance.errors import Problem, Reason
from appliance.files import sync
from appliance.inbox import Inbox
from appliance.job import DroppedFile, Role
from appliance.names import printable
from appliance.settling import Drop
from appliance.sightings import Entry, Kind
from appliance.store import DropKey

CHUNK_BYTES = 1 << 20
# File systems allow 255 bytes; the publish stage adds to it.
LONGEST_NAME_BYTES = 240
GB = 10**9


class ChangedWhileCopying(Exception):
    """The source was replaced, changed or removed: this copy is thrown away and the new file counts."""


@dataclass(frozen=True)
class Copied:
    """A drop whose bytes are safe in `staging`, but which is not a job yet."""

    drop: Drop
    staging: Path
    files: tuple[DroppedFile, ...]
    sources: tuple[tuple[str, Entry], ...]
    keys: tuple[DropKey, ...]
    problems: tuple[Problem, ...]


RowsOf = Callable[[str], "list[tuple[DroppedFile, Path]] | Problem"]


def copy_in(
    inbox: Inbox,
    drop: Drop,
    entries: Mapping[str, Entry],
    incoming: Path,
    *,
    max_bytes: float,
    rows_of: RowsOf | None = None,
    is_recipe: Callable[[str], bool] = lambda name: False,
) -> Copied:
    """Copy every file of a drop into private storage, hashed, and on the disk.

    `rows_of` finds the data files of the earlier job that a recipe asks for, `is_recipe` tells what is in the library.
    Raises ChangedWhileCopying when a source is no longer what `entries` says, or a dropped folder has become that of a
    recipe; OSError when our own storage fails.
    """
    files: list[DroppedFile] = []
    keys: list[DropKey] = []
    problems = list(drop.problems)
    with staging_in(incoming) as staging:
        for path, role in drop.files:
            taken = _take_file(inbox, path, role, entries[path], staging, max_bytes)
            if isinstance(taken, DroppedFile):
                files.append(taken)
            elif taken is not None:
                problems.append(taken)
            keys.append(_key(path, entries[path], kept=isinstance(taken, Problem) or _is_folder(entries[path])))
        if drop.rows_of is not None and rows_of is not None and not problems:
            files += copy_rows(rows_of(drop.rows_of), staging, problems)
        sync(staging / "dropped")
        _must_still_be_there(inbox, entries)
        if drop.folder is not None and drop.library_recipe is None and is_recipe(PurePosixPath(drop.folder).name):
            raise ChangedWhileCopying(drop.folder)
    sources = tuple((path, entries[path]) for path, _ in drop.files)
    return Copied(drop, staging, tuple(files), sources, tuple(keys), tuple(problems))


@contextmanager
def staging_in(incoming: Path) -> Iterator[Path]:
    """A new folder for the copies of a drop. It goes again when they fail, and whoever gets it removes it."""
    staging = incoming / uuid.uuid4().hex
    try:
        (staging / "dropped").mkdir(parents=True)
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def copy_rows(
    found: "list[tuple[DroppedFile, Path]] | Problem", staging: Path, problems: list[Problem]
) -> list[DroppedFile]:
    """Copy data files that an earlier job had, with their hashes compared. They come from no inbox: `source` is empty.

    Raises OSError when our own storage fails.
    """
    if isinstance(found, Problem):
        problems.append(found)
        return []
    files = []
    for file, path in found:
        target = place_for(file.name, staging)
        copied, digest = _copy_again(path, target)
        if digest != file.sha256:
            message = f"the file {file.name} of that job is not what was dropped any more; drop the file itself"
            problems.append(Problem("rows_changed", message, Reason.DATASET_MISSING, key="dataset", found=file.name))
            continue
        files.append(replace(file, name=target.name, path=f"dropped/{target.name}", bytes=copied, source=""))
    return files


def _copy_again(path: Path, target: Path) -> tuple[int, str]:
    try:
        source = path.open("rb")
    except OSError:
        return 0, ""
    digest, copied = hashlib.sha256(), 0
    with source, target.open("xb") as file:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            copied += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return copied, digest.hexdigest()


def _must_still_be_there(inbox: Inbox, entries: Mapping[str, Entry]) -> None:
    """A file that was renamed meanwhile is taken under its new name, one that was deleted not at all."""
    for path, entry in entries.items():
        if entry.kind is Kind.FILE and inbox.entry(path) != entry:
            raise ChangedWhileCopying(path)


def _is_folder(entry: Entry) -> bool:
    return entry.kind is Kind.FOLDER


def _take_file(
    inbox: Inbox, path: str, role: Role, entry: Entry, staging: Path, max_bytes: float
) -> DroppedFile | Problem | None:
    """The copied file, why it cannot be copied, or None for a name that holds no bytes of its own (a link, a pipe)."""
    name = printable(PurePosixPath(path).name)
    if not entry.is_plain:
        return None
    if entry.size > max_bytes:
        return Problem(
            code="too_large",
            reason=Reason.TOO_LARGE,
            message=f"the file has {entry.size / GB:,.1f} GB and the limit is {max_bytes / GB:,.0f} GB"
            " (APPLIANCE_MAX_DROP_GB). It was left in the inbox; split it, or ask for a higher limit.",
            file=name,
            found=f"{entry.size} bytes",
            expected=f"at most {max_bytes:.0f} bytes",
        )
    try:
        source = inbox.open(path)
    except FileNotFoundError as error:
        raise ChangedWhileCopying(path) from error
    except OSError as error:
        return _unreadable(name, error)
    with os.fdopen(source, "rb") as file:
        return _copy(file.fileno(), path, role, entry, staging)


def _copy(source: int, path: str, role: Role, entry: Entry, staging: Path) -> DroppedFile:
    """Copy from an open descriptor, and make sure that it was the file that was listed, from beginning to end."""
    _must_be(source, entry, path)
    target = place_for(PurePosixPath(path).name, staging)
    digest = hashlib.sha256()
    copied = 0
    with target.open("xb") as file:
        while chunk := os.read(source, CHUNK_BYTES):
            copied += len(chunk)
            if copied > entry.size:
                raise ChangedWhileCopying(path)
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    _must_be(source, entry, path)
    if copied != entry.size:
        raise ChangedWhileCopying(path)
    return DroppedFile(
        name=target.name,
        role=role,
        path=f"dropped/{target.name}",
        bytes=copied,
        sha256=digest.hexdigest(),
        source=path,
        device=entry.device,
        inode=entry.inode,
        mtime_ns=entry.mtime_ns,
        owner=user_name(os.fstat(source).st_uid),
    )


def _must_be(descriptor: int, entry: Entry, path: str) -> None:
    now = os.fstat(descriptor)
    seen = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_nlink)
    if not stat.S_ISREG(now.st_mode) or seen != (entry.device, entry.inode, entry.size, entry.mtime_ns, entry.links):
        raise ChangedWhileCopying(path)


def user_name(uid: int) -> str:
    """The name of a user, or their number where the machine has no name for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(
        code="unreadable",
        reason=Reason.UNSAFE_FILE,
        message=f"the appliance may not read this file ({error.strerror}). It was left in the inbox; give everybody"
        " read permission, or copy it there again.",
        file=name,
        found=error.strerror,
        expected="a readable file",
    )


def place_for(name: str, staging: Path) -> Path:
    """Where the copy of a file goes: no other file of the drop lies there, though odd names may look the same."""
    folder, name = staging / "dropped", _safe_name(name)
    target, number = folder / name, 1
    while target.exists():
        number += 1
        target = folder / f"{number}-{name}"
    return target


def _safe_name(name: str) -> str:
    """The name of the copy: the original where any program can write it, else its printable form, cut to fit."""
    shown = printable(name).replace("/", "_")
    if len(shown.encode()) <= LONGEST_NAME_BYTES and not shown.startswith("-"):
        return shown
    suffixes = "".join(PurePosixPath(shown).suffixes[-2:])[-20:]
    stem = shown.lstrip("-").encode()[: LONGEST_NAME_BYTES - len(suffixes.encode())].decode(errors="ignore")
    return (stem.removesuffix(suffixes) or "dropped") + suffixes


def _key(path: str, entry: Entry, *, kept: bool) -> DropKey:
    return DropKey(os.fsencode(path), entry.device, entry.inode, entry.mtime_ns, entry.size, kept=kept)
