"""A GET each minute while the loop turns: when the whole machine wedges, something outside misses it."""

import http.client
import logging
import threading
import urllib.request
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from appliance.errors import ApplianceError

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 60.0
TIMEOUT_SECONDS: Final = 10.0


class HeartbeatError(ApplianceError):
    """APPLIANCE_HEARTBEAT_URL is no address that can be asked."""

    exit_code = 2


class Heartbeat:
    """Beats in a thread of its own. `alive` says whether the loop turns; while it does not, there is no beat."""

    def __init__(self, url: str | None, alive: Callable[[], bool], *, every_seconds: float = EVERY_SECONDS) -> None:
        if url is not None and not _is_http(url):
            raise HeartbeatError("APPLIANCE_HEARTBEAT_URL is no http address", hint="Write it as https://…")
        self._url = url
        self._alive = alive
        self._every_seconds = every_seconds
        self._missed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        if self._url is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._alive():
                self._beat()
            self._stop.wait(self._every_seconds)

    def _beat(self) -> None:
        assert self._url is not None
        try:
            # http or https: looked at above.
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_SECONDS):  # noqa: S310
                self._missed = False
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not self._missed:
                # Its address may hold a key, so only the kind of the fault is told, and once.
                logger.warning("the heartbeat was not heard: %s", type(error).__name__)
            self._missed = True


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        # Brackets that do not close, or a port that is no number.
        return False
