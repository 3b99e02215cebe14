"""How much memory this machine has. `/proc/meminfo` is the truth also where a GPU shares it."""

from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
PRESSURE = Path("/proc/pressure/memory")


@dataclass(frozen=True)
class Memory:
    """What `/proc/meminfo` says now. `available_bytes` counts page cache that can be given back."""

    total_bytes: int
    available_bytes: int


def read_memory(path: Path = MEMINFO) -> Memory:
    """MemTotal and MemAvailable."""
    kibibytes = _kibibytes(path)
    return Memory(kibibytes["MemTotal"] * 1024, kibibytes["MemAvailable"] * 1024)


def read_swap_used(path: Path = MEMINFO) -> int:
    """Bytes of swap in use."""
    kibibytes = _kibibytes(path)
    return (kibibytes.get("SwapTotal", 0) - kibibytes.get("SwapFree", 0)) * 1024


@dataclass(frozen=True)
class Pressure:
    """Seconds since boot in which some task, and in which every task, waited for memory."""

    waiting_seconds: float
    stalled_seconds: float


def read_pressure(path: Path = PRESSURE) -> Pressure | None:
    """Pressure stall information; None on a kernel without it."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    totals = {words[0]: int(words[-1].partition("=")[2]) / 1e6 for words in map(str.split, lines)}
    return Pressure(totals["some"], totals["full"]) if {"some", "full"} <= set(totals) else None


def _kibibytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
