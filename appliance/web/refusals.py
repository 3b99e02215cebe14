"""What stands where a page or an action was refused: JSON for programs, a page of ours for people."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.exceptions import HTTPException

from appliance.texts.pages import render
from appliance.web.guards import LoginNeeded, caller_of, wants_page
from appliance.web.pages import frame, who_is
from appliance.web.site import Site

HEADINGS: Final = {403: "That is not allowed", 404: "There is nothing here"}

Explain = Callable[[Request, Exception], Awaitable[Response]]


def explain_refusal(site: Site) -> Explain:
    """401 and the other refusals: JSON for programs, a page or a way to the login page for people."""

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not wants_page(request):
            return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
        if isinstance(error, LoginNeeded):
            return RedirectResponse(f"/login?next={quote(_way_back(request))}", 303)
        if not site.access.may_reach(caller_of(request)):
            # Who may reach nothing would get the page without its style.
            return PlainTextResponse(f"{error.detail}\n", error.status_code, headers=error.headers)
        html = _page(site, request, error.status_code, _in_our_words(error))
        return HTMLResponse(html, error.status_code, headers=error.headers)

    return explain


def explain_invalid(site: Site) -> Explain:
    """A request that does not have the form it should: what is wrong with it, in one line."""

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()]
        said = "; ".join(problems)
        if not wants_page(request):
            return JSONResponse({"detail": said}, 422)
        return HTMLResponse(_page(site, request, 422, said), 422)

    return explain


def _page(site: Site, request: Request, status: int, said: str) -> str:
    heading = HEADINGS.get(status, "That did not work")
    context = frame(request, who_is(site, request)) | {"here": _way_back(request), "heading": heading, "said": said}
    return render("web/refused.html.j2", context)


def _in_our_words(error: HTTPException) -> str:
    """What was refused and why; an address that leads nowhere is refused with no more than its status."""
    missing = error.detail == HTTPStatus.NOT_FOUND.phrase
    return "no page has this address; it may be mistyped" if missing else str(error.detail)


def _way_back(request: Request) -> str:
    """Where to go on after a login: what was asked for, unless that was to do something."""
    return request.url.path if request.method == "GET" else "/"
