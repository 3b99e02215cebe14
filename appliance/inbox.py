"""The inbox folder: listing it, opening what lies in it without being led astray, removing what was taken."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from fcntl import F_RDLCK, F_SETLEASE, F_SETSIG, F_UNLCK, fcntl
from pathlib import Path
from signal import SIGURG

from appliance.files import folder_below, open_below, write_whole
from appliance.names import READ_ME, SENTINEL, ignored, split_suffix
from appliance.sightings import Ending, Entry, Kind
from appliance.yaml_text import LARGEST as LARGEST_RECIPE

# check/, a recipe folder, a dropped folder, and the files in it.
DEPTH = 4
HEAD_BYTES = 64
TAIL_BYTES = 65536
SENTINEL_BYTES = 200
# So many zeros at the end of a packed file are no accident.
ZEROS = b"\0" * 64
# UTF-16 in either order, and a zip archive, which a renamed .docx or .xlsx is, too: a zero byte is their ordinary end.
MAY_END_IN_ZERO = (b"\xff\xfe", b"\xfe\xff", b"PK\x03\x04")
# What SQLite can hold; some file systems have room for later times than that.
_LATEST_NS = 2**63 - 1


class Availability(StrEnum):
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    FOREIGN = "served by another appliance"


class Inbox:
    """A folder that other people write to. Nothing in it is trusted, every name may change at any time."""

    def __init__(self, path: Path, installation: str) -> None:
        self.path = path
        self.installation = installation
        self._identity: tuple[int, int] | None = None

    def availability(self) -> Availability:
        """Whether this is the inbox we serve. Writes the sentinel again when it was removed from the same directory.

        The first directory seen after the start is the inbox; another one without our sentinel is an empty mount
        point, or somebody's mistake.
        """
        try:
            directory = self.path.stat()
            found = self._sentinel()
            identity = (directory.st_dev, directory.st_ino)
            if found is None and self._identity in (None, identity):
                write_whole(self.path / SENTINEL, self.installation + "\n")
                found = self.installation
        except OSError:
            return Availability.UNAVAILABLE
        if found is None:
            return Availability.UNAVAILABLE
        if found != self.installation:
            return Availability.FOREIGN
        self._identity = identity
        return Availability.AVAILABLE

    def take_over(self) -> None:
        """Make this inbox ours, whoever served it before."""
        write_whole(self.path / SENTINEL, self.installation + "\n")

    def write_read_me(self, text: str) -> None:
        """Put the note for people into the inbox, unless it is there already. Raises OSError when it cannot."""
        if self._read(READ_ME, 2 * len(text.encode())) != text.encode():
            write_whole(self.path / READ_ME, text)

    def make_folder(self, name: str) -> None:
        """Make a folder in the inbox that whoever may write to the inbox may write to as well."""
        folder = self.path / name
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(stat.S_IMODE(self.path.stat().st_mode))

    def listing(self) -> dict[str, Entry]:
        """Every name that counts, relative to the inbox with `/` between; names keep bytes that are not UTF-8.

        Raises OSError when the folder itself cannot be listed; what vanishes meanwhile is left out.
        """
        entries = dict(self._scan(""))
        folders = [path for path, entry in entries.items() if entry.kind is Kind.FOLDER]
        for _ in range(DEPTH - 1):
            deeper: dict[str, Entry] = {}
            for folder in folders:
                with suppress(OSError):
                    deeper.update(self._scan(folder + "/"))
            entries.update(deeper)
            folders = [path for path, entry in deeper.items() if entry.kind is Kind.FOLDER]
        return entries

    def open(self, path: str) -> int:
        """A descriptor of an ordinary file below the inbox. No link is followed at any level and nothing blocks.

        Raises OSError, with ELOOP or ENOTDIR for a link on the way.
        """
        return open_below(self.path, path)

    def ending(self, path: str) -> Ending:
        """How the end of a file looks. A file that cannot be read counts as closed: the intake says what is wrong."""
        try:
            head, tail = self._both_ends(path)
        except OSError:
            return Ending.CLOSED
        return _ending(split_suffix(path.rpartition("/")[2])[1], head, tail)

    def held_open(self, path: str) -> bool:
        """Whether some program has the file open for writing, as far as the kernel tells.

        Asks for a lease, which is refused while anybody could write, and gives it back at once. False where leases are
        not to be had: over a network, or for somebody else's file.
        """
        try:
            descriptor = self.open(path)
        except OSError:
            return False
        try:
            # A writer that comes in this moment breaks the lease; by default the signal for that would end us.
            fcntl(descriptor, F_SETSIG, SIGURG)
            fcntl(descriptor, F_SETLEASE, F_RDLCK)
            fcntl(descriptor, F_SETLEASE, F_UNLCK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def read_small(self, path: str) -> bytes | None:
        """The beginning of a recipe, a little more than a recipe may hold; None when it cannot be read."""
        return self._read(path, LARGEST_RECIPE + 1)

    def can_read(self, path: str) -> bool:
        try:
            os.close(self.open(path))
        except OSError:
            return False
        return True

    def entry(self, path: str) -> Entry | None:
        """How one name looks now, or None when it is gone. Raises OSError when that cannot be told."""
        try:
            with folder_below(self.path, path) as (folder, name):
                return _entry(os.stat(name, dir_fd=folder, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, path: str, entry: Entry) -> bool:
        """Remove a name if it still is what `entry` says; anything newer stays. Whether it was removed.

        Raises OSError when it cannot go.
        """
        try:
            with folder_below(self.path, path) as (folder, name):
                if _entry(os.stat(name, dir_fd=folder, follow_symlinks=False)) != entry:
                    return False
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove_folder(self, path: str) -> None:
        """Remove a dropped folder once it is empty; one that holds more is left alone."""
        with suppress(OSError), folder_below(self.path, path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def _scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        with folder_below(self.path, prefix + ".") as (folder, _), os.scandir(folder) as names:
            for found in names:
                try:
                    status = found.stat(follow_symlinks=False)
                except OSError:
                    continue
                if not ignored(found.name, folder=stat.S_ISDIR(status.st_mode)):
                    yield prefix + found.name, _entry(status)

    def _sentinel(self) -> str | None:
        """What stands in the sentinel; None when there is none. Raises OSError for one that is no ordinary file."""
        try:
            with folder_below(self.path, SENTINEL) as (folder, name):
                os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        text = self._read(SENTINEL, SENTINEL_BYTES)
        if text is None:
            raise OSError("the sentinel cannot be read")
        return text.decode(errors="replace").strip()

    def _read(self, path: str, size: int) -> bytes | None:
        try:
            descriptor = self.open(path)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return file.read(size)

    def _both_ends(self, path: str) -> tuple[bytes, bytes]:
        with os.fdopen(self.open(path), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError("no ordinary file")
            head = file.read(HEAD_BYTES)
            file.seek(max(0, status.st_size - TAIL_BYTES))
            return head, file.read(TAIL_BYTES)


def _ending(suffix: str, head: bytes, tail: bytes) -> Ending:
    if not tail:
        # A placeholder that somebody is about to fill.
        return Ending.OPEN_LINE
    text = suffix in (".jsonl", ".json", ".csv")
    if tail.endswith(ZEROS) or (text and tail.endswith(b"\0") and not head.startswith(MAY_END_IN_ZERO)):
        return Ending.NUL_BYTES
    if text and head.startswith(MAY_END_IN_ZERO):
        return Ending.CLOSED
    match suffix:
        case ".jsonl":
            closed = _closed_line(tail)
        case ".json":
            closed = tail.rstrip().endswith(b"]" if head.lstrip().startswith(b"[") else b"}")
        case ".csv":
            closed = tail.endswith((b"\n", b"\r"))
        case ".parquet":
            closed = not head.startswith(b"PAR1") or tail.endswith(b"PAR1")
        case _:
            closed = True
    return Ending.CLOSED if closed else Ending.OPEN_LINE


def _closed_line(tail: bytes) -> bool:
    """Whether the last line ends in a newline or is a whole JSON value. A line longer than the tail counts as open."""
    if tail.endswith(b"\n"):
        return True
    try:
        json.loads(tail.rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return False
    return True


def _entry(status: os.stat_result) -> Entry:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        # A folder's own size, time and links change with what is put into it; the files inside tell that better.
        return Entry(Kind.FOLDER, 0, 0, status.st_dev, status.st_ino)
    kind = Kind.FILE if stat.S_ISREG(mode) else Kind.SYMLINK if stat.S_ISLNK(mode) else Kind.OTHER
    mtime_ns = max(-_LATEST_NS, min(status.st_mtime_ns, _LATEST_NS))
    return Entry(kind, status.st_size, mtime_ns, status.st_dev, status.st_ino, status.st_nlink)
