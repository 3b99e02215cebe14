"""This machine in words and in a bar, for the pages."""

from dataclasses import dataclass

from appliance.gpu import GpuReading
from appliance.machine_watch import MachineReading
from appliance.memory import memory_floors, read_memory
from appliance.settings import Settings
from appliance.texts.wording import percent, size


@dataclass(frozen=True)
class MemoryBar:
    """Memory in use and the floors, in thousandths of all memory from the left; and the same in words."""

    used: int
    floors: tuple[int, ...]
    words: str


def memory_bar(settings: Settings) -> MemoryBar:
    """How much is in use, and where the guard stops a training."""
    memory = read_memory()
    total, free = memory.total_bytes, memory.available_bytes
    floors = memory_floors(settings, total)
    return MemoryBar(
        used=round(1000 * (total - free) / total),
        floors=tuple(round(1000 * (total - f) / total) for f in (floors.first_bytes, floors.second_bytes) if f > 0),
        words=f"{size(free)} of {size(total)} are free; below {size(floors.first_bytes)} a training saves and stops",
    )


def disks(reading: MachineReading, settings: Settings) -> list[tuple[str, str, str]]:
    """Each folder, where it lies, and what is free there."""
    folders = {"inbox": settings.inbox, "outbox": settings.outbox, "state": settings.state}
    rows = []
    for name, folder in folders.items():
        space = reading.disks.get(name)
        free = f"{size(space.free_bytes)} of {size(space.size_bytes)}" if space else "does not answer"
        rows.append((name, str(folder.resolve()), free))
    return rows


def gpu_facts(gpu: GpuReading) -> list[tuple[str, str]]:
    """What a GPU says of itself; what it cannot tell is left out."""
    clock = gpu.sm_clock_hertz and f"{gpu.sm_clock_hertz / 1e6:,.0f} MHz"
    if clock and gpu.sm_clock_max_hertz:
        clock += f" of {gpu.sm_clock_max_hertz / 1e6:,.0f} MHz"
    held_down = [reason for reason, active in (gpu.throttles or {}).items() if active]
    facts = [
        ("name", gpu.name),
        ("driver", gpu.driver_version),
        ("utilisation", "" if gpu.utilization is None else percent(gpu.utilization)),
        ("power", "" if gpu.power_watts is None else f"{gpu.power_watts:.0f} W"),
        ("temperature", "" if gpu.temperature_celsius is None else f"{gpu.temperature_celsius:.0f} °C"),
        ("clock", clock or ""),
        ("held down by", ", ".join(held_down)),
    ]
    return [(name, value) for name, value in facts if value]
