"""The Hub: is it there, are the tokens good for what they are for, and for no more? Asks it, and changes nothing."""

import logging
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from appliance.doctor.finding import Finding, ok, problem, warning
from appliance.hub.faults import explain
from appliance.hub.who import WRITERS, Who, is_there, who_is
from appliance.pushing import PushError, PushResult
from appliance.settings import Settings
from appliance.surroundings import on_host

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 5.0
CLOCK_SECONDS: Final = 60.0
_WAY: Final = "look at the network and at HF_ENDPOINT"
NEEDED: Final = "a fine-grained token with write access to the repositories of {org}, and nothing else"


def check_hub(settings: Settings) -> Iterator[Finding]:
    """The writing token against the organisation, and the reading token against its purpose; without any, the way."""
    if settings.hub_org is None:
        yield ok("hub", "pushing is off: no organisation is set (HUB_ORG)")
    elif settings.hub_token is None:
        message = f"results for {settings.hub_org} stay pending: no token to push with is set"
        yield problem("hub", message, _new_token(settings.hub_org))
    else:
        yield from _check_writing(settings.hub_org, settings.hub_token)
    if settings.hub_read_token is not None:
        yield from _check_reading(settings.hub_read_token, settings.hub_token)
    elif settings.hub_org is None or settings.hub_token is None:
        yield _look()


def _check_writing(org: str, token: str) -> Iterator[Finding]:
    who = _ask("hub", token)
    if isinstance(who, Finding):
        yield who
        return
    yield from _check_endpoint(who)
    yield from _check_clock(who, now=time.time())
    yield from write_findings(who, org)


def write_findings(who: Who, org: str) -> Iterator[Finding]:
    """May this token push to that organisation, and what else may it do?"""
    facts = {"user": who.name, "role": who.role, "organisations": dict(who.organisations)}
    if why := _why_not(who, org):
        yield problem("hub", why, _new_token(org), facts)
        return
    others = sorted(name for name in who.writes_to if name.partition("/")[0].casefold() != org.casefold())
    if who.writes_everywhere or others:
        where = ", ".join(others) or "everything else of its user"
        message = f"the token of {who.name} may push to {org}, but also write to: {where}"
        yield warning("hub", message, f"make {NEEDED.format(org=org)}, and put it into HUB_TOKEN_FILE", facts)
        return
    yield ok("hub", f"the token of {who.name} may push to {org}, and to nothing else", facts)


def _why_not(who: Who, org: str) -> str | None:
    # To the Hub names that differ in case are one.
    name = org.casefold()
    roles = {organisation.casefold(): role for organisation, role in who.organisations.items()}
    if name == who.name.casefold():
        return f"{org} is a person's own namespace, not an organisation"
    if name not in roles:
        listed = ", ".join(sorted(who.organisations)) or "none"
        return f"the token's user {who.name} is in no organisation {org} (in: {listed})"
    if roles[name] not in WRITERS:
        return f"{who.name} may only read in {org} (role {roles[name]})"
    if name not in {writable.casefold() for writable in who.writes_to}:
        return f"the token may not write to {org} (role {who.role})"
    return None


def _check_reading(token: str, writing: str | None) -> Iterator[Finding]:
    if token == writing:
        message = "the token for reading is the one for writing: fetching a model needs no right to write"
        yield warning("hub-read", message, "make a token with the role read, and put it into HUB_READ_TOKEN_FILE")
        return
    who = _ask("hub-read", token)
    if isinstance(who, Finding):
        yield who
    elif who.writes_everywhere or who.writes_to:
        message = f"the token for reading, of {who.name}, may also write"
        yield warning("hub-read", message, "make a token with the role read, and put it into HUB_READ_TOKEN_FILE")
    else:
        yield ok("hub-read", f"the token for reading, of {who.name}, may only read")


def _ask(check: str, token: str) -> Who | Finding:
    try:
        return who_is(token, answer_seconds=ANSWER_SECONDS)
    except Exception as error:
        logger.debug("the Hub could not be asked", exc_info=True)
        told = explain(error)
        return _unknown(check, told) if told.blocked else _away(check, told)


def _look() -> Finding:
    """Nobody needs a token to fetch a public base model, but everybody the way to the Hub."""
    try:
        return ok("hub-endpoint", f"{is_there(answer_seconds=LOOK_SECONDS)} answers")
    except Exception as error:
        logger.debug("the Hub could not be asked", exc_info=True)
        told = explain(error)
    if told.result is PushResult.RATE_LIMITED:
        return ok("hub-endpoint", "the Hub answers, and asks for patience")
    message = f"{told.message}; base models that are not here cannot be fetched"
    return warning("hub-endpoint", message, f"{_WAY}, or bring them in with `appliance models import DIR`")


def _unknown(check: str, told: PushError) -> Finding:
    which = "HUB_READ_TOKEN_FILE" if check == "hub-read" else "HUB_TOKEN_FILE"
    return problem(check, told.message, on_host(f"put a token that is valid into the file of {which}, and restart"))


def _away(check: str, told: PushError) -> Finding:
    hint = told.hint or _WAY
    return warning(check, f"{told.message}; pushes wait until it answers", hint)


def _check_endpoint(who: Who) -> Iterator[Finding]:
    address = urlsplit(who.endpoint)
    if address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        message = f"the token travels to {who.endpoint} for everybody on the way to read"
        yield problem("hub-endpoint", message, "set HF_ENDPOINT to an address that begins with https")
    else:
        yield ok("hub-endpoint", f"{who.endpoint} answers")


def _check_clock(who: Who, *, now: float) -> Iterator[Finding]:
    if who.time is None:
        return
    ahead = now - who.time
    if abs(ahead) > CLOCK_SECONDS:
        direction = "ahead of" if ahead > 0 else "behind"
        message = f"this machine's clock is {abs(ahead):.0f} s {direction} the Hub's"
        yield warning("hub-clock", message, on_host("timedatectl set-ntp true"))
    else:
        yield ok("hub-clock", "this machine's clock agrees with the Hub's")


def _new_token(org: str) -> str:
    return on_host(f"put {NEEDED.format(org=org)}, into a file that APPLIANCE_HUB_TOKEN_FILE names, and restart")
