"""The compose stack on a copy of the project, as somebody has it who followed README: started, asked, stopped."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from tests.container.engine import ROOT, WORK, Engine

# A user that no /etc/passwd knows.
UID: Final = 4321
PARTS: Final = ("compose.yaml", "compose.cpu.yaml", ".env.example", "Makefile", "container", "monitoring", "recipes")
DEADLINE_SECONDS: Final = 240
PEOPLE: Final = {"anna": "Hase-im-Feld-17", "ben": "Fuchs,bau:23$"}

SETTINGS: Final = {
    "APPLIANCE_QUIET_SECONDS": "1",
    "APPLIANCE_PAIR_SECONDS": "2",
    "APPLIANCE_MEMORY_RESERVE_GB": "1",
    "APPLIANCE_DISK_RESERVE_GB": "1",
    "TZ": "Europe/Berlin",
}


class Stack:
    """One project folder and what runs from it."""

    def __init__(self, engine: Engine, *, name: str = "test") -> None:
        self.engine = engine
        self.name = f"spark-appliance-{name}"
        self.folder = WORK / self.name
        self.ports = {name: _free_port() for name in ("PAGES_PORT", "GRAFANA_PORT", "SHARE_PORT")}
        self.secrets: dict[str, str] = {}

    def lay_out(self) -> None:
        """A fresh checkout, `make secrets`, two people, and settings that do not make a test wait."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, self.folder / part)
        (self.folder / "inbox").mkdir()
        (self.folder / "outbox").mkdir()
        user = {"SUDO_UID": str(UID), "SUDO_GID": str(UID), "SUDO_USER": "Erika Mustermann"}
        subprocess.run(["make", "secrets"], cwd=self.folder, check=True, env={**os.environ, **user}, timeout=60)
        lines = [f"{name}={value}" for name, value in {**SETTINGS, **self.ports}.items()]
        with (self.folder / ".env").open("a") as file:
            file.write("\n".join([*lines, ""]))
        accounts = self.folder / "secrets" / "share_accounts"
        accounts.write_text("# people\n" + "".join(f"{name}:{word}\n" for name, word in PEOPLE.items()))
        for path in (self.folder / "secrets").iterdir():
            self.secrets[path.name] = path.read_text().strip()

    def compose(self, *words: object, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        files = ("-p", self.name, "-f", "compose.yaml", "-f", "compose.cpu.yaml")
        done = self.engine.run("compose", *files, *words, cwd=self.folder, timeout=timeout)
        said = f"docker compose {' '.join(map(str, words))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        assert not check or done.returncode == 0, f"{said}\n{self.logs() if 'logs' not in words else ''}"
        return done

    def logs(self, service: str = "", *, lines: str = "80") -> str:
        words = ("logs", "--no-color", "--tail", lines, *([service] if service else []))
        return self.compose(*words, check=False).stdout

    def container(self, service: str = "appliance") -> str:
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def inspect(self, service: str = "appliance") -> dict[str, Any]:
        return json.loads(self.engine.docker("inspect", self.container(service)))[0]

    def execute(self, *words: object, service: str = "appliance", check: bool = True) -> str:
        return self.compose("exec", "--no-TTY", service, *words, check=check).stdout

    def python(self, program: str, *words: object) -> Any:
        """What a program prints as JSON in the appliance's container."""
        return json.loads(self.execute("python", "-c", program, *words).splitlines()[-1])

    def job(self, number: int) -> dict[str, Any] | None:
        done = self.compose("exec", "--no-TTY", "appliance", "appliance", "show", number, "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def state(self, number: int) -> str | None:
        job = self.job(number)
        return job and job["state"]

    def events(self, job: str, stage: str) -> list[dict[str, Any]]:
        done = self.compose(
            *("exec", "--no-TTY", "appliance", "cat", f"/srv/state/jobs/{job}/{stage}/progress.jsonl"), check=False
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]

    def steps(self, job: str) -> list[dict[str, Any]]:
        return [event for event in self.events(job, "train") if event["event"] == "step"]

    def starts(self, job: str) -> list[dict[str, Any]]:
        """How each attempt at a training began."""
        return [event for event in self.events(job, "train") if event["event"] == "start"]

    def set(self, name: str, value: str) -> None:
        """A line of .env; the last one counts."""
        with (self.folder / ".env").open("a") as file:
            file.write(f"{name}={value}\n")

    def drop(self, name: str, text: str) -> None:
        """Put a file into the inbox as somebody at the machine itself does."""
        path = self.folder / "inbox" / f".{name}.tmp"
        path.write_text(text)
        os.chown(path, UID, UID)
        path.rename(path.with_name(name))

    def smb(self, person: str | None, share: str, commands: str) -> subprocess.CompletedProcess[str]:
        """smbclient as one person, or as nobody, in a folder of its own."""
        folder = WORK / "desk"
        folder.mkdir(exist_ok=True)
        login = ["--user", f"{person}%{PEOPLE[person]}"] if person else ["--no-pass"]
        return subprocess.run(
            [
                *("smbclient", f"//127.0.0.1/{share}", "--port", str(self.ports["SHARE_PORT"]), *login),
                *("--max-protocol", "SMB3", "--command", commands),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def address(self, service: str) -> str:
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return next(iter(networks.values()))["IPAddress"]

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        url = f"http://{self.address('prometheus')}:9090/api/v1/query?query={urllib.parse.quote(query)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]

    def wait(self, condition: Callable[[], object], what: str, *, seconds: float = DEADLINE_SECONDS) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"after {seconds:.0f} s not yet: {what}\n{self.logs()}"
            time.sleep(0.5)
        return found

    def remove(self) -> None:
        self.engine.run("compose", "-p", self.name, "down", "--volumes", "--remove-orphans", "--timeout", "5", cwd=WORK)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(WORK / "desk", ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
