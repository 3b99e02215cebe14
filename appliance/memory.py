"""How much memory this machine has. `/proc/meminfo` is the truth also where a GPU shares it."""

from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Memory:
    """What `/proc/meminfo` says now. `available_bytes` counts page cache that can be given back."""

    total_bytes: int
    available_bytes: int


def read_memory(path: Path = MEMINFO) -> Memory:
    """MemTotal and MemAvailable."""
    lines = (line.split() for line in path.read_text().splitlines())
    kibibytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return Memory(kibibytes["MemTotal"] * 1024, kibibytes["MemAvailable"] * 1024)
