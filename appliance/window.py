"""The hours in which training is allowed, such as `20:00-07:00`. Pure: local times come in, answers go out."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

_FORM: Final = re.compile(r"\s*(\d{1,2}):(\d{2})\s*[-–]\s*(\d{1,2}):(\d{2})\s*")


@dataclass(frozen=True)
class Window:
    """From one time of day to another, over midnight when the second is the earlier. In minutes after midnight."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`20:00-07:00`. Raises ValueError saying what would work."""
        found = _FORM.fullmatch(text)
        hours = [int(part) for part in found.groups()] if found else []
        if not hours or not _is_time(*hours[:2]) or not _is_time(*hours[2:]):
            raise ValueError("it must be a span of hours such as 20:00-07:00")
        if hours[:2] == hours[2:]:
            raise ValueError("it ends when it begins; write hours such as 20:00-07:00, or leave it out")
        return cls(hours[0] * 60 + hours[1], hours[2] * 60 + hours[3])

    def is_open(self, local: datetime) -> bool:
        """Whether training is allowed at this local time. The first minute belongs to it, the last does not."""
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def opens(self, local: datetime) -> datetime:
        """When it opens next, for somebody who waits outside of it."""
        today = local.replace(hour=self.start // 60, minute=self.start % 60, second=0, microsecond=0)
        return today if today > local else today + timedelta(days=1)

    def __str__(self) -> str:
        return f"{_clock(self.start)}–{_clock(self.end)}"


def _is_time(hour: int, minute: int) -> bool:
    return hour < 24 and minute < 60


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
