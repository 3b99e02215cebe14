"""A Hub of our own that the real client pushes to and loads from: the wire protocol, repositories in memory, faults.

`serve()` gives a running one. Uploads take the Xet path into `local://` storage, which the real hf_xet fills, or the
LFS path, as the client chooses. Everything that is asked is kept in `requests`; `faults` and `watch` let a test break,
hold or look into any of it.
"""

import base64
import hashlib
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

import hf_xet

# hf_xet reads these once, when it is first used in a process; by itself it would try for minutes.
os.environ |= {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms"}

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".gz")
SILENCE_SECONDS = 120.0
# Of models that are there to be read.
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Blob:
    """A file of a commit: its bytes, or of a large one only what the Hub knows of it."""

    sha256: str
    size: int
    data: bytes | None = None

    @property
    def oid(self) -> str:
        data = self.data if self.data is not None else f"oid sha256:{self.sha256}".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def blob(data: bytes) -> Blob:
    return Blob(hashlib.sha256(data).hexdigest(), len(data), data)


@dataclass
class Repo:
    """A repository: commits by id, what branches and tags point at, and whether it is private."""

    private: bool = True
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Blob], summary: str, oid: str | None = None) -> str:
        oid = oid or hashlib.sha1(f"{len(self.commits)} {summary} {time.time_ns()}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        self.log.append((branch, summary))
        return oid

    def resolve(self, revision: str) -> str | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return oid if oid in self.commits else None

    def files(self, revision: str = "main") -> dict[str, Blob]:
        return self.commits[self.resolve(revision) or ""]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    token: str | None
    body: bytes
    query: dict[str, list[str]]

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Fault:
    """What happens to the requests of `method` whose path matches, from the `first` such on, `times` times.

    `do` is an answer (status, headers, body), or one of: `drop` (the connection is cut, nothing done), `apply, drop`
    (done, and the reply lost), `silent` (no answer), `drip` (a byte of the answer a second), `html`.
    """

    method: str
    path: str
    do: str | tuple[int, dict[str, str], bytes]
    first: int = 1
    times: int = 10**9
    seen: int = 0

    def applies(self, asked: Asked) -> bool:
        if asked.method != self.method or not re.search(self.path, asked.path):
            return False
        self.seen += 1
        return self.first <= self.seen < self.first + self.times


Answer = tuple[int, dict[str, str], bytes]
Watch = Callable[[int, Asked, bool], None]


class LocalHub:
    """Repositories, users and faults. Everything may be changed while it runs."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.repos: dict[str, Repo] = {}
        """By id; datasets as `datasets/org/name`."""
        self.users: dict[str, dict] = {}
        """By token: what whoami answers."""
        self.objects: dict[str, bytes] = {}
        self.sources: dict[str, Path] = {}
        """Files that were pushed over Xet, by sha256: their Xet hash is computed from them, their bytes are not."""
        self.requests: list[Asked] = []
        self.faults: list[Fault] = []
        self.watch: Watch = lambda number, asked, done: None
        self.clock_shift = 0.0
        self.creates_public = False
        self.multipart_bytes = 10**9
        self.released = threading.Event()
        self.lock = threading.RLock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.serve(self)

            do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + hub.clock_shift)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, address: object) -> None:
                """Clients that are killed in mid-request are the point of many tests."""

        self.server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def user(self, token: str, name: str = "bot", role: str = "write", **orgs: str) -> None:
        """Let a token in: of user `name`, with these roles in organisations."""
        self.users[token] = {
            "type": "user",
            "name": name,
            "orgs": [{"type": "org", "name": org, "roleInOrg": in_org} for org, in_org in orgs.items()],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }

    def add(self, name: str, files: dict[str, bytes], *, private: bool = True, commit: str | None = None) -> Repo:
        repo = self.repos[name] = Repo(private)
        repo.commit("main", {path: blob(data) for path, data in files.items()}, "somebody's", commit)
        return repo

    def fault(self, method: str, path: str, do: str | Answer, **how: int) -> None:
        self.faults.append(Fault(method, path, do, **how))

    def asked(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.requests if asked.method == method and re.search(path, asked.path)]

    # One request

    def serve(self, http: BaseHTTPRequestHandler) -> None:
        path, _, query = http.path.partition("?")
        bearer = http.headers.get("Authorization", "").partition("Bearer ")[2] or None
        asked = Asked(http.command, unquote(path), bearer, read_body(http), parse_qs(query))
        with self.lock:
            self.requests.append(asked)
            number = len(self.requests)
        self.watch(number, asked, False)
        fault = next((fault.do for fault in self.faults if fault.applies(asked)), None)
        if fault == "drop":
            return cut(http)
        if fault == "silent":
            self.released.wait(SILENCE_SECONDS)
            return cut(http)
        if fault == "html":
            return send(http, (200, {"Content-Type": "text/html"}, b"<html>Welcome to the hotel!</html>"))
        if isinstance(fault, tuple):
            return send(http, fault)
        with self.lock:
            answer = self.answer(asked)
        self.watch(number, asked, True)
        if fault == "apply, drop":
            return cut(http)
        return send(http, answer, drip=self.released if fault == "drip" else None)

    def answer(self, asked: Asked) -> Answer:
        if found := re.fullmatch(r"/(?:storage|part)/(\w+)(?:/(\d+))?", asked.path):
            return self.store(asked, *found.groups())
        if asked.token is not None and asked.token not in self.users:
            return error(401, "Invalid credentials in Authorization header", code="")
        for method, pattern, respond in self.routes():
            if asked.method in method and (found := re.fullmatch(pattern, asked.path)):
                return respond(asked, *found.groups())
        return error(404, "Not Found")

    def routes(self):
        api = r"/api/(models|datasets)/([^/]+/[^/]+)"
        return (
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/repos/create", self.create),
            ("DELETE", "/api/repos/delete", self.delete),
            ("POST", "/api/validate-yaml", self.validate),
            ("GET", api + "(?:/revision/([^/]+))?", self.guarded(self.info)),
            ("GET", api + "/tree/([^/]+)", self.guarded(self.tree)),
            ("GET", api + "/refs", self.guarded(self.refs)),
            ("POST", api + "/preupload/([^/]+)", self.writing(self.preupload)),
            ("POST", api + "/commit/([^/]+)", self.writing(self.commit)),
            ("POST", api + "/branch/([^/]+)", self.writing(self.branch)),
            ("DELETE", api + "/branch/([^/]+)", self.writing(self.drop_branch)),
            ("POST", api + "/tag/([^/]+)", self.writing(self.tag)),
            ("DELETE", api + "/tag/([^/]+)", self.writing(self.drop_tag)),
            ("GET", api + "/xet-write-token/([^/]+)", self.writing(self.xet_token)),
            ("GET", api + "/xet-read-token/([^/]+)", self.guarded(self.xet_token)),
            ("POST", r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.writing(self.batch)),
            (
                "POST",
                r"/verify/(\w+)",
                lambda asked, oid: reply({}) if oid in self.objects else error(404, "no object"),
            ),
            ("GET HEAD", r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.guarded(self.file)),
        )

    # Who may

    def guarded(self, respond):
        """Private repositories do not exist for who may not see them."""

        def respond_if_seen(asked: Asked, kind: str | None, name: str, *rest) -> Answer:
            repo = self.repos.get(f"datasets/{name}" if kind and kind.startswith("datasets") else name)
            if repo is None or (repo.private and not self.role(asked.token, name)):
                return error(404 if asked.token else 401, "Repository not found", code="RepoNotFound")
            return respond(asked, repo, name, *rest)

        return respond_if_seen

    def writing(self, respond):
        def respond_if_allowed(asked: Asked, repo: Repo, name: str, *rest) -> Answer:
            if self.role(asked.token, name) not in ("write", "admin"):
                return error(403, "You don't have the rights to write to this repository", code="")
            return respond(asked, repo, name, *rest)

        return self.guarded(respond_if_allowed)

    def role(self, token: str | None, name: str) -> str | None:
        user, namespace = self.users.get(token or ""), name.partition("/")[0]
        if user is None:
            return None
        own = {org["name"]: org["roleInOrg"] for org in user["orgs"]} | {user["name"]: "admin"}
        in_org = own.get(namespace)
        return in_org if user["auth"]["accessToken"]["role"] != "read" or in_org is None else "read"

    # What there is

    def whoami(self, asked: Asked) -> Answer:
        user = self.users.get(asked.token or "")
        return reply(user) if user else error(401, "Invalid user token.")

    def create(self, asked: Asked) -> Answer:
        wanted = asked.json()
        user = self.users.get(asked.token or "")
        if user is None:
            return error(401, "Unauthorized")
        name = f"{wanted['organization'] or user['name']}/{wanted['name']}"
        if self.role(asked.token, name) not in ("write", "admin"):
            return error(
                403, f'You don\'t have the rights to create a model under the namespace "{wanted["organization"]}"'
            )
        if name in self.repos:
            body = {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            return 409, {"Content-Type": "application/json"}, json.dumps(body).encode()
        repo = self.repos[name] = Repo(private=wanted.get("visibility") == "private" and not self.creates_public)
        repo.commit("main", {".gitattributes": blob(GITATTRIBUTES)}, "initial commit")
        return reply({"url": f"{self.url}/{name}", "name": name, "id": hashlib.sha1(name.encode()).hexdigest()[:24]})

    def delete(self, asked: Asked) -> Answer:
        wanted = asked.json()
        return self.writing(self.delete_found)(asked, "models", f"{wanted['organization']}/{wanted['name']}")

    def delete_found(self, asked: Asked, repo: Repo, name: str) -> Answer:
        del self.repos[name]
        return reply({})

    def validate(self, asked: Asked) -> Answer:
        """The card check, with the Hub's rules that matter for an adapter."""
        errors = [{"message": problem} for problem in card_problems(asked.json()["content"])]
        status, headers, body = reply({"errors": errors, "warnings": []})
        return 400 if errors else status, headers, body

    def info(self, asked: Asked, repo: Repo, name: str, revision: str | None) -> Answer:
        oid = repo.resolve(revision or "main")
        if oid is None:
            return error(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        siblings = [{"rfilename": path, "size": entry.size} for path, entry in sorted(repo.commits[oid].items())]
        return reply(
            {"_id": "0" * 24, "id": name, "modelId": name, "private": repo.private, "sha": oid, "siblings": siblings}
        )

    def tree(self, asked: Asked, repo: Repo, name: str, revision: str) -> Answer:
        oid = repo.resolve(revision)
        if oid is None:
            return error(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return reply([tree_entry(path, entry) for path, entry in sorted(repo.commits[oid].items())])

    def refs(self, asked: Asked, repo: Repo, name: str) -> Answer:
        def listed(kind: str, refs: dict[str, str]) -> list[dict]:
            return [{"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": oid} for ref, oid in refs.items()]

        return reply({"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []})

    # Writing

    def preupload(self, asked: Asked, repo: Repo, name: str, revision: str) -> Answer:
        files = []
        for entry in asked.json()["files"]:
            large = entry["path"].endswith(LFS_SUFFIXES) or entry["size"] > 10_000_000
            known = repo.files(revision).get(entry["path"]) if repo.resolve(revision) else None
            oid = known and (known.oid if known.data is not None else known.sha256)
            mode = "lfs" if large else "regular"
            files.append({"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return reply({"files": files})

    def batch(self, asked: Asked, repo: Repo, name: str) -> Answer:
        objects = [self.batch_object(entry["oid"], entry["size"]) for entry in asked.json()["objects"]]
        return reply({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")

    def batch_object(self, oid: str, size: int) -> dict:
        entry: dict = {"oid": oid, "size": size}
        if oid in self.objects:
            return entry
        verify = {"href": f"{self.url}/verify/{oid}"}
        upload: dict = {"href": f"{self.url}/storage/{oid}"}
        if size > self.multipart_bytes:
            parts = -(-size // self.multipart_bytes)
            urls = {f"{part:05d}": f"{self.url}/part/{oid}/{part}" for part in range(1, parts + 1)}
            upload["header"] = {"chunk_size": str(self.multipart_bytes), **urls}
        return {**entry, "actions": {"upload": upload, "verify": verify}}

    def store(self, asked: Asked, oid: str, part: str | None) -> Answer:
        """Object storage: no Authorization gets here, and bytes that are not what they claim to be are refused."""
        assert asked.token is None, "the token went to the storage"
        if part is not None:
            (self.storage / f"{oid}.{int(part):05d}").write_bytes(asked.body)
            return 200, {"ETag": f'"{hashlib.md5(asked.body).hexdigest()}"'}, b""
        data = asked.body
        if asked.method == "POST":
            data = b"".join(path.read_bytes() for path in sorted(self.storage.glob(f"{oid}.*")))
        if hashlib.sha256(data).hexdigest() != oid:
            return error(400, "the checksum does not match")
        self.objects[oid] = data
        return reply({})

    def xet_token(self, asked: Asked, repo: Repo, name: str, revision: str) -> Answer:
        expires, url = str(int(time.time()) + 3600), f"local://{self.storage}"
        headers = {"X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": expires, "X-Xet-Cas-Url": url}
        body = {"accessToken": "xet", "exp": int(expires), "casUrl": url}
        return 200, {**headers, "Content-Type": "application/json"}, json.dumps(body).encode()

    def commit(self, asked: Asked, repo: Repo, name: str, branch: str) -> Answer:
        lines = [json.loads(line) for line in asked.body.splitlines()]
        header = lines[0]["value"]
        if branch not in repo.branches:
            return error(404, f"Invalid rev id: {branch}", code="RevisionNotFound")
        if header.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
            return error(412, "A commit has happened since. Please refresh and try again.", code="")
        files = dict(repo.files(branch))
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = blob(base64.b64decode(value["content"]))
                case "lfsFile":
                    files[value["path"]] = Blob(value["oid"], value["size"])
                case "deletedFile":
                    del files[value["path"]]
        oid = repo.commit(branch, files, header["summary"])
        return reply({"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"})

    def branch(self, asked: Asked, repo: Repo, name: str, branch: str) -> Answer:
        if branch in repo.branches:
            return error(409, "Reference already exists", code="")
        repo.branches[branch] = repo.resolve(asked.json().get("startingPoint", "main")) or ""
        return reply({})

    def tag(self, asked: Asked, repo: Repo, name: str, revision: str) -> Answer:
        tag = asked.json()["tag"]
        if tag in repo.tags:
            return error(409, "Tag reference exists already", code="")
        repo.tags[tag] = repo.resolve(revision) or ""
        return reply({})

    def drop_branch(self, asked: Asked, repo: Repo, name: str, branch: str) -> Answer:
        return reply({}) if repo.branches.pop(branch, None) else error(404, "no such branch", code="RevisionNotFound")

    def drop_tag(self, asked: Asked, repo: Repo, name: str, tag: str) -> Answer:
        return reply({}) if repo.tags.pop(tag, None) else error(404, "no such tag", code="RevisionNotFound")

    # Downloads

    def file(self, asked: Asked, repo: Repo, name: str, revision: str, path: str) -> Answer:
        oid = repo.resolve(revision)
        if oid is None:
            return error(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        entry = repo.commits[oid].get(path)
        if entry is None:
            return error(404, "Entry not found", code="EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{entry.oid}"'}
        if entry.data is not None:
            return 200, headers, entry.data
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.sha256}"'}
        if entry.sha256 in self.sources:
            hashed = hf_xet.hash_files([str(self.sources[entry.sha256])])[0]
            headers |= {
                "X-Xet-Hash": hashed.hash,
                "X-Xet-Refresh-Route": f"{self.url}/api/models/{name}/xet-read-token/{revision}",
            }
        return 200, headers, self.objects.get(entry.sha256, b"")


def tree_entry(path: str, entry: Blob) -> dict:
    lfs = {"lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}} if entry.data is None else {}
    return {"type": "file", "oid": entry.oid, "size": entry.size, "path": path, **lfs}


def card_problems(content: str) -> Iterator[str]:
    """What the Hub would find wrong with a card's metadata."""
    from ruamel.yaml import YAML

    from appliance.texts.model_card import HUB_LICENSES

    found = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    metadata = YAML(typ="safe", pure=True).load(found[1]) if found else None
    if not isinstance(metadata, dict):
        yield "the card has no metadata"
        return
    if metadata.get("license", "mit") not in HUB_LICENSES:
        yield f'"license" must be one of the known ones, not {metadata["license"]}'
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        yield '"license_name" is required'
    base = metadata.get("base_model")
    if base is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        yield '"base_model" with value is not valid. Use a model id from https://hf.co/models.'
    if metadata.get("base_model_relation") not in (None, "adapter", "merge", "quantized", "finetune"):
        yield '"base_model_relation" is not valid'
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and 0 < len(tag) <= 100 for tag in tags):
        yield '"tags" must be a list of short words'


def reply(body: object, content_type: str = "application/json") -> Answer:
    return 200, {"Content-Type": content_type}, json.dumps(body).encode()


def error(status: int, message: str, *, code: str = "") -> Answer:
    headers = {"Content-Type": "application/json", "X-Error-Message": message}
    return status, headers | ({"X-Error-Code": code} if code else {}), json.dumps({"error": message}).encode()


def read_body(http: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in http.headers.get("Transfer-Encoding", ""):
        return http.rfile.read(int(http.headers.get("Content-Length", 0)))
    body = b""
    while size := int(http.rfile.readline(), 16):
        body += http.rfile.read(size)
        http.rfile.readline()
    http.rfile.readline()
    return body


def send(http: BaseHTTPRequestHandler, answer: Answer, *, drip: threading.Event | None = None) -> None:
    status, headers, body = answer
    http.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        http.send_header(name, value)
    http.end_headers()
    if http.command == "HEAD":
        return
    if drip is None:
        http.wfile.write(body)
        return
    for at in range(len(body)):
        http.wfile.write(body[at : at + 1])
        http.wfile.flush()
        if drip.wait(1.0):
            return


def cut(http: BaseHTTPRequestHandler) -> None:
    http.close_connection = True
    http.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serve_models(models: dict[str, dict[str, bytes]]) -> Iterator[LocalHub]:
    """A running Hub with these models, each at COMMIT, for everybody to read."""
    with serve() as hub:
        for name, files in models.items():
            hub.add(name, files, private=False, commit=COMMIT)
        yield hub


@contextmanager
def serve(storage: Path | None = None) -> Iterator[LocalHub]:
    """A running Hub; answers that are held back are let go at the end."""
    with tempfile.TemporaryDirectory(prefix="local-hub-") as made:
        hub = LocalHub(storage or Path(made))
        thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.released.set()
            hub.server.shutdown()
            hub.server.server_close()
            thread.join()
