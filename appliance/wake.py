"""Waiting that a signal, or another thread, can end at once."""

import os
import select
import signal
from types import FrameType


class Wake:
    """A pipe that the loop sleeps on. Safe to write to from a signal handler: no lock is taken."""

    def __init__(self) -> None:
        self.stopping = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def stop_on_signals(self) -> None:
        """From now on SIGTERM and SIGINT set `stopping` and end the wait."""

        def request_stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True
            self.now()

        signal.signal(signal.SIGTERM, request_stop)
        signal.signal(signal.SIGINT, request_stop)

    def now(self) -> None:
        """End the wait of the loop."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            # The pipe is full: the loop is awake already.
            return

    def wait(self, seconds: float) -> bool:
        """Sleep until woken or until the time is over. True when woken."""
        woken = bool(select.select([self._reader], [], [], seconds)[0])
        if woken:
            os.read(self._reader, 65536)
        return woken

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
