"""The HTTP application: health and metrics for machines, pages for people, the API for programs."""

from collections.abc import Callable
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException as StarletteHTTPException

from appliance import __version__
from appliance.history import Histories
from appliance.metrics import make_registry
from appliance.texts.pages import render
from appliance.view import View
from appliance.web.api import make_api
from appliance.web.api_document import operations_of, types_of
from appliance.web.asking import make_asking
from appliance.web.downloads import make_downloads
from appliance.web.guards import HostGuard, may_reach, may_read
from appliance.web.live import Shared, Watchers
from appliance.web.pages import frame, make_login, make_pages, who_is
from appliance.web.refusals import explain_invalid, explain_refusal
from appliance.web.site import Site

# A loop that has not turned for this long is stuck.
STUCK_SECONDS: Final = 60.0
STATIC: Final = {
    "page.css": ("templates/page.css", "text/css"),
    "site.css": ("web/static/site.css", "text/css"),
    "uPlot.min.css": ("web/static/uPlot.min.css", "text/css"),
    "live.js": ("web/static/live.js", "text/javascript"),
    "charts.js": ("web/static/charts.js", "text/javascript"),
    "uPlot.iife.min.js": ("web/static/uPlot.iife.min.js", "text/javascript"),
    "icon.svg": ("web/static/icon.svg", "image/svg+xml"),
}


def make_app(site: Site) -> FastAPI:
    """The application over one appliance."""
    app = FastAPI(title="Spark Appliance", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(HostGuard, access=site.access)
    app.add_exception_handler(StarletteHTTPException, explain_refusal(site))
    app.add_exception_handler(RequestValidationError, explain_invalid(site))
    histories, shared, watchers = Histories(site.jobs), Shared(), Watchers(site)
    registry = make_registry(site.store, site.view, site.clock, settings=site.settings, machine=site.machine)
    app.include_router(make_probes(site.view, registry, site.clock))
    app.include_router(make_static(site))
    app.include_router(make_login(site))
    app.include_router(make_api(site, histories, shared, watchers))
    app.include_router(make_asking(site))
    app.include_router(make_downloads(site))
    app.include_router(make_pages(site, histories, shared, watchers))
    app.include_router(make_documents(site, app))
    return app


def make_probes(view: Callable[[], View], registry: CollectorRegistry, clock: Callable[[], float]) -> APIRouter:
    """What answers everybody: is it alive, is it ready, and its metrics."""
    probes = APIRouter(include_in_schema=False)

    @probes.get("/healthz")
    def healthz() -> Response:
        age = clock() - view().time
        if age > STUCK_SECONDS:
            return PlainTextResponse(f"the loop has not turned for {age:.0f} s\n", 503)
        return PlainTextResponse("alive\n")

    @probes.get("/readyz")
    def readyz() -> Response:
        if not view().ready:
            return PlainTextResponse("not ready: the inbox has not been listed yet\n", 503)
        return PlainTextResponse("ready\n")

    @probes.get("/metrics")
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return probes


def make_static(site: Site) -> APIRouter:
    """Style sheets, scripts and the icon, all of them ours or vendored."""
    static = APIRouter(include_in_schema=False, dependencies=[Depends(may_reach(site))])
    package = files("appliance")

    @static.get("/static/{name}")
    def asset(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404, "there is no such file")
        path, kind = STATIC[name]
        headers = {"Cache-Control": "no-cache"}
        return Response(package.joinpath(path).read_bytes(), media_type=kind, headers=headers)

    return static


def make_documents(site: Site, app: FastAPI) -> APIRouter:
    """What the API is, for people and for programs."""
    documents = APIRouter(include_in_schema=False, dependencies=[Depends(may_read(site))])

    @documents.get("/openapi.json")
    def openapi() -> Response:
        return JSONResponse(app.openapi())

    @documents.get("/docs")
    def docs(request: Request) -> Response:
        document = app.openapi()
        context = frame(request, who_is(site, request)) | {
            "base": str(request.base_url).rstrip("/"),
            "operations": list(operations_of(document)),
            "types": list(types_of(document)),
        }
        return HTMLResponse(render("web/docs.html.j2", context))

    return documents
