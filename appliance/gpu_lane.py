"""When the GPU may be used: not while the queue is paused, outside the window, without a GPU that answers, before the
last stage's memory has come back, or before the server that shares it has made room."""

import logging
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Final

from appliance.exits import StageEnd, backoff_seconds
from appliance.guard import MemoryGuard
from appliance.job import Waiting
from appliance.neighbour import Neighbour, neighbour_of
from appliance.settings import Settings
from appliance.store import Store
from appliance.window import Window

logger = logging.getLogger(__name__)

# A driver may take a minute and more to give back what a process that ended had.
MEMORY_BACK_SECONDS: Final = 120.0
# What else on a machine takes and gives while a training runs: below it nothing is waited for.
MEMORY_BACK_TOLERANCE: Final = 0.05
# How long nothing is sent after a stage to a GPU that it found gone.
GONE_SECONDS: Final = 60.0
# How long the neighbour's room may be too little for all who wait, before it works on; and for how long, at first.
VAIN_SECONDS: Final = 300.0
LEFT_ALONE_SECONDS: Final = 600.0
GB: Final = 10**9
TAKEN: Final = "gpu taken"
BLIND: Final = "the memory guard cannot read how much memory is free, so nothing begins on the GPU; the log says why"

Closed = tuple[Waiting, str]


class GpuLane:
    """Says whether the lane is open, and keeps the neighbour told. Asked once a turn."""

    def __init__(
        self,
        store: Store,
        guard: MemoryGuard,
        neighbour: Neighbour,
        *,
        window: Window | None = None,
        fault: Callable[[], str | None] = lambda: None,
        zone: tzinfo | None = None,
    ) -> None:
        """`fault` says what is wrong with the GPU, if anything; `zone` is the machine's own when None."""
        self._store = store
        self._guard = guard
        self._neighbour = neighbour
        self._window = window
        self._fault = fault
        self._zone = zone
        self._before: int | None = None
        self._ended: float | None = None
        self._gone, self._gone_until = "", float("-inf")
        self._in_vain_since: float | None = None
        self._in_vain, self._left_alone_until = 0, float("-inf")

    def closed(self, now: float, wall: float, *, paused: bool) -> Closed | None:
        """Why no stage may begin on the GPU, with the details for people; None when one may."""
        if paused:
            return Waiting.PAUSED, ""
        if self.is_outside_window(wall):
            return Waiting.WINDOW, self._hours(wall)
        if (fault := self._fault()) is not None:
            return Waiting.GPU, fault
        if now < self._gone_until:
            return Waiting.GPU, self._gone
        if self._guard.is_blind:
            return Waiting.GPU, BLIND
        return self._short_of_memory(now)

    def is_outside_window(self, wall: float) -> bool:
        return self._window is not None and not self._window.is_open(self._local(wall))

    def take(self) -> Closed | None:
        """Have the neighbour make room; None once the GPU is ours. The stage that wants it begins then."""
        if (closed := self._ask()) is not None:
            return closed
        self._before = self._guard.reading.memory.available_bytes
        self._forget_what_was_in_vain()
        return None

    def ask_for_room(self, now: float) -> Closed | None:
        """Have the neighbour make room for what does not fit yet; where that is of no use, let it work for a while."""
        if now < self._left_alone_until:
            self._give_back(now)
            return None
        if (closed := self._ask()) is not None:
            return closed
        if self._in_vain_since is None:
            self._in_vain_since = now
        elif now - self._in_vain_since >= VAIN_SECONDS:
            self._in_vain_since, self._in_vain = None, self._in_vain + 1
            self._left_alone_until = now + backoff_seconds(self._in_vain, first=LEFT_ALONE_SECONDS)
            self._give_back(now)
        return None

    def ended(self, now: float, end: StageEnd) -> None:
        """A stage on the GPU has ended: its memory is waited for, and the GPU itself where the stage found none."""
        self._ended = now
        if end.waiting is Waiting.GPU:
            self._gone, self._gone_until = end.message, now + GONE_SECONDS

    def idle(self, now: float) -> None:
        """Nothing runs on the GPU and nothing is about to: the neighbour may have it, with its memory."""
        self._forget_what_was_in_vain()
        self._give_back(now)

    def close(self) -> None:
        self._neighbour.close()
        if not self._neighbour.is_ours_or_moving:
            self._note_taken(False)

    def _give_back(self, now: float) -> None:
        if now < self._gone_until or self._guard.is_blind or self._short_of_memory(now) is not None:
            # Whoever wakes now takes the very memory that is on its way back, or the last that the machine has.
            return
        self._neighbour.give_back()
        if not self._neighbour.is_ours_or_moving:
            self._note_taken(False)

    def _forget_what_was_in_vain(self) -> None:
        self._in_vain_since = None
        self._in_vain, self._left_alone_until = 0, float("-inf")

    def _ask(self) -> Closed | None:
        # Before the word is out: whoever kills us now leaves a neighbour behind that waits to be told.
        self._note_taken(True)
        if not self._neighbour.take():
            return Waiting.GPU, "the server that shares the GPU is asked to make room"
        return None

    def _short_of_memory(self, now: float) -> Closed | None:
        available, floor = self._guard.reading.memory.available_bytes, self._guard.floors.first_bytes
        if available <= floor:
            # It would be stopped as soon as it began.
            return Waiting.MEMORY, f"{available / GB:.1f} GB are free, and {floor / GB:.1f} GB must stay free"
        if self._ended is None or self._before is None:
            return None
        missing = self._before * (1 - MEMORY_BACK_TOLERANCE) - available
        if missing <= 0 or now - self._ended > MEMORY_BACK_SECONDS:
            self._ended = None
            return None
        return Waiting.MEMORY, f"the last stage's memory comes back: {missing / GB:.1f} GB are still missing"

    def _note_taken(self, taken: bool) -> None:
        if self._neighbour.is_told and (self._store.fact(TAKEN) == "True") is not taken:
            self._store.set_fact(TAKEN, str(taken))

    def _hours(self, wall: float) -> str:
        local = self._local(wall)
        assert self._window is not None, "asked only outside of a window"
        return f"training is allowed {self._window}; it goes on at {self._window.opens(local):%H:%M}"

    def _local(self, wall: float) -> datetime:
        return datetime.fromtimestamp(wall, self._zone).astimezone(self._zone)


def lane_of(settings: Settings, store: Store, guard: MemoryGuard, *, fault: Callable[[], str | None]) -> GpuLane:
    """The lane of the installation that the settings name."""
    neighbour = neighbour_of(settings, is_ours=store.fact(TAKEN) == "True")
    window = Window.parse(settings.train_window) if settings.train_window else None
    return GpuLane(store, guard, neighbour, window=window, fault=fault)
