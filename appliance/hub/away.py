"""Why the Hub could not be reached, in the words of somebody who looks at a network and not at a program."""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import httpx
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

LONGEST_QUOTE: Final = 200
_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ")
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_UNSAID: Final = "the connection broke off"


def why_away(error: BaseException) -> str:
    """Half a sentence to follow "the Hub cannot be reached: ". The cause that is nearest to the network is told."""
    causes = list(_causes(error))
    return next((words for cause in reversed(causes) if (words := _in_words(cause))), _as_said(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # Libraries that raise an error anew leave it among its own causes.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _in_words(error: BaseException) -> str | None:
    match error:
        case socket.gaierror():
            return "its name was not found (no network, or no name server)"
        case ConnectionRefusedError():
            return "it refused the connection"
        case ssl.SSLCertVerificationError():
            return "its TLS certificate was not accepted"
        case ssl.SSLError():
            return "no secure connection came about (TLS)"
        case OSError(errno=number) if number in _NO_WAY:
            return "there is no way to it from this machine's network"
        case TimeoutError() | httpx.TimeoutException():
            return "it did not answer in time"
        case httpx.ProxyError():
            return "the proxy did not let the request through"
        case HfHubHTTPError():
            return f"it answered {error.response.status_code}"
        case ConnectionError() | httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return _UNSAID
    return None


def _as_said(error: BaseException) -> str:
    if isinstance(error, LocalEntryNotFoundError):
        # The library's advice, which is about its own cache.
        return _UNSAID
    return quote(_ERRNO.sub("", str(error))) or _UNSAID


def quote(text: str) -> str:
    """Other people's words on one line, and not too many of them."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_QUOTE else line[: LONGEST_QUOTE - 1] + "…"
