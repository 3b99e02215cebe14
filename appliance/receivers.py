"""Those who are told: each address has a thread and a short queue of its own, so that a dead one delays nobody."""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

from appliance.metric_table import Notice
from appliance.processes import FOR_NETWORK, PASSED_ON
from appliance.send_notice import NO_ADDRESS, SENT
from appliance.texts.notices import Message

logger = logging.getLogger(__name__)

QUEUED: Final = 50
SEND_SECONDS: Final = 60.0
# Before each try. A receiver that is down for longer than this misses the notification, not the board.
PAUSES_SECONDS: Final = (0.0, 10.0, 60.0)

Count = Callable[[Notice, str], None]


class Receiver:
    """One address of APPLIANCE_NOTIFY_URLS."""

    def __init__(self, url: str, count: Count, *, pauses_seconds: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self._url = url
        self._name = url.partition("://")[0]
        self._count = count
        self._pauses = pauses_seconds
        self._queue: queue.Queue[Message] = queue.Queue(QUEUED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end; what is still queued is not sent."""
        self._stop.set()

    def tell(self, message: Message) -> None:
        """Queue a message. Returns at once; where too many wait already, this one is dropped and counted."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._count(message.event, "dropped")

    def _run(self) -> None:
        if self._send("", "") == NO_ADDRESS:
            logger.error("APPLIANCE_NOTIFY_URLS: an address that begins with %s cannot be used", self._name)
        while not self._stop.is_set():
            try:
                message = self._queue.get(timeout=0.5)
            except queue.Empty:
                continue
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        for pause in self._pauses:
            if self._stop.wait(pause):
                return
            if self._send(message.title, message.body) == SENT:
                self._count(message.event, "sent")
                return
        self._count(message.event, "failed")
        logger.warning("a notification (%s) could not be sent by %s", message.event, self._name)

    def _send(self, title: str, body: str) -> int | None:
        """The exit code of the sending program; None when it took too long."""
        request = json.dumps({"url": self._url, "title": title, "body": body})
        kept = {name: os.environ[name] for name in (*PASSED_ON, *FOR_NETWORK) if name in os.environ}
        try:
            return subprocess.run(
                [sys.executable, "-m", "appliance.send_notice"],
                input=request.encode(),
                env=kept,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SEND_SECONDS,
                check=False,
            ).returncode
        except (subprocess.TimeoutExpired, OSError):
            return None
