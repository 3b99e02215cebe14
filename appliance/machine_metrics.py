"""Memory, disks and GPUs as values of the metric table. What this machine lacks has no value at all."""

from collections.abc import Iterable
from typing import Final

from appliance.gpu import GpuReading
from appliance.machine_watch import MachineReading
from appliance.memory import memory_floors, read_memory, read_pressure
from appliance.metric_table import Values
from appliance.settings import Settings


def machine_values(reading: MachineReading, settings: Settings) -> dict[str, Values]:
    """Memory is read now, from `/proc`, which never hangs; disks as they were last seen."""
    memory, pressure, cache = read_memory(), read_pressure(), reading.model_cache_bytes
    floors = memory_floors(settings, memory.total_bytes)
    return {
        "memory_total_bytes": {(): memory.total_bytes},
        "memory_available_bytes": {(): memory.available_bytes},
        "memory_guard_bytes": {("first",): floors.first_bytes, ("second",): floors.second_bytes},
        "swap_used_bytes": {(): memory.swap_used_bytes},
        "memory_pressure_waiting_seconds_total": {(): pressure.waiting_seconds} if pressure else {},
        "memory_pressure_stalled_seconds_total": {(): pressure.stalled_seconds} if pressure else {},
        "disk_free_bytes": {(volume,): space.free_bytes for volume, space in reading.disks.items()},
        "disk_size_bytes": {(volume,): space.size_bytes for volume, space in reading.disks.items()},
        "model_cache_bytes": {} if cache is None else {(): cache},
    }


_PLAIN: Final = {
    "gpu_utilization_ratio": "utilization",
    "gpu_power_watts": "power_watts",
    "gpu_temperature_celsius": "temperature_celsius",
    "gpu_sm_clock_hertz": "sm_clock_hertz",
    "gpu_sm_clock_max_hertz": "sm_clock_max_hertz",
    "gpu_energy_joules_total": "energy_joules",
}


def gpu_values(gpus: Iterable[GpuReading], settings: Settings) -> dict[str, Values]:
    """Every reading that the GPUs have."""
    gpus = tuple(gpus)
    plain = {name: _present(gpus, field) for name, field in _PLAIN.items()}
    peak = settings.gpu_peak_tflops
    return {
        **plain,
        "gpu_info": {(str(g.index), g.name, g.uuid, g.driver_version, g.memory_type): 1.0 for g in gpus},
        "gpu_throttle_active": {
            (str(gpu.index), reason): float(active) for gpu in gpus for reason, active in (gpu.throttles or {}).items()
        },
        "gpu_throttle_seconds_total": {
            (str(gpu.index), reason): spent for gpu in gpus for reason, spent in (gpu.throttle_seconds or {}).items()
        },
        "gpu_peak_flops": {} if peak is None else {("bf16",): peak * 1e12},
    }


def _present(gpus: Iterable[GpuReading], field: str) -> Values:
    found = {(str(gpu.index),): getattr(gpu, field) for gpu in gpus}
    return {labels: value for labels, value in found.items() if value is not None}
