"""The inbox folder: listing it, opening what lies in it without being led astray, removing what was taken."""

import json
import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from appliance.drops import Ending, Entry, Kind
from appliance.files import open_below, write_whole
from appliance.names import READ_ME, SENTINEL, ignored, split_suffix

# check/, a recipe folder, a dropped folder, and the files in it.
DEPTH = 4
HEAD_BYTES = 64
TAIL_BYTES = 65536
# A recipe may hold 64 KiB; one byte more shows that it is too long.
RECIPE_BYTES = 65536 + 1


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
        """Put the note for people into the inbox, unless it is there already."""
        path = self.path / READ_ME
        if not path.exists() or path.read_bytes() != text.encode():
            write_whole(path, text)

    def listing(self) -> dict[str, Entry]:
        """Every name that counts, relative to the inbox with `/` between; names keep bytes that are not UTF-8.

        Raises OSError when the folder itself cannot be listed; what vanishes meanwhile is left out.
        """
        entries = dict(_scan(self.path, ""))
        folders = [path for path, entry in entries.items() if entry.kind is Kind.FOLDER]
        for _ in range(DEPTH - 1):
            deeper: dict[str, Entry] = {}
            for folder in folders:
                try:
                    deeper.update(_scan(self.path / folder, folder + "/"))
                except OSError:
                    continue
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
        _, suffix = split_suffix(path.rpartition("/")[2])
        if tail.endswith(b"\0") and suffix in (".jsonl", ".json", ".csv"):
            return Ending.NUL_BYTES
        if suffix == ".jsonl" and not _closed_line(tail):
            return Ending.OPEN_LINE
        closing = b"]" if head.lstrip().startswith(b"[") else b"}"
        if suffix == ".json" and not tail.rstrip().endswith(closing):
            return Ending.OPEN_LINE
        return Ending.CLOSED

    def read_small(self, path: str) -> bytes | None:
        """The beginning of a recipe, a little more than a recipe may hold; None when it cannot be read."""
        try:
            descriptor = self.open(path)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return file.read(RECIPE_BYTES)

    def entry(self, path: str) -> Entry | None:
        """How one name looks now, or None when it is gone. Raises OSError when that cannot be told."""
        try:
            return _entry(os.lstat(self.path / path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, path: str, entry: Entry) -> None:
        """Remove a name if it still is what `entry` says; anything newer stays. Raises OSError when it cannot go."""
        if self.entry(path) == entry:
            (self.path / path).unlink()

    def remove_folder(self, path: str) -> None:
        """Remove a dropped folder once it is empty; one that holds more is left alone."""
        try:
            (self.path / path).rmdir()
        except OSError:
            return

    def _sentinel(self) -> str | None:
        try:
            return (self.path / SENTINEL).read_text().strip()
        except FileNotFoundError:
            return None

    def _both_ends(self, path: str) -> tuple[bytes, bytes]:
        with os.fdopen(self.open(path), "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return head, file.read(TAIL_BYTES)


def _closed_line(tail: bytes) -> bool:
    """Whether the last line ends in a newline or is a whole JSON value. A line longer than the tail counts as open."""
    if not tail or tail.endswith(b"\n"):
        return True
    try:
        json.loads(tail.rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return False
    return True


def _scan(folder: Path, prefix: str) -> Iterator[tuple[str, Entry]]:
    with os.scandir(folder) as names:
        for found in names:
            try:
                status = found.stat(follow_symlinks=False)
            except OSError:
                continue
            if not ignored(found.name, folder=stat.S_ISDIR(status.st_mode)):
                yield prefix + found.name, _entry(status)


def _entry(status: os.stat_result) -> Entry:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        # A folder's own size, time and links change with what is put into it; the files inside tell that better.
        return Entry(Kind.FOLDER, 0, 0, status.st_dev, status.st_ino)
    kind = Kind.FILE if stat.S_ISREG(mode) else Kind.SYMLINK if stat.S_ISLNK(mode) else Kind.OTHER
    return Entry(kind, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino, status.st_nlink)
