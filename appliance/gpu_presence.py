"""Whether there is a GPU where one belongs, and what memory is free: a broken driver holds the queue, not the loop."""

import importlib.metadata
from typing import Final

import pynvml

from appliance.hardware import free_memory_bytes
from appliance.machine_watch import Watched

EVERY_SECONDS: Final = 15.0
FREE_EVERY_SECONDS: Final = 5.0
# Part of the libraries that a training on a GPU needs, and of no lock file for machines without one.
CUDA_LIBRARY: Final = "nvidia-cuda-runtime"
NO_GPU: Final = "no GPU can be found; docs/operations.md says what to look at"


class GpuPresence:
    """Asks NVML again and again, in threads of its own: a broken driver may hang whoever asks."""

    def __init__(self, *, expected: bool | None = None) -> None:
        """`expected`: whether this installation trains on a GPU; by default, whether it has the libraries for it."""
        self._expected = has_cuda_libraries() if expected is None else expected
        self._watched = Watched(find_fault, name="gpu presence", every_seconds=EVERY_SECONDS)
        self._free = Watched(free_memory_bytes, name="free memory", every_seconds=FREE_EVERY_SECONDS)
        self._has_begun = False

    def start(self) -> None:
        self._has_begun = True
        self._free.start()
        if self._expected:
            self._watched.start()

    def close(self) -> None:
        self._watched.stop()
        self._free.stop()

    def free_bytes(self) -> int | None:
        """What a training could take; None while nobody answers. Before the start it is read on the spot."""
        return self._free.value() if self._has_begun else free_memory_bytes()

    def fault(self) -> str | None:
        """What is wrong, for people; None when the GPU answers or none is expected."""
        if self._watched.overdue:
            return "the GPU's driver does not answer; docs/operations.md says what to look at"
        return self._watched.value()


def find_fault() -> str | None:
    """None when NVML finds a GPU, else what it says instead."""
    try:
        pynvml.nvmlInit()
        try:
            return None if pynvml.nvmlDeviceGetCount() else NO_GPU
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return f"no GPU answers: {error}; docs/operations.md says what to look at"


def has_cuda_libraries() -> bool:
    """Whether what is installed here is made for a GPU."""
    try:
        importlib.metadata.distribution(CUDA_LIBRARY)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
