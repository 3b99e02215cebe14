"""A real Prometheus of a test's own, on loopback, scraping every second."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMETHEUS = shutil.which("prometheus")
RULES = Path(__file__).parents[1] / "monitoring" / "prometheus" / "rules" / "appliance.yml"
SECONDS = 60


class Prometheus:
    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=30) as answer:
            told = json.loads(answer.read())
        assert told["status"] == "success", told
        return told["data"]

    def over(self, expression: str, *, seconds: float) -> list[dict[str, Any]]:
        """The series of an expression over the last seconds."""
        now = time.time()
        data = self.ask("query_range", query=expression, start=str(now - seconds), end=str(now), step="1")
        return data["result"]

    def firing(self) -> list[dict[str, str]]:
        """The labels of every alert that fires."""
        return [alert["labels"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]


def filled_in(expression: str, *, rate: str = "1m", shown: str = "3h") -> str:
    """What Grafana sends to Prometheus, with the time that a rate goes over and the time that is shown."""
    for name, value in (("$__rate_interval", rate), ("$__range", shown), ("$job_id", "1")):
        expression = expression.replace(name, value)
    return expression


@contextmanager
def prometheus(folder: Path, target: tuple[str, int], *, rules: Callable[[str], str] = str) -> Iterator[Prometheus]:
    """Prometheus scraping `target`; `rules` may change the text of the alert rules."""
    assert PROMETHEUS, "no prometheus here"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yml").write_text(rules(RULES.read_text()))
    jobs = f"[{{job_name: appliance, static_configs: [{{targets: ['{target[0]}:{target[1]}']}}]}}]"
    every = "{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}"
    config = f"global: {every}\nrule_files: [{folder / 'rules.yml'}]\nscrape_configs: {jobs}\n"
    (folder / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    storage = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROMETHEUS, *storage, f"--web.listen-address={address}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        wait_until_ready(address, process, folder / "log")
        yield Prometheus(address)
    finally:
        process.kill()
        process.wait(SECONDS)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
