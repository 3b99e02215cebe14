"""Room on the disks: what must stay free, and the ballast that is thrown overboard when nothing is."""

import contextlib
import errno
import logging
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.files import sync
from appliance.settings import Settings

logger = logging.getLogger(__name__)

GB: Final = 10**9
# On a disk smaller than the defaults are made for, this share of it is kept free instead.
RESERVE_SHARE: Final = 0.05
# Below this much, not even a few lines can be written.
NOTHING_FREE_BYTES: Final = 1 << 20
BALLAST_BYTES: Final = 128 * 10**6
BALLAST_SHARE: Final = 0.02
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Space:
    """The file system that a folder lies on."""

    free_bytes: int
    size_bytes: int
    free_files: int


def space_of(folder: Path) -> Space:
    """What is free for us there. Raises OSError when it does not answer."""
    space = os.statvfs(folder)
    # A file system without a fixed number of inodes says 0 of 0.
    files = space.f_favail if space.f_files else 1 << 30
    return Space(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize, files)


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there: on its disk the folder will be made."""
    folder = folder.resolve()
    while not _is_there(folder):
        folder = folder.parent
    return folder


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except PermissionError:
        return False


def reserve_bytes(settings: Settings, space: Space) -> int:
    """What must stay free on a file system: as set; the default takes no more than a share of a small disk."""
    said = settings.disk_reserve_gb * GB
    if "disk_reserve_gb" in settings.model_fields_set:
        return int(said)
    return int(min(said, RESERVE_SHARE * space.size_bytes))


def is_disk_trouble(error: BaseException) -> bool:
    """Whether an error says that a disk is full or broken: that passes, or somebody sees to it."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in (*FULL, errno.EIO, errno.EROFS)


def is_full(error: BaseException) -> bool:
    """Whether there may be no room for anybody's files; SQLite calls a full disk an error of the disk, too."""
    if isinstance(error, sqlite3.Error):
        return is_disk_trouble(error)
    return isinstance(error, OSError) and error.errno in FULL


class Ballast:
    """A file that keeps room for the database: removed when the disk is full, made again when there is room."""

    def __init__(self, folder: Path, size: int | None = None) -> None:
        self._path = folder / "ballast"
        self.bytes = size if size is not None else int(min(BALLAST_BYTES, BALLAST_SHARE * space_of(folder).size_bytes))

    @property
    def is_there(self) -> bool:
        return self._path.exists()

    def drop(self) -> bool:
        """Give its room to what has to be written now. False when there was none, or the disk gives nothing back."""
        try:
            self._path.unlink()
        except OSError:
            # Not there, or on a disk that has become read-only: whoever asks is in trouble already.
            return False
        logger.error("the disk of the state folder is full: its last reserve is used to keep the books")
        return True

    def restore(self) -> bool:
        """Take the room again if it is to be had. True when the ballast is there."""
        if self.is_there:
            return True
        if space_of(self._path.parent).free_bytes < self.bytes:
            return False
        temporary = self._path.with_name(".ballast.tmp")
        try:
            with temporary.open("wb") as file:
                if self.bytes:
                    os.posix_fallocate(file.fileno(), 0, self.bytes)
                os.fsync(file.fileno())
            temporary.rename(self._path)
            sync(self._path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        return True
