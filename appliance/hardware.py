"""What this machine is, as far as planning needs to know: its memory, and whether there is a GPU. Loads no torch."""

import os
from typing import Final

import pynvml

from appliance.memory import read_memory
from appliance.planning.fitting import Machine
from appliance.settings import Settings

# What training reaches where nothing was measured yet. GB10 sustains 60 to 80 TFLOP/s of 91 in such work.
GPU_FLOPS: Final = 70e12
SHARE_OF_PEAK: Final = 0.45
# Small matrices in 4 bit, on one core.
CPU_FLOPS_PER_CORE: Final = 1e10


def this_machine(settings: Settings) -> Machine:
    """The machine that a plan is made for. The reserve never takes more than half of a small one."""
    total = read_memory().total_bytes
    gpu = gpu_memory_bytes(total)
    memory = total if gpu is None else gpu
    return Machine(
        memory_bytes=memory,
        reserve_bytes=min(int(settings.memory_reserve_gb * 1e9), memory // 2),
        kind="cpu" if gpu is None else "gpu",
        flops_per_second=_cpu_flops() if gpu is None else _gpu_flops(settings),
    )


def gpu_memory_bytes(machine_bytes: int) -> int | None:
    """The memory of the first GPU; the machine's own where the two share it; None without a GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total)
    except pynvml.NVMLError_NotSupported:
        return machine_bytes
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _gpu_flops(settings: Settings) -> float:
    return settings.gpu_peak_tflops * 1e12 * SHARE_OF_PEAK if settings.gpu_peak_tflops else GPU_FLOPS


def _cpu_flops() -> float:
    return CPU_FLOPS_PER_CORE * len(os.sched_getaffinity(0))
