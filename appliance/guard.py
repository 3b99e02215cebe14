"""The memory guard: a thread that stops the GPU stage before the machine runs out of memory.

On a machine whose GPU shares the host's memory, running out raises no error: it freezes the host until somebody pulls
the plug. So the guard stands outside of the training and looks five times a second. Below the first floor the stage is
asked to save and stop, below the second its whole process group is killed. It does nothing else, waits for nobody, and
works while the loop is stuck.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.memory import Floors, Pressure, Reading, read_machine
from appliance.processes import StageProcess

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2
# Without a reading for so long it could stop nothing in time.
BLIND_SECONDS: Final = 5.0
# Everything standing still for this share of these seconds is running out of memory too, whatever is said to be free.
PRESSURE_SECONDS: Final = 5.0
PRESSURE_SHARE: Final = 0.5
# How long the machine may go on like that after the stage was asked to stop.
PRESSURE_PATIENCE_SECONDS: Final = 15.0
GB: Final = 10**9


class Floor(StrEnum):
    FIRST = "first"
    SECOND = "second"


@dataclass(frozen=True)
class Trip:
    """The guard acted on a stage: at which floor, when (monotonic), and what it saw."""

    floor: Floor
    time: float
    available_bytes: int
    by_pressure: bool = False


class MemoryGuard:
    """Watches at most one stage at a time: there is one GPU."""

    def __init__(
        self,
        floors: Floors,
        *,
        read: Callable[[], Reading] = read_machine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.floors = floors
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._process: StageProcess | None = None
        self._trip: Trip | None = None
        self._asked_at: float | None = None
        self._untold: list[Trip] = []
        self._stalls: deque[tuple[float, float]] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading, self._read_at = read(), clock()
        self.last_turn = 0.0
        """When the thread last looked and saw something, or began, in Unix seconds; 0 before that."""

    def start(self) -> None:
        """Look from now on, in a thread of its own."""
        self.last_turn = time.time()
        self._thread = threading.Thread(target=self._run, name="memory guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def reading(self) -> Reading:
        """The newest reading: at most a fifth of a second old while the thread runs and is not blind."""
        return self._reading

    @property
    def is_blind(self) -> bool:
        """Whether the machine's memory could not be read for some seconds."""
        return self._clock() - self._read_at > BLIND_SECONDS

    def news(self) -> list[Trip]:
        """What the guard did since this was last asked."""
        with self._lock:
            news, self._untold = self._untold, []
            return news

    def watch(self, process: StageProcess) -> None:
        """Guard the machine against this stage from now on."""
        with self._lock:
            self._process, self._trip, self._asked_at = process, None, None

    def trip(self, process: StageProcess) -> Trip | None:
        """What the guard has done to this stage, if anything; the last thing counts."""
        with self._lock:
            return self._trip if process is self._process else None

    def release(self, process: StageProcess) -> None:
        """The stage has ended, and what the guard did to it is written down."""
        with self._lock:
            if process is self._process:
                self._process, self._trip, self._asked_at = None, None, None

    def look(self) -> None:
        """One look, and what follows from it."""
        self._reading = reading = self._read()
        self._read_at = now = self._clock()
        pressed = self._is_pressed(reading.pressure, now)
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                return
            floor = self._crossed(reading.memory.available_bytes, pressed, now)
            already = self._trip.floor if self._trip else None
            if floor is None or floor is already or already is Floor.SECOND:
                return
            by_pressure = reading.memory.available_bytes >= self.floors.first_bytes
            self._trip = Trip(floor, now, reading.memory.available_bytes, by_pressure)
            self._untold.append(self._trip)
            if floor is Floor.FIRST:
                self._asked_at = now
                process.ask_to_stop()
            else:
                process.kill()
        # After acting: a log may be a full disk or a slow terminal.
        logger.warning(describe(self._trip, self.floors))

    def _crossed(self, available: int, pressed: bool, now: float) -> Floor | None:
        if available < self.floors.second_bytes:
            return Floor.SECOND
        if pressed and self._asked_at is not None and now - self._asked_at > PRESSURE_PATIENCE_SECONDS:
            return Floor.SECOND
        return Floor.FIRST if pressed or available < self.floors.first_bytes else None

    def _is_pressed(self, pressure: Pressure | None, now: float) -> bool:
        """Whether everything stood still, waiting for memory, for most of the last seconds."""
        if pressure is None:
            return False
        self._stalls.append((now, pressure.stalled_seconds))
        while now - self._stalls[0][0] > PRESSURE_SECONDS:
            self._stalls.popleft()
        since, before = self._stalls[0]
        enough = now - since >= PRESSURE_SECONDS / 2
        return enough and pressure.stalled_seconds - before >= PRESSURE_SHARE * (now - since)

    def _run(self) -> None:
        told = ""
        while not self._closing.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:
                # Whatever it is, the next look may succeed; a guard that has ended protects nobody.
                if repr(error) != told:
                    logger.exception("the memory guard met an error; it is logged once")
                told = repr(error)
            else:
                if told:
                    logger.warning("the memory guard works again")
                told, self.last_turn = "", time.time()


def describe(trip: Trip, floors: Floors) -> str:
    """What the guard saw and did, as a sentence."""
    done = "was asked to save and stop" if trip.floor is Floor.FIRST else "was killed"
    if trip.by_pressure:
        return f"the machine stood still waiting for memory, so the stage on the GPU {done}"
    floor = floors.first_bytes if trip.floor is Floor.FIRST else floors.second_bytes
    return (
        f"only {trip.available_bytes / GB:.1f} GB of memory were left, less than the floor of {floor / GB:.1f} GB,"
        f" so the stage on the GPU {done}"
    )
