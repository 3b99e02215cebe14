"""What this machine is, as far as planning needs to know: its memory, and whether there is a GPU. Loads no torch."""

import os
from dataclasses import dataclass
from typing import Final

import pynvml

from appliance.measurements import read_calibration
from appliance.memory import memory_reserve_bytes, read_memory
from appliance.planning.machine import Machine
from appliance.settings import Settings

# What training reaches where nothing was measured yet. GB10 sustains 60 to 80 TFLOP/s of 91 in such work.
GPU_FLOPS: Final = 70e12
SHARE_OF_PEAK: Final = 0.45
# Small matrices in 4 bit, on one core.
CPU_FLOPS_PER_CORE: Final = 1e10


def this_machine(settings: Settings) -> Machine:
    """The machine that a plan is made for, with what trainings have shown on it."""
    total = read_memory().total_bytes
    gpu = _gpu_memory(total)
    memory, unified = (total, False) if gpu is None else (gpu.total_bytes, gpu.unified)
    return Machine(
        memory_bytes=memory,
        reserve_bytes=memory_reserve_bytes(settings, memory, unified=unified),
        kind="cpu" if gpu is None else "gpu",
        flops_per_second=_cpu_flops() if gpu is None else _gpu_flops(settings),
        unified=unified,
        calibration=read_calibration(settings.state),
    )


def free_memory_bytes() -> int:
    """What a training could take now, the reserve not counted: of the GPU's own memory where it has one, else of the
    host's, whose page cache counts as free."""
    memory = read_memory()
    gpu = _gpu_memory(memory.total_bytes)
    return memory.available_bytes if gpu is None or gpu.unified else gpu.free_bytes


@dataclass(frozen=True)
class _GpuMemory:
    total_bytes: int
    free_bytes: int
    unified: bool


def _gpu_memory(machine_bytes: int) -> _GpuMemory | None:
    """Of the first GPU. NVML has no answer where the memory is the machine's own."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        found = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
        return _GpuMemory(int(found.total), int(found.free), unified=False)
    except pynvml.NVMLError_NotSupported:
        return _GpuMemory(machine_bytes, 0, unified=True)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _gpu_flops(settings: Settings) -> float:
    return settings.gpu_peak_tflops * 1e12 * SHARE_OF_PEAK if settings.gpu_peak_tflops else GPU_FLOPS


def _cpu_flops() -> float:
    return CPU_FLOPS_PER_CORE * len(os.sched_getaffinity(0))
