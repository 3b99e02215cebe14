"""One repository on its way from the Hub: a program that is started, watched, and killed when it hangs."""

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.disk import reserve_bytes, space_of
from appliance.errors import NotReadyError, StageFailure
from appliance.fetching import Wanted, read_answers, start_download
from appliance.job import FailureClass, Waiting
from appliance.job_dir import PROMISED, ProgressWriter
from appliance.model_shelf import room_hint
from appliance.models import cache_folder, repository_folder, size_of
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
        self.folder, self.settings, self.stuck_seconds = folder, settings, stuck_seconds
        cache = cache_folder(settings)
        cache.mkdir(parents=True, exist_ok=True)
        self.arriving = dataset_to or repository_folder(repository, cache) / "blobs"
        keep_free = reserve_bytes(settings, space_of(cache)) + _promised(folder)
        self.wanted = Wanted(repository, revision, keep_free, config_to, dataset_to, most_bytes)

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
        if "raw" in answer:
            # For the stage's log: people who wait are told it in words of their own.
            sys.stderr.write(f"{answer['raw']}\n")
        raise _failure(answer, self.settings)

    def _attempt(self, *, xet: bool) -> dict[str, Any]:
        answers = self.folder / "download.jsonl"
        with answers.open("wb") as out:
            child = start_download(self.wanted, self.settings, out, xet=xet)
        with closing(ProgressWriter(self.folder)) as progress:
            ended = self._watch(child, answers, progress)
        if not ended:
            child.kill()
            child.wait()
            return {"error": "stuck", "message": f"nothing arrived for {self.stuck_seconds:.0f} seconds", "hint": None}
        crash = {"error": "crash", "message": f"the download ended with code {child.returncode}", "hint": None}
        return next((entry for entry in reversed(read_answers(answers)) if "total" not in entry), crash)

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
                total = next((entry["total"] for entry in read_answers(answers) if "total" in entry), None)
                progress.write("progress", done=arrived, total=total, unit="bytes")
            elif time.monotonic() - last_seen > self.stuck_seconds:
                return False


def _promised(folder: Path) -> int:
    """What the daemon left word of: the room that running stages still need. None of it where it started nothing."""
    try:
        return int(json.loads((folder / PROMISED).read_text())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _failure(answer: dict[str, Any], settings: Settings) -> Exception:
    kind, message = answer["error"], answer["message"]
    if kind == "disk":
        # In the message, which the board shows: a waiting job has no place for a hint.
        return NotReadyError(f"{message}. {room_hint(settings)}", waiting=Waiting.DISK)
    if kind == "crash":
        return StageFailure(FailureClass.INTERNAL, message)
    return NotReadyError(message, waiting=Waiting.NETWORK, hint="It is tried again by itself.")
