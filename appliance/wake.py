"""Waiting that a signal, another thread or a change in a folder can end at once."""

import logging
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

logger = logging.getLogger(__name__)


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


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("opened", "closed_no_write"):
            self._wake()


def watch_folder(path: Path, wake: Callable[[], None]) -> BaseObserver | None:
    """File events as a hint to look earlier. The listing decides; without events it only takes a little longer."""
    observer = Observer()
    try:
        observer.schedule(_Waker(wake), str(path), recursive=True)
        observer.start()
    except OSError as error:
        logger.info("no file events on the inbox (%s); it is listed regularly all the same", error.strerror)
        return None
    return observer
