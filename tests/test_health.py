"""The container's health check: what it asks, and what it says when something is amiss."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@contextmanager
def answering(answers: dict[str, int]) -> Iterator[int]:
    """A server on loopback that answers each path with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers[self.path])
            self.end_headers()
            self.wfile.write(f"{self.path} says so".encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def check(port: int) -> subprocess.CompletedProcess[str]:
    # A proxy for the world outside has no part in it.
    environment = {**os.environ, "APPLIANCE_LISTEN": f"0.0.0.0:{port}", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "appliance.commands.health"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("alive", "ready", "code", "said"),
    [(200, 200, 0, ""), (503, 200, 1, "/healthz says so"), (200, 503, 1, "/readyz says so")],
)
def test_it_is_well_when_it_is_alive_and_ready(alive: int, ready: int, code: int, said: str):
    with answering({"/healthz": alive, "/readyz": ready}) as port:
        done = check(port)
    assert (done.returncode, done.stdout.strip()) == (code, said)


def test_a_port_that_nobody_answers_on_is_named():
    with answering({}) as port:
        pass
    done = check(port)
    assert done.returncode == 1
    assert f"no answer on port {port}" in done.stdout


def test_a_port_that_something_else_answers_on_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        done = check(port)
        thread.join()
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"something else answers on port {port}: SSH-2.0-x\n"
