"""How things stand in the loop, for readers in other threads: pages, metrics, the board."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from appliance.inbox import Availability
from appliance.progress import Progress
from appliance.running import Running
from appliance.settling import Drop

# How long the metrics of a job stay after its end: long enough for any scrape interval.
KEEP_SERIES_SECONDS: Final = 15 * 60


@dataclass(frozen=True)
class View:
    """What readers in other threads may know of the loop: replaced as a whole at every turn."""

    time: float
    monotonic: float
    ready: bool
    availability: Availability
    drops: tuple[Drop, ...]
    running: tuple[Running, ...]
    trained: Mapping[int, Progress]
    last_scan: float | None
    paused: bool
    trouble: str | None = None
    notes: tuple[tuple[str, str], ...] = ()
    """Names in the inbox that are no drops, each with what is to be said of it."""
    guard_turn: float = 0.0
    """When the memory guard last looked."""
    board_turn: float = 0.0
    """When the thread that writes into the outbox last did not hang."""

    def wall(self, monotonic: float) -> float:
        """A moment of the monotonic clock as Unix seconds."""
        return self.time - (self.monotonic - monotonic)

    def running_of(self, number: int) -> Running | None:
        """What a stage works on of this job, if one does."""
        return next((entry for entry in self.running if entry.job.number == number), None)

    def last_progress(self, number: int) -> float | None:
        """When a job last reported anything; the beginning of its stage while that has said nothing yet."""
        running = self.running_of(number)
        if running is not None:
            return running.progress.last_event or self.wall(running.began)
        trained = self.trained.get(number)
        return trained.last_event if trained else None
