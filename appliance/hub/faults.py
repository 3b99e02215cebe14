"""What a fault on the way to the Hub means: its class, whether a person has to act, and what to do."""

import errno
import json
import ssl
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from appliance.hub.away import quote, why_away
from appliance.hub.connection import HubRefusal, NotTheHub
from appliance.pushing import PushError, PushResult

_AGAIN: Final = "It is tried again by itself."


def explain(error: BaseException) -> PushError:
    """Any error of an attempt to push as one that says what happened, and what a person can do about it."""
    match error:
        case PushError():
            return error
        case HubRefusal(response=httpx.Response() as response) | HfHubHTTPError(response=response):
            return explain_status(response)
        case HubRefusal() | NotTheHub() | OfflineModeIsEnabled() | httpx.TransportError():
            return _explain_network(error)
        case json.JSONDecodeError():
            return PushError(PushResult.SERVER, "the Hub's answer cannot be understood", hint=_AGAIN)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            hint = "Make room on the volume that holds the state folder."
            return PushError(PushResult.OTHER, "the disk is full", hint=hint)
        case ValueError() if "Invalid metadata in README.md" in str(error):
            return _refused("the Hub refuses the model card")(f": {quote(str(error))}")
    return PushError(PushResult.OTHER, f"the push met a fault: {type(error).__name__}: {quote(str(error))}")


def _explain_network(error: BaseException) -> PushError:
    text = str(error) or type(error).__name__
    match error:
        case NotTheHub():
            hint = "Sign in to the network this machine is in, or look at HF_ENDPOINT and the proxy settings."
            return PushError(PushResult.NETWORK, f"this is not the Hub: {text}", hint=hint)
        case OfflineModeIsEnabled():
            return PushError(PushResult.NETWORK, "the Hub library is in offline mode", hint="Unset HF_HUB_OFFLINE.")
        case httpx.TimeoutException():
            return PushError(PushResult.NETWORK, "the Hub did not answer in time", hint=_AGAIN)
    if isinstance(error.__cause__, ssl.SSLError) or "SSL" in text or "certificate" in text.lower():
        hint = "Look at this machine's clock, SSL_CERT_FILE, and who terminates TLS in this network."
        return PushError(PushResult.NETWORK, f"no secure connection to the Hub: {why_away(error)}", hint=hint)
    return PushError(PushResult.NETWORK, f"the Hub cannot be reached: {why_away(error)}", hint=_AGAIN)


def explain_status(response: httpx.Response) -> PushError:
    """What an answer with an error status means."""
    status, said = response.status_code, _said(response)
    if status == 429:
        wait = _retry_after(response)
        return PushError(PushResult.RATE_LIMITED, "the Hub asks for patience (429)", hint=_AGAIN, retry_after=wait)
    if status == 403 and any(word in said.lower() for word in ("storage", "quota", "billing", "payment")):
        status = 402
    if status >= 500:
        wait = _retry_after(response)
        return PushError(PushResult.SERVER, f"the Hub has a fault ({status}){said}", hint=_AGAIN, retry_after=wait)
    explain_it = _BY_STATUS.get(status)
    return explain_it(said) if explain_it else PushError(PushResult.OTHER, f"the Hub answered {status}{said}")


_PUSH_AGAIN: Final = "then push again with `appliance push`."


def _auth(what: str) -> Callable[[str], PushError]:
    def explain_it(said: str) -> PushError:
        hint = f"Put a token that may write to the organisation into APPLIANCE_HUB_TOKEN_FILE, restart, {_PUSH_AGAIN}"
        return PushError(PushResult.AUTH, f"{what}{said}", hint=hint, blocked=True)

    return explain_it


def _quota(said: str) -> PushError:
    hint = f"Make room in the organisation or raise its plan, {_PUSH_AGAIN}"
    return PushError(PushResult.QUOTA, f"the organisation's storage is used up{said}", hint=hint, blocked=True)


def _refused(what: str) -> Callable[[str], PushError]:
    def explain_it(said: str) -> PushError:
        hint = f"Please report it with what the Hub said; when that is settled, {_PUSH_AGAIN}"
        return PushError(PushResult.OTHER, f"{what}{said}", hint=hint, blocked=True)

    return explain_it


def _changed(what: str) -> Callable[[str], PushError]:
    return lambda said: PushError(PushResult.CONFLICT, f"{what}{said}", hint=_AGAIN)


_BY_STATUS: Final[Mapping[int, Callable[[str], PushError]]] = {
    400: _refused("the Hub does not accept the request (400)"),
    401: _auth("the Hub does not know the token (401)"),
    402: _quota,
    403: _auth("the token may not write there (403)"),
    404: _changed("the repository is not there any more (404)"),
    409: _changed("somebody else is at the repository (409)"),
    412: _changed("the repository changed while we were at it (412)"),
    413: _refused("the Hub finds a file too large (413)"),
    422: _refused("the Hub does not accept the request (422)"),
}


def _said(response: httpx.Response) -> str:
    """The Hub's own words, short, after a colon; nothing when there are none."""
    said = response.headers.get("X-Error-Message")
    if not said:
        try:
            said = response.json().get("error")
        except (ValueError, AttributeError, httpx.StreamError):
            said = None
    return f": {quote(str(said))}" if said else ""


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, or a date, as HTTP allows both."""
    wait = response.headers.get("Retry-After", "").strip()
    if wait.isdigit():
        return float(wait)
    try:
        then, sent = parsedate_to_datetime(wait), parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, (then - sent).total_seconds())
