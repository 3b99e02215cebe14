"""The server that uses the GPU while we do not: asked to make room before a training, and told when it is over.

`BEFORE_TRAIN_URL` and `AFTER_TRAIN_URL` get a POST each. It may be slow, broken or gone: every try has a timeout, there
are a few of them, and after the last one the work goes on all the same. Whether there is enough memory is asked anyway.
"""

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from appliance.settings import Settings

logger = logging.getLogger(__name__)

TRIES: Final = 4
TIMEOUT_SECONDS: Final = 15.0
PAUSE_SECONDS: Final = 5.0
# How long a daemon that ends waits for the last word to get through.
GOODBYE_SECONDS: Final = 10.0

Post = Callable[[str, bytes], None]


class Side(StrEnum):
    """Whose the GPU is, or whose it is about to be."""

    THEIRS = "theirs"
    UNSURE = "unsure"
    """An earlier daemon took it and never gave it back; the other side may have been started anew meanwhile."""
    TAKING = "taking"
    OURS = "ours"
    GIVING = "giving"


class Neighbour:
    """Says at most one thing at a time, in a thread of its own. Without addresses the GPU is simply ours."""

    def __init__(
        self,
        before_url: str | None,
        after_url: str | None,
        *,
        is_ours: bool = False,
        post: Post | None = None,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`is_ours`: an earlier daemon took the GPU and never gave it back."""
        self._before, self._after = before_url, after_url
        self._post = post or post_json
        self._pause_seconds = pause_seconds
        self._thread: threading.Thread | None = None
        self.side = Side.UNSURE if is_ours else Side.THEIRS
        self.failures = 0
        """How many times nobody could be told, after all tries."""

    def take(self) -> bool:
        """Ask for the GPU. True once it may be used: the other side made room, or had long enough to."""
        self._fold()
        if self.side in (Side.THEIRS, Side.UNSURE):
            self._say(Side.TAKING, self._before, "training")
        return self.side is Side.OURS

    def give_back(self) -> None:
        """Say that the GPU is free, unless that was said already."""
        self._fold()
        if self.side in (Side.OURS, Side.UNSURE):
            self._say(Side.GIVING, self._after, "idle")

    def close(self) -> None:
        """Give the GPU back before the daemon ends, without waiting for long."""
        self._wait(GOODBYE_SECONDS)
        self.give_back()
        self._wait(GOODBYE_SECONDS)

    @property
    def is_told(self) -> bool:
        """Whether there is anybody to tell."""
        return self._before is not None or self._after is not None

    @property
    def is_ours_or_moving(self) -> bool:
        self._fold()
        return self.side is not Side.THEIRS

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _say(self, side: Side, url: str | None, event: str) -> None:
        self.side = side
        if url is not None:
            self._thread = threading.Thread(target=self._deliver, args=(url, event), name="neighbour", daemon=True)
            self._thread.start()
        self._fold()

    def _fold(self) -> None:
        if not self.is_busy and self.side in (Side.TAKING, Side.GIVING):
            self.side = Side.OURS if self.side is Side.TAKING else Side.THEIRS

    def _wait(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def _deliver(self, url: str, event: str) -> None:
        body = json.dumps({"appliance": event}).encode()
        for attempt in range(TRIES):
            try:
                self._post(url, body)
            except (OSError, ValueError) as error:
                logger.warning("the server that shares the GPU was not told (%s): %s", event, _reason(error))
                if attempt < TRIES - 1:
                    time.sleep(self._pause_seconds)
            else:
                logger.info("the server that shares the GPU was told: %s", event)
                return
        self.failures += 1


def neighbour_of(settings: Settings, *, is_ours: bool) -> Neighbour:
    """The server that the settings name, if they do."""
    return Neighbour(settings.before_train_url, settings.after_train_url, is_ours=is_ours)


def post_json(url: str, body: bytes) -> None:
    """POST once. Raises OSError when it is not answered with success in time, ValueError for an unusable address."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}, method="POST")  # noqa: S310
    if request.type not in ("http", "https"):
        raise ValueError("the address does not begin with http:// or https://")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return
    except http.client.HTTPException as error:
        raise OSError("what it answered is no HTTP") from error


def _reason(error: Exception) -> str:
    """Without the address: it may carry a key."""
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code}"
    return str(getattr(error, "reason", error)) or type(error).__name__
