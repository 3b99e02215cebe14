"""The pages for people: whole without scripts, and kept up to date by one stream of events with them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from appliance.history import Histories
from appliance.texts.pages import render
from appliance.web.access import SESSION_SECONDS, safe_next
from appliance.web.api import is_over, job_finder, job_news
from appliance.web.guards import COOKIE, caller_of, check_proof, may_reach, may_read
from appliance.web.live import Event, News, Shared, Watchers
from appliance.web.site import Site
from appliance.web.views import Views, with_proof

REFRESH_SECONDS: Final = 5


@dataclass(frozen=True)
class Who:
    """What the frame of a page shows of its reader."""

    logged_in: bool
    can_log_in: bool
    acts: bool
    csrf: str


def make_pages(site: Site, histories: Histories, shared: Shared, watchers: Watchers) -> APIRouter:
    """Board, jobs, inbox, system, and logging in and out."""
    pages = APIRouter(include_in_schema=False, dependencies=[Depends(may_read(site))])
    views = Views(site, histories)
    find = job_finder(site)

    async def live_page(request: Request, name: str, make: Callable[..., str], **more: object) -> Response:
        who = who_is(site, request)
        html = await shared.get((name, who.acts), partial(make, acts=who.acts))
        context = frame(request, who, stream=f"/live/{name}") | more | {"live": with_proof(html, who.csrf)}
        return HTMLResponse(render(f"web/{name}.html.j2", context))

    @pages.get("/")
    async def board(request: Request) -> Response:
        return await live_page(request, "board", views.board)

    @pages.get("/inbox")
    async def inbox(request: Request) -> Response:
        folder = str(site.settings.inbox.resolve())
        return await live_page(request, "inbox", views.inbox, folder=folder, recipes=site.recipes())

    @pages.get("/system")
    async def system(request: Request) -> Response:
        return await live_page(request, "system", views.system)

    @pages.get("/jobs/{id}")
    def job(id: str, request: Request) -> Response:
        found, who = find(id), who_is(site, request)
        top, rest = views.job_top(found.number, acts=who.acts), views.job_rest(found.number)
        context = frame(request, who, stream=None if is_over(found) else f"/live/jobs/{found.number}")
        context |= {"job": found, "live_top": with_proof(top, who.csrf), "live_rest": with_proof(rest, who.csrf)}
        return HTMLResponse(render("web/job.html.j2", context | views.job_curves(found)))

    @pages.get("/live/{name}")
    async def live(name: str, request: Request) -> Response:
        makers: dict[str, Callable[..., str]] = {"board": views.board, "inbox": views.inbox, "system": views.system}
        if name not in makers:
            raise HTTPException(404, "there is no such page")
        who = who_is(site, request)
        return watchers.stream(page_news(shared, (name, who.acts), partial(makers[name], acts=who.acts), who.csrf))

    @pages.get("/live/jobs/{id}")
    async def live_job(id: str, request: Request) -> Response:
        found, who = find(id), who_is(site, request)

        def make() -> str:
            return views.job_top(found.number, acts=who.acts) + views.job_rest(found.number)

        html_news = page_news(shared, ("page", found.number, who.acts), make, who.csrf)
        return watchers.stream(both(job_news(site, histories, shared, found, after=None), html_news))

    return pages


def make_login(site: Site) -> APIRouter:
    """Logging in and out: reachable without a token, where anything is."""
    login_pages = APIRouter(include_in_schema=False, dependencies=[Depends(may_reach(site))])

    @login_pages.get("/login")
    def login(request: Request, next: str = "/") -> Response:
        return login_page(request, next, wrong=False)

    @login_pages.post("/login")
    def log_in(request: Request, token: str = Form(max_length=4096), next: str = Form("/")) -> Response:
        cookie = site.access.login(token.strip(), now=site.clock())
        if caller_of(request).from_elsewhere or cookie is None:
            return login_page(request, next, wrong=True)
        answer = RedirectResponse(safe_next(next), 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
        return answer

    @login_pages.post("/logout")
    def log_out(request: Request, csrf: str = Form("")) -> Response:
        check_proof(site, request, csrf)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def login_page(request: Request, next: str, *, wrong: bool) -> Response:
        context = frame(request, who_is(site, request)) | {"next": safe_next(next), "wrong": wrong}
        return HTMLResponse(render("web/login.html.j2", context), 401 if wrong else 200)

    return login_pages


def who_is(site: Site, request: Request) -> Who:
    caller = caller_of(request)
    now = site.clock()
    session = site.access.session(caller.cookie, now=now)
    can_log_in = session is None and (site.access.api_token or site.access.read_token) is not None
    acts = session == "api" and site.access.may_act(caller, now=now)
    return Who(session is not None, can_log_in, acts, site.access.csrf(caller.cookie) if session else "")


def frame(request: Request, who: Who, *, stream: str | None = None) -> dict[str, Any]:
    """What the frame around every page needs."""
    refresh = REFRESH_SECONDS if stream else None
    return {"who": who, "here": request.url.path, "stream": stream, "refresh": refresh}


def page_news(shared: Shared, key: object, make: Callable[[], str], proof: str) -> News:
    """The live parts of a page each time that they have changed."""
    shown = ""

    async def news() -> list[Event]:
        nonlocal shown
        html = await shared.get(key, make)
        if html == shown:
            return []
        shown = html
        return [Event("html", [str(with_proof(html, proof))])]

    return news


def both(ending: News, other: News) -> News:
    """The news of two sources; it ends with the first, after a last look at the other."""

    async def news() -> list[Event] | None:
        first = await ending()
        return None if first is None else [*first, *(await other() or [])]

    return news
