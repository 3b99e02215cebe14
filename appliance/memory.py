"""How much memory this machine has, how hard it is pressed, and how much of it must stay free.

`/proc/meminfo` is the truth also where a GPU shares it.
"""

import contextlib
import ctypes
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.errors import ApplianceError
from appliance.settings import PREFIX, Settings

MEMINFO: Final = Path("/proc/meminfo")
PRESSURE: Final = Path("/proc/pressure/memory")
GB: Final = 10**9
# A machine smaller than the one that the defaults are made for keeps this share of its memory instead.
FIRST_FLOOR_SHARE: Final = 0.08
SECOND_FLOOR_SHARE: Final = 0.04
_LOCK_ALL_AS_TOUCHED: Final = 1 | 2 | 4  # MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT


@dataclass(frozen=True)
class Memory:
    """What `/proc/meminfo` says now. `available_bytes` counts page cache that can be given back."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int = 0


@dataclass(frozen=True)
class Pressure:
    """Since the machine started: how long some process waited for memory, and how long all of them did at once."""

    waiting_seconds: float
    stalled_seconds: float


@dataclass(frozen=True)
class Reading:
    """One look at the machine, as the guard takes it. Without a kernel that counts pressure there is none."""

    memory: Memory
    pressure: Pressure | None = None


@dataclass(frozen=True)
class Floors:
    """Available memory below which a training is asked to save and stop, and below which it is killed."""

    first_bytes: int
    second_bytes: int


def read_memory(path: Path = MEMINFO) -> Memory:
    """MemTotal, MemAvailable and the swap in use."""
    lines = (line.split() for line in path.read_text().splitlines())
    kibibytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    swap = kibibytes.get("SwapTotal", 0) - kibibytes.get("SwapFree", 0)
    return Memory(kibibytes["MemTotal"] * 1024, kibibytes["MemAvailable"] * 1024, swap * 1024)


def read_pressure(path: Path = PRESSURE) -> Pressure | None:
    """The kernel's pressure stall information; None where it has none (or does not show it to a container)."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    # some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS, and the same for "full".
    totals = {line.split()[0]: int(line.rpartition("total=")[2]) / 1e6 for line in lines}
    return Pressure(totals.get("some", 0.0), totals.get("full", 0.0))


def read_machine() -> Reading:
    """Memory and pressure as they are now."""
    return Reading(read_memory(), read_pressure())


def memory_floors(settings: Settings, total_bytes: int) -> Floors:
    """The floors as they are set; the defaults never take more than a share of a small machine.

    Raises ApplianceError when the second does not lie below the first.
    """
    first, second = settings.memory_floor_gb * GB, settings.memory_kill_floor_gb * GB
    if "memory_floor_gb" not in settings.model_fields_set:
        first = min(first, FIRST_FLOOR_SHARE * total_bytes)
    if "memory_kill_floor_gb" not in settings.model_fields_set:
        second = min(second, SECOND_FLOOR_SHARE * total_bytes, first / 2)
    if second >= first > 0:
        raise ApplianceError(
            f"{PREFIX}MEMORY_KILL_FLOOR_GB is {second / GB:g} and {PREFIX}MEMORY_FLOOR_GB is {first / GB:g}",
            hint="The floor at which a training is killed must lie below the one at which it may still save.",
        )
    return Floors(int(first), int(second))


def memory_reserve_bytes(settings: Settings, total_bytes: int, *, unified: bool) -> int:
    """What a training must leave alone of one memory.

    Where CPU and GPU share it, running out of it freezes the host, so the whole reserve is kept (of a small machine at
    most half). Elsewhere it is an ordinary error, and an eighth is enough.
    """
    return min(int(settings.memory_reserve_gb * GB), total_bytes // (2 if unified else 8))


def stay_in_memory() -> bool:
    """Keep this process's pages in memory, so that it can act while everything else waits for memory.

    False where that is not allowed without a limit: under one, growing beyond it would fail instead.
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        return False
    return bool(ctypes.CDLL(None).mlockall(_LOCK_ALL_AS_TOUCHED) == 0)
