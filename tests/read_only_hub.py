"""A Hub to download from: the reading half of the protocol, enough for the real client. Faults are set by attribute."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ReadOnlyHub:
    """Repositories as dictionaries of files. `gated` and `missing` answer as the Hub does; `silent` never answers."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.gated: set[str] = set()
        self.silent = False
        self.html = False
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        self.requests.append((request.command, path))
        self.tokens.add(request.headers.get("Authorization"))
        if self.silent:
            self.released.wait(60)
        if self.html:
            return send(request, 200, b"<html>Welcome to the hotel!</html>", {"Content-Type": "text/html"})
        for pattern, respond in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
        ):
            if found := re.fullmatch(pattern, path):
                return self._guarded(request, respond, *found.groups())
        return send(request, 404, b"{}")

    def _guarded(self, request, respond, repository, revision, *rest) -> None:
        if repository not in self.repositories:
            return send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if repository in self.gated:
            return send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        if revision not in (None, "main", COMMIT):
            return send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return respond(request, repository, *rest)

    def _info(self, request, repository) -> None:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.repositories[repository].items()]
        body = {"id": repository, "private": False, "sha": COMMIT, "siblings": siblings}
        send(request, 200, json.dumps(body).encode())

    def _tree(self, request, repository) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.repositories[repository].items()
        ]
        send(request, 200, json.dumps(entries).encode())

    def _file(self, request, repository, name) -> None:
        data = self.repositories[repository].get(name)
        if data is None:
            return send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return send(request, 200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})


def send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@contextmanager
def serve(repositories: dict[str, dict[str, bytes]]):
    """A running Hub; hanging answers are let go at the end."""
    hub = ReadOnlyHub(repositories)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
