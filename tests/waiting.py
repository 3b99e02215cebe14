"""Waiting for what threads and processes do in their own time."""

import time
from collections.abc import Callable

SECONDS = 60.0


def until(condition: Callable[[], object]) -> None:
    """Return when it holds; fail when it does not for a minute."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
