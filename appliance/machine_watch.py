"""The machine as readers see it: disks, GPUs and the model cache, each read again and again by a thread of its own.

A network share, a broken driver or a folder of a million files may hang whoever asks. Here each hangs alone, and what
has not been read for a while is not reported at all.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from appliance.disk import Space, existing, space_of
from appliance.gpu import GpuReader, GpuReading, NvmlDriver
from appliance.models import cache_folder, size_of
from appliance.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_SECONDS: Final = 5.0
# Walking through the model cache touches every file of it.
CACHE_EVERY_SECONDS: Final = 60.0
# A reading that is older than this many rounds is none.
STALE_ROUNDS: Final = 3


class Watched(Generic[T]):
    """One reading, taken anew every few seconds in a thread of its own."""

    def __init__(self, read: Callable[[], T], *, name: str, every_seconds: float = EVERY_SECONDS) -> None:
        self.last_turn = 0.0
        """When the thread last turned, in Unix seconds."""
        self._read = read
        self._every_seconds = every_seconds
        self._value: T | None = None
        self._taken = self._began = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end; one that hangs is left behind."""
        self._stop.set()

    @property
    def overdue(self) -> bool:
        """Whether the thread was started and has not answered for too long."""
        answered = max(self._taken, self._began)
        return self._thread.is_alive() and time.monotonic() - answered > STALE_ROUNDS * self._every_seconds

    def value(self) -> T | None:
        """The newest reading; None when there is none, or none that is fresh."""
        fresh = time.monotonic() - self._taken <= STALE_ROUNDS * self._every_seconds
        return self._value if fresh else None

    def turn(self) -> None:
        """Take one reading. A disk that does not answer has none."""
        self.last_turn = time.time()
        try:
            self._value = self._read()
        except OSError:
            self._value = None
        except Exception:
            # Whatever it is, the next reading may succeed; a watch that has ended sees nothing any more.
            logger.exception("%s could not be read", self._thread.name)
            self._value = None
        self._taken = time.monotonic()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.turn()
            self._stop.wait(self._every_seconds)


@dataclass(frozen=True)
class MachineReading:
    """What was last read; a volume, a GPU or a size that did not answer lately is missing."""

    disks: Mapping[str, Space]
    gpus: tuple[GpuReading, ...] = ()
    model_cache_bytes: int | None = None
    gpu_last_turn: float = 0.0


NOTHING_READ: Final = MachineReading({})


class MachineWatch:
    """The threads that read this machine, and what they found last."""

    def __init__(self, settings: Settings, gpu: GpuReader, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._gpu_reader = gpu
        self._gpu_hangs = False
        cache = cache_folder(settings)
        volumes = {"inbox": settings.inbox, "outbox": settings.outbox, "state": settings.state, "cache": cache}
        self._disks = {
            name: Watched(partial(_space_above, folder), name=f"disk-{name}", every_seconds=every_seconds)
            for name, folder in volumes.items()
        }
        self._gpu = Watched(gpu.read, name="gpu", every_seconds=every_seconds)
        self._models = Watched(
            lambda: size_of(cache) + size_of(settings.models),
            name="models",
            every_seconds=max(CACHE_EVERY_SECONDS, every_seconds),
        )
        self._all: list[Watched[Any]] = [*self._disks.values(), self._gpu, self._models]

    def start(self) -> None:
        for watched in self._all:
            watched.start()

    def stop(self) -> None:
        for watched in self._all:
            watched.stop()

    def reading(self) -> MachineReading:
        """What is known now. Answers at once, whatever hangs."""
        hung, self._gpu_hangs = self._gpu_hangs, self._gpu.overdue
        if self._gpu_hangs and not hung:
            self._gpu_reader.on_error("deadline")
        disks = {name: space for name, watched in self._disks.items() if (space := watched.value()) is not None}
        return MachineReading(disks, self._gpu.value() or (), self._models.value(), self._gpu.last_turn)


def watch_machine(settings: Settings, *, count_error: Callable[[str], None]) -> MachineWatch:
    """The watch over this very machine. `count_error` is told which question the GPU's driver failed at."""
    return MachineWatch(settings, GpuReader(NvmlDriver(), on_error=count_error))


def _space_above(folder: Path) -> Space:
    # The cache is made by the first download; until then its disk is that of the folder above it.
    return space_of(existing(folder))
