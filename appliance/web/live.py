"""Server-sent events: what changed, once a second, to everybody who watches.

What all of them see is made once. A client that does not read, or is gone, costs a closed connection: the kernel gives
it up (`server`), and no more than a handful of kilobytes wait for it until then.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from anyio import to_thread
from fastapi import HTTPException
from starlette.responses import StreamingResponse

from appliance.web.site import Site

T = TypeVar("T")

EVERY_SECONDS: Final = 1.0
# A comment now and then shows proxies and the kernel that both ends are there.
SILENT_SECONDS: Final = 15.0
MOST_WATCHERS: Final = 64
FORGET_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Event:
    """One event. `data` is JSON unless it is text already."""

    name: str
    data: object
    id: int | None = None

    def encode(self) -> str:
        text = self.data if isinstance(self.data, str) else json.dumps(self.data)
        lines = "".join(f"data: {line}\n" for line in text.split("\n"))
        number = "" if self.id is None else f"id: {self.id}\n"
        return f"event: {self.name}\n{number}{lines}\n"


class Shared:
    """Values that are made at most once a second, however many ask. Used from the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made: dict[object, tuple[float, asyncio.Future[Any]]] = {}

    async def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of `key`, made anew by `make` in a thread when it is older than a second."""
        now = self._clock()
        made, future = self._made.get(key, (float("-inf"), None))
        if future is None or now - made >= EVERY_SECONDS * 0.9:
            self._made = {k: v for k, v in self._made.items() if now - v[0] < FORGET_SECONDS}
            future = asyncio.ensure_future(to_thread.run_sync(make))
            self._made[key] = (now, future)
        # One watcher that leaves must not take the value away from the others.
        value: T = await asyncio.shield(future)
        return value


# What is new since the last time; None ends the stream.
News = Callable[[], Awaitable[list[Event] | None]]


class Watchers:
    """Counts who watches, and refuses more than there is room for."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._count = 0

    def stream(self, news: News) -> StreamingResponse:
        """The answer that sends what `news` finds, until that is None."""
        if self._count >= MOST_WATCHERS:
            raise HTTPException(503, "too many are watching; try again later", headers={"Retry-After": "30"})
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        return StreamingResponse(self._send(news), media_type="text/event-stream", headers=headers)

    async def _send(self, news: News) -> AsyncIterator[str]:
        self._count += 1
        try:
            quiet = 0.0
            yield "retry: 3000\n\n"
            while not self._site.stopping.is_set():
                events = await news()
                if events is None:
                    yield Event("end", {}).encode()
                    return
                text = "".join(event.encode() for event in events)
                quiet = 0.0 if text else quiet + EVERY_SECONDS
                if quiet >= SILENT_SECONDS:
                    text, quiet = ": still here\n\n", 0.0
                if text:
                    yield text
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            self._count -= 1
