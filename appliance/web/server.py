"""Serving the HTTP application from a thread of the daemon."""

import socket
import threading
from typing import Any

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from appliance.errors import ApplianceError

STOP_SECONDS = 5.0
BACKLOG = 128
# Each holds a connection to the database with its cache; more of them would not answer sooner.
THREADS = 8
# What a client may leave unread, or a vanished one unacknowledged, before the kernel ends its connection.
GIVE_UP_SECONDS = 30
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class ListenError(ApplianceError):
    """The address cannot be listened on."""

    exit_code = 3


def split_address(listen: str) -> tuple[str, int]:
    """`127.0.0.1:8080` or `[::1]:8080` as host and port. Port 0 lets the system choose."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"APPLIANCE_LISTEN is {listen}", hint="Write it as host:port, for example 127.0.0.1:8080.")
    return host.strip("[]"), int(port)


class WebServer:
    """The server thread. The socket is bound at once, so that a taken port is an error at start and not later."""

    def __init__(self, app: FastAPI, listen: str, *, stopping: threading.Event | None = None) -> None:
        """Bind. `stopping` is set when the server is asked to stop, for answers that would go on for ever."""
        self._stopping = stopping or threading.Event()
        host, port = split_address(listen)
        self._socket = _bind(host, port)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        self._server = _ThreadServer(config)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


class _ThreadServer(uvicorn.Server):
    """Signals belong to the daemon's main loop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await super().startup(sockets)

    def capture_signals(self) -> Any:  # noqa: ANN401 (the library's own signature)
        return _Nothing()


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit these: a client that is gone, or does not read, must not be kept for ever.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * GIVE_UP_SECONDS)
    for option, value in KEEPALIVE:
        bound.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        bound.bind((host, port))
        # From here on the kernel takes connections in, even while the thread is still starting.
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise ListenError(
            f"{host}:{port} cannot be listened on: {error.strerror}",
            hint="Something else uses the port; stop it, or set APPLIANCE_LISTEN to another one.",
        ) from error
    return bound
