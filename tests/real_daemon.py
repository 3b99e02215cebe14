"""`appliance serve` as a process on folders of its own, with tokens, for what is watched from outside."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.served import API_TOKEN, READ_TOKEN, Client

DEADLINE_SECONDS = 240.0
RECIPE = "base_model: demo\nmax_steps: {steps}\nper_device_train_batch_size: 2\neffective_batch_size: 2\n"
ROW = {
    "messages": [{"role": "user", "content": "Where is my parcel {n}?"}, {"role": "assistant", "content": "At {n}."}]
}


def rows(count: int, *, first: int = 0) -> str:
    lines = (json.dumps(ROW).replace("{n}", str(number)) for number in range(first, first + count))
    return "".join(line + "\n" for line in lines)


class RealDaemon:
    """A served appliance. `settings` are environment variables without the prefix; `module` is what is started."""

    def __init__(self, root: Path, *, module: str = "appliance", **settings: str) -> None:
        self.module = module
        self.root, self.inbox, self.outbox = root, root / "inbox", root / "outbox"
        (root / "recipes").mkdir()
        (root / "recipes" / "default.yaml").write_text(RECIPE.format(steps=2))
        (root / "api_token").write_text(API_TOKEN + "\n")
        (root / "read_token").write_text(READ_TOKEN + "\n")
        folders = {name: str(root / name) for name in ("inbox", "outbox", "recipes", "state", "models")}
        quick = {"quiet_seconds": "0.3", "pair_seconds": "0.6", "scan_seconds": "0.2", "listen": "127.0.0.1:0"}
        tokens = {"api_token_file": str(root / "api_token"), "read_token_file": str(root / "read_token")}
        given = {f"APPLIANCE_{name.upper()}": text for name, text in {**folders, **quick, **tokens, **settings}.items()}
        self.environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **given}
        self.start()

    def start(self) -> None:
        logged = len(self.log())
        with (self.root / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "serve"],
                cwd=self.root,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.wait_for(lambda: "http://" in self.log()[logged:])
        host, _, port = self.log()[logged:].partition("http://")[2].split()[0].partition(":")
        self.address = (host, int(port))
        self.client = Client(self.address)
        self.wait_for(lambda: self.client.get("/readyz").status == 200)

    def log(self) -> str:
        path = self.root / "daemon.log"
        return path.read_text() if path.exists() else ""

    def drop(self, name: str, *, steps: int, count: int = 40, first: int = 0) -> None:
        (self.inbox / f"{name}.yaml").write_text(RECIPE.format(steps=steps))
        (self.inbox / f"{name}.jsonl").write_text(rows(count, first=first))

    def job(self, number: int) -> dict | None:
        """What the API tells of a job; None while there is none."""
        answer = self.client.get(f"/api/v1/jobs/{number}")
        return answer.json() if answer.status == 200 else None

    def wait_for(self, condition: Callable[[], object], *, seconds: float = DEADLINE_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log()[-3000:]
            assert time.monotonic() < end, self.log()[-3000:]
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)
