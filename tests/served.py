"""The HTTP port for tests: a served appliance without a loop, where the test says how things stand, and a client."""

import http.client
import json
import urllib.parse
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from appliance.inbox import Availability
from appliance.job import Job
from appliance.machine_watch import MachineReading
from appliance.settings import Settings
from appliance.store import Store
from appliance.view import View
from appliance.web.access import Access, allowed_hosts
from appliance.web.app import make_app
from appliance.web.server import WebServer
from appliance.web.site import Site

NOW = 1_790_000_000.0
VIEW = View(NOW, 100.0, True, Availability.AVAILABLE, (), (), {}, NOW - 1, False)
API_TOKEN = "api-token-of-this-test"
READ_TOKEN = "read-token-of-this-test"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """A program or a browser without scripts: it keeps cookies and follows nothing by itself."""

    address: tuple[str, int]
    headers: dict[str, str] = field(default_factory=dict)
    cookie: str = ""

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        given = {**self.headers, **({"Cookie": self.cookie} if self.cookie else {})}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()
        if cookie := answer.headers.get("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        body = urllib.parse.urlencode(form or {}).encode()
        return self.ask("POST", path, body, **{"Content-Type": "application/x-www-form-urlencoded", **headers})

    def upload(
        self, files: dict[str, bytes], fields: dict[str, str] | None = None, path: str = "/api/v1/drops", **headers: str
    ) -> Answer:
        boundary = uuid.uuid4().hex
        parts = [form_part(boundary, name, value) for name, value in (fields or {}).items()]
        parts += [file_part(boundary, name, content) for name, content in files.items()]
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.ask("POST", path, body, Content_Type=f"multipart/form-data; boundary={boundary}", **headers)

    def log_in(self, token: str = API_TOKEN, next: str = "/") -> Answer:
        return self.post("/login", {"token": token, "next": next}, Accept="text/html")

    def csrf(self, path: str = "/") -> str:
        """The proof in the forms of a page."""
        return self.get(path).text.partition('name="csrf" value="')[2].partition('"')[0]


def form_part(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file_part(boundary: str, filename: str, content: bytes) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
    return f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content + b"\r\n"


class Served:
    """A served appliance without a loop."""

    def __init__(self, root: Path, **settings: object) -> None:
        folders = {name: root / name for name in ("inbox", "outbox", "recipes", "state", "models")}
        for folder in (*folders.values(), root / "state" / "jobs"):
            folder.mkdir(exist_ok=True)
        self.settings = Settings(**{**folders, **settings})  # type: ignore[arg-type]
        self.inbox, self.outbox, self.jobs = root / "inbox", root / "outbox", root / "state" / "jobs"
        self.store = Store(root / "state" / "appliance.sqlite")
        self.view, self.now, self.machine = VIEW, NOW, MachineReading({})
        hosts = allowed_hosts("127.0.0.1", self.settings.allowed_hosts)
        self.site = Site(
            store=self.store,
            view=lambda: self.view,
            settings=self.settings,
            jobs=self.jobs,
            access=Access(hosts, self.settings.api_token, self.settings.read_token),
            clock=lambda: self.now,
            recipes=lambda: ("default", "demo"),
            machine=lambda: self.machine,
        )
        self.server = WebServer(make_app(self.site), "127.0.0.1:0", stopping=self.site.stopping)
        self.server.start()
        self.client = self.browser()

    def browser(self, **headers: str) -> Client:
        return Client(self.server.address, {name.replace("_", "-"): value for name, value in headers.items()})

    def stop(self) -> None:
        self.server.stop()

    def add(self, job: Job) -> Job:
        self.store.add_job(job)
        (self.jobs / job.id).mkdir()
        return job

    def asked(self) -> list[tuple[str, str]]:
        """What was asked of the loop."""
        return [(request.action, request.target) for request in self.store.requests()]

    def sample(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == f"appliance_{name}" and sample.labels == labels:
                    return sample.value
        return None
