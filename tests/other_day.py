"""Processes that live on another day."""

from pathlib import Path

from tests.clock import Clock

DAY_SECONDS = 86_400


def days_ahead(folder: Path, days: int) -> dict[str, str]:
    """The environment of a process that is `days` ahead of us; what that takes is made in `folder`."""
    own = folder / f"{days}-days-ahead"
    own.mkdir()
    clock = Clock(own)
    clock.jump(days * DAY_SECONDS)
    return clock.environment
