"""What a listing of the inbox saw, and since when each file has looked so. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


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

    @property
    def is_plain(self) -> bool:
        """An ordinary file with one name: the only thing that is ever opened."""
        return self.kind is Kind.FILE and self.links == 1

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """The very file, whatever it is called."""
        return (self.device, self.inode, self.mtime_ns, self.size)


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


def observe(known: Mapping[str, Sighting], listing: Mapping[str, Entry], *, now: float) -> dict[str, Sighting]:
    """Fold a new listing into what we knew. A changed file starts its wait again."""
    return {
        path: known[path] if path in known and known[path].entry == entry else Sighting(entry, since=now)
        for path, entry in listing.items()
    }
