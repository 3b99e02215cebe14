"""Before any page is made: is this host ours, may the caller read, may it act. `refusals` answers those who may not."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.names import printable
from appliance.web.access import Access, Caller
from appliance.web.site import Site

logger = logging.getLogger(__name__)

UPLOADS: Final = "/api/v1/drops"
LARGEST_FORM_BYTES: Final = 65_536
COOKIE: Final = "appliance_session"
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "x-csrf-token"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with that browsers send our own forms with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class HostGuard:
    """Refuses foreign Host headers, and puts the security headers on every answer that has none of its own."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer: ASGIApp = self._app
        if not self._access.serves_host(caller_of(Request(scope))):
            answer = PlainTextResponse("this host name is not one of mine; see APPLIANCE_ALLOWED_HOSTS\n", 421)
        elif scope["path"] != UPLOADS and not _is_small(Headers(scope=scope)):
            answer = PlainTextResponse("this is larger than any form of mine\n", 413)
        await answer(scope, receive, send_with_headers)


def _is_small(headers: Headers) -> bool:
    """Whether a body is none or a form's: it is read into memory before anybody has logged in."""
    length = headers.get("content-length", "0")
    told = "transfer-encoding" not in headers and length.isascii() and length.isdigit()
    return told and int(length) <= LARGEST_FORM_BYTES


def caller_of(request: Request) -> Caller:
    """The facts of a request that `access` decides by."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    server = request.scope.get("server") or ("", 0)
    return Caller(
        peer=request.client.host if request.client else "",
        host=request.headers.get("host", ""),
        local=server[0] or "",
        bearer=token.strip() if scheme.lower() == "bearer" else "",
        cookie=request.cookies.get(COOKIE, ""),
        origin=request.headers.get("origin", ""),
        site=request.headers.get("sec-fetch-site", ""),
    )


class LoginNeeded(HTTPException):
    """The caller has to show a token first; a browser is led to the login page."""

    def __init__(self, detail: str) -> None:
        super().__init__(401, detail, headers={"WWW-Authenticate": "Bearer"})


def check_recipe(site: Site, name: str) -> None:
    """Refuse a name that no recipe of the library has. No name at all is none of them, and is let through."""
    if name and name not in site.recipes():
        raise HTTPException(422, f"there is no recipe {printable(name)}; known: {', '.join(site.recipes())}")


def wants_page(request: Request) -> bool:
    """Whether a person looks at the answer."""
    return "text/html" in request.headers.get("accept", "")


def may_reach(site: Site) -> Callable[[Request], Awaitable[None]]:
    """A dependency: nothing but health and metrics exists beyond loopback while no read token is configured."""

    async def check(request: Request) -> None:
        if not site.access.may_reach(caller_of(request)):
            raise HTTPException(403, "beyond this machine nothing can be read until APPLIANCE_READ_TOKEN_FILE is set")

    return check


def may_read(site: Site) -> Callable[[Request], Awaitable[None]]:
    """A dependency: the caller is on this machine, or has shown a token."""
    reach = may_reach(site)

    async def check(request: Request) -> None:
        await reach(request)
        if not site.access.may_read(caller_of(request), now=site.clock()):
            raise LoginNeeded("reading from another machine needs the read token, as a bearer or by logging in")

    return check


def may_act(site: Site) -> Callable[[Request], Awaitable[None]]:
    """A dependency: the caller has shown the API token. The CSRF proof of a session is checked by `check_proof`."""
    reach = may_reach(site)

    async def check(request: Request) -> None:
        caller = caller_of(request)
        if caller.from_elsewhere:
            raise HTTPException(403, "this was sent by a page of another site")
        await reach(request)
        if site.access.api_token is None:
            raise HTTPException(403, "nothing can be done over HTTP until APPLIANCE_API_TOKEN_FILE is set")
        if not site.access.may_act(caller, now=site.clock()):
            raise LoginNeeded("this needs the API token, as a bearer or by logging in")

    return check


def check_proof(site: Site, request: Request, field: str) -> None:
    """Raise 403 unless the caller sent the token itself, or the CSRF proof of its session in the form or a header."""
    caller = caller_of(request)
    if site.access.shows_api_token(caller):
        return
    if not site.access.proves(caller.cookie, field or request.headers.get(CSRF_HEADER, "")):
        raise HTTPException(403, "the form is not of this session; load the page again")
