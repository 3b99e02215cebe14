"""Writing files so that a power cut leaves the old content or the new, never half of it."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one step and make it last: temporary file, fsync, rename, fsync the directory."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    # In a folder that others write to, the name may be a link by now: never open what is there already.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """`write_whole` for a JSON value. Refuses NaN: no other program could read it."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_below(root: Path, path: str) -> int:
    """A descriptor of a file below a folder. No link is followed at any level below it, and nothing blocks.

    Raises OSError, with ELOOP or ENOTDIR for a link on the way.
    """
    with folder_below(root, path) as (folder, name):
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)


@contextmanager
def folder_below(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder in which a path below `root` lies, and the path's last part. No link is followed."""
    *folders, name = path.split("/")
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            deeper = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = deeper
        yield directory, name
    finally:
        os.close(directory)
