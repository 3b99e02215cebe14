"""A connection to the Hub that cannot hang, loop or be fooled by a page that is not the Hub's.

The library retries inside itself: for ever when a repository "is being created", and for as long as any Retry-After
says. It cannot be told otherwise, but every request it makes goes through our HTTP client. So the rules stand here.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import httpx
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

# The library's own default is to wait for ever.
ANSWER_SECONDS: Final = 120.0
CONNECT_SECONDS: Final = 15.0
# How often the same request is sent in a row; the library pauses 1 s, 2 s, 4 s in between.
TRIES: Final = 3
SHORT_PAUSE_SECONDS: Final = 10
LONGEST_BODY_READ: Final = 1_000_000


class HubRefusal(Exception):
    """An answer of the Hub, or a request that got none, that the library would go on about for too long."""

    def __init__(self, response: httpx.Response | None, what: str) -> None:
        super().__init__(what)
        self.response = response


class NotTheHub(Exception):
    """Something between us and the Hub answered in its place: the sign-in page of a network, most likely."""


@dataclass
class Patience:
    """Keeps one request from taking for ever, and counts how often the same one is sent in a row."""

    timeout: httpx.Timeout
    tries: int = TRIES
    last: tuple[str, str] | None = None
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)

    def before(self, request: httpx.Request) -> None:
        """Raise HubRefusal when the library sends a request once more than it should."""
        # Some of the library's calls say "no timeout" themselves, over the client's own.
        request.extensions["timeout"] = self.timeout.as_dict()
        key = (request.method, str(request.url))
        if key != self.last:
            self.sent[key] = 0
        self.last = key
        self.sent[key] += 1
        if request.method in ("POST", "PUT") and self.sent[key] > self.tries:
            raise HubRefusal(None, f"no answer to {self.tries} requests in a row")

    def after(self, response: httpx.Response) -> None:
        """Raise HubRefusal or NotTheHub for an answer that must not be waited or repeated away."""
        if response.status_code == 200 and "text/html" in response.headers.get("content-type", ""):
            raise NotTheHub(f"{response.url.host} answered with a web page")
        spent = self.sent[(response.request.method, str(response.request.url))] >= self.tries
        if response.status_code == 429 or (response.status_code >= 500 and (spent or _asks_for_long(response))):
            _read(response)
            raise HubRefusal(response, f"the Hub answered {response.status_code}")
        if response.status_code == 409:
            _read(response)
            if "conflicting operation is in progress" in response.text:
                raise HubRefusal(response, "another operation on the repository is in progress")


def connect(
    token: str, *, endpoint: str | None = None, answer_seconds: float = ANSWER_SECONDS, tries: int = TRIES
) -> HfApi:
    """The library's client with our rules on every request. For the whole process: the library has one client."""
    patience = Patience(httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds)), tries)

    def client() -> httpx.Client:
        return httpx.Client(
            follow_redirects=True,
            timeout=patience.timeout,
            event_hooks={"request": [patience.before], "response": [patience.after]},
        )

    set_client_factory(client)
    disable_progress_bars()
    # Otherwise it asks the Hub for a list of programs that might be using it, before anything else.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return HfApi(endpoint=endpoint, token=token)


def _asks_for_long(response: httpx.Response) -> bool:
    wait = response.headers.get("retry-after", "")
    return bool(wait.isdigit()) and int(wait) > SHORT_PAUSE_SECONDS


def _read(response: httpx.Response) -> None:
    """Have the body at hand: hooks are called before it is read."""
    if int(response.headers.get("content-length", LONGEST_BODY_READ + 1)) <= LONGEST_BODY_READ:
        response.read()
