"""Writing files so that a power cut leaves the old content or the new, never half of it."""

import ctypes
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_HERE: Final = -100  # AT_FDCWD
_REPLACE_NOTHING: Final = 1  # RENAME_NOREPLACE
# What a kernel or file system answers that cannot rename so; network file systems may not.
_CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


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


def rename_new(old: Path, new: Path) -> None:
    """Rename a file, in one step, to a name that nothing has yet. Raises FileExistsError; nothing is ever replaced.

    Where the file system cannot promise that, it is looked for just before.
    """
    # No second name for a moment, as a hard link would be: the inbox takes in no file that has two.
    code = _LIBC.renameat2(_HERE, os.fsencode(old), _HERE, os.fsencode(new), _REPLACE_NOTHING)
    number = ctypes.get_errno() if code else 0
    if number in _CANNOT:
        if not os.path.lexists(new):
            old.rename(new)
            return
        number = errno.EEXIST
    if number:
        raise OSError(number, os.strerror(number), str(old), None, str(new))


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
