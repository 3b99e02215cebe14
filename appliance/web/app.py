"""The HTTP application: is it alive, is it ready, and its metrics."""

from collections.abc import Awaitable, Callable, Collection

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from appliance.view import View

# A loop that has not turned for this long is stuck.
STUCK_SECONDS = 60.0


def make_app(
    view: Callable[[], View], registry: CollectorRegistry, *, hosts: Collection[str], clock: Callable[[], float]
) -> FastAPI:
    """The application. A request whose Host is none of `hosts` is refused: a page elsewhere must not read us."""
    app = FastAPI(title="appliance", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def refuse_foreign_hosts(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if host_name(request.headers.get("host", "")) not in hosts:
            return PlainTextResponse("this host name is not one of mine; see APPLIANCE_ALLOWED_HOSTS\n", 421)
        return await answer(request)

    @app.get("/healthz")
    def healthz() -> Response:
        age = clock() - view().time
        if age > STUCK_SECONDS:
            return PlainTextResponse(f"the loop has not turned for {age:.0f} s\n", 503)
        return PlainTextResponse("alive\n")

    @app.get("/readyz")
    def readyz() -> Response:
        if not view().ready:
            return PlainTextResponse("not ready: the inbox has not been listed yet\n", 503)
        return PlainTextResponse("ready\n")

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return app


def host_name(header: str) -> str:
    """The host of a Host header without its port, in lower case: `[::1]:8080` is `::1`."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def allowed_hosts(listen_host: str, configured: Collection[str]) -> frozenset[str]:
    """Loopback, the address that is listened on, and the configured names."""
    return frozenset({"localhost", "127.0.0.1", "::1", listen_host, *(name.lower() for name in configured)})
