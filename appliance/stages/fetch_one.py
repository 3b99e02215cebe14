"""One repository on its way from the Hub: a program that is started, watched, and killed when it hangs."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.disk import reserve_bytes, space_of
from appliance.errors import NotReadyError, StageFailure
from appliance.job import FailureClass, Waiting
from appliance.job_dir import ProgressWriter
from appliance.model_shelf import room_hint
from appliance.models import cache_folder, repository_folder, size_of
from appliance.processes import PARENT
from appliance.settings import Settings

# Downloads over Xet can hang in native code for ever; only killing the process helps.
STUCK_SECONDS = 180.0
LOOK_SECONDS = 0.5


class Download:
    """A model on its way into the cache, or its configuration alone, or the rows of a dataset."""

    def __init__(
        self,
        repository: str,
        revision: str | None,
        folder: Path,
        settings: Settings,
        *,
        config_to: Path | None = None,
        dataset_to: Path | None = None,
        most_bytes: int = 0,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self.repository, self.folder, self.stuck_seconds = repository, folder, stuck_seconds
        self.settings = settings
        self.cache = cache_folder(settings)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.arriving = dataset_to or repository_folder(repository, self.cache) / "blobs"
        self.token = settings.hub_read_token
        self.request = json.dumps(
            {
                "repository": repository,
                "revision": revision,
                "keep_free_bytes": reserve_bytes(settings, space_of(self.cache)),
                "config_to": str(config_to) if config_to else None,
                "dataset_to": str(dataset_to) if dataset_to else None,
                "most_bytes": most_bytes,
            }
        )

    def run(self) -> Path:
        """The directory of the snapshot. Raises StageFailure or NotReadyError."""
        answer = self.answer()
        if "path" not in answer:
            raise StageFailure(FailureClass.MODEL_UNAVAILABLE, answer["message"], hint=answer["hint"])
        return Path(answer["path"])

    def answer(self) -> dict[str, Any]:
        """What came of it: a path, or `unavailable`. A transfer that hangs or breaks is tried once more without Xet.

        Raises NotReadyError when the network or the disk is not up to it, StageFailure for a fault of ours.
        """
        answer = self._attempt(xet=True)
        if answer.get("error") in ("xet", "stuck"):
            answer = self._attempt(xet=False)
        if answer.get("error") in (None, "unavailable"):
            return answer
        raise _failure(answer, self.settings)

    def _attempt(self, *, xet: bool) -> dict[str, Any]:
        answers = self.folder / "download.jsonl"
        with answers.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "appliance.stages.download"],
                stdin=subprocess.PIPE,
                stdout=out,
                env=self._environment(xet=xet),
            )
        assert child.stdin is not None
        child.stdin.write(self.request.encode())
        child.stdin.close()
        with closing(ProgressWriter(self.folder)) as progress:
            ended = self._watch(child, answers, progress)
        if not ended:
            child.kill()
            child.wait()
            return {"error": "stuck", "message": f"nothing arrived for {self.stuck_seconds:.0f} seconds", "hint": None}
        crash = {"error": "crash", "message": f"the download ended with code {child.returncode}", "hint": None}
        return next((entry for entry in reversed(_read(answers)) if "total" not in entry), crash)

    def _watch(self, child: subprocess.Popen[bytes], answers: Path, progress: ProgressWriter) -> bool:
        """Report the bytes that have arrived until the child ends. False: nothing has arrived for too long."""
        seen, last_seen = -1, time.monotonic()
        while True:
            try:
                child.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            else:
                return True
            arrived = size_of(self.arriving)
            if arrived != seen:
                seen, last_seen = arrived, time.monotonic()
                total = next((entry["total"] for entry in _read(answers) if "total" in entry), None)
                progress.write("progress", done=arrived, total=total, unit="bytes")
            elif time.monotonic() - last_seen > self.stuck_seconds:
                return False

    def _environment(self, *, xet: bool) -> dict[str, str]:
        ours = {"HF_HOME": str(self.cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        ours["HF_XET_HIGH_PERFORMANCE"] = "1"
        ours |= {PARENT: str(os.getpid())}
        ours |= {"HF_TOKEN": self.token} if self.token else {}
        ours |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
        inherited = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
        return inherited | ours


def _read(answers: Path) -> list[dict[str, Any]]:
    # The last line may still be on its way.
    whole = answers.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _failure(answer: dict[str, Any], settings: Settings) -> Exception:
    kind, message = answer["error"], answer["message"]
    if kind == "disk":
        # In the message, which the board shows: a waiting job has no place for a hint.
        return NotReadyError(f"{message}. {room_hint(settings)}", waiting=Waiting.DISK)
    if kind == "crash":
        return StageFailure(FailureClass.INTERNAL, message)
    return NotReadyError(message, waiting=Waiting.NETWORK, hint="It is tried again by itself.")
