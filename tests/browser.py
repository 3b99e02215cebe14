"""A real Chromium without a window, spoken to over its debugging pipe: what it drew, and what it tried to fetch."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking")
SECONDS = 30


class Page:
    """One tab. `requests` are the addresses it asked for, `dialogs` what scripts popped up."""

    def __init__(self, to_browser: IO[bytes], from_browser: IO[bytes]) -> None:
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self._loaded = False
        self._to, self._from = to_browser.fileno(), from_browser.fileno()
        self._session: str | None = None
        self._read = b""
        self._number = 0
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network"):
            self._ask(f"{domain}.enable")

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Be a screen of this size whose owner likes it light or dark."""
        phone = width < 500
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        preference = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[preference])

    def open(self, path: Path) -> None:
        """Show a file, and return when all of it is there."""
        self._loaded = False
        self._ask("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + SECONDS
        while not self._loaded:
            self._hear(deadline)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, **parameters)
        deadline = time.monotonic() + SECONDS
        while (answer := self._hear(deadline)).get("id") != number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _send(self, method: str, **parameters: Any) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._number

    def _hear(self, deadline: float) -> dict[str, Any]:
        """The next message; events leave their mark."""
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium was silent for {SECONDS} s"
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium ended"
            self._read += part
        line, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, facts: dict[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(facts["request"]["url"])
            case "Page.javascriptDialogOpening":
                self.dialogs.append(facts["message"])
                # The page waits for it.
                self._send("Page.handleJavaScriptDialog", accept=True)
            case "Page.loadEventFired":
                self._loaded = True


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A tab of a browser of its own, gone afterwards."""
    assert CHROMIUM, "no Chromium here"
    browser = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
    # It reads from descriptor 3 and writes to 4.
    command = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh", *browser]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    with process:
        try:
            yield Page(process.stdin, process.stdout)
        finally:
            # All of its processes: they would outlive the first one's sudden end.
            os.killpg(process.pid, signal.SIGKILL)
