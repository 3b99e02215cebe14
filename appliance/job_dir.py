"""A job directory: where everything about one job lies, and how stages leave word for the daemon.

state/jobs/0007-support/
  job.json             the record, enough to rebuild the table from
  identity.json        what makes another drop the same; missing for one that was refused at the door
  dropped/             the files exactly as they were dropped
  library.yaml         the library recipe the drop inherits from or uses, copied at intake
  outcome.json         how the job ends, written before the publish stage starts
  STAGE/               one folder a stage:
    progress.jsonl     appended while it works, one JSON object a line
    result.json        written last; the stage is done when it exists
    problems.json      the input is wrong (exit code 2)
    failure.json       failed with a class (exit code 1), or must wait (exit code 3)
    stage.log          what it printed
  fetch/promised.json  the room on its disk that running stages still need, as it began
"""

import json
import logging
import os
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from appliance.errors import Problem
from appliance.files import write_json, write_whole
from appliance.job import (
    DroppedFile,
    FailureClass,
    Job,
    JobState,
    Outcome,
    Priority,
    Push,
    Role,
    Stage,
    Verdict,
    Waiting,
)
from appliance.progress import Progress, fold, parse_lines

PROMISED = "promised.json"

logger = logging.getLogger(__name__)


class JobDir:
    """Reads and writes one job directory. Cheap to make; holds no state but the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def dropped(self) -> Path:
        return self.path / "dropped"

    @property
    def library_recipe(self) -> Path:
        return self.path / "library.yaml"

    @property
    def plan_file(self) -> Path:
        """Written by `prepare`, and once more in smaller pieces after running out of memory."""
        return self.path / Stage.PREPARE / "plan.json"

    def stage(self, stage: Stage) -> Path:
        """The folder of a stage, made when it is not there yet."""
        folder = self.path / stage.value
        folder.mkdir(exist_ok=True)
        return folder

    def read_job(self) -> Job:
        """The record in `job.json`."""
        return job_from_json(json.loads((self.path / "job.json").read_text()))

    def write_job(self, job: Job) -> None:
        # Plain ASCII: the name of a source may hold bytes that are not UTF-8.
        write_whole(self.path / "job.json", json.dumps(job_to_json(job), indent=2) + "\n")

    def identity(self) -> str | None:
        """A hash of the data and the resolved recipe, as they were dropped; None when it is not known."""
        try:
            said = _read(self.path / "identity.json") or {}
        except OSError:
            # Without it a twin is trained, too; no reason to lose the job.
            return None
        return said["identity"] if isinstance(said.get("identity"), str) else None

    def write_identity(self, identity: str) -> None:
        write_json(self.path / "identity.json", {"identity": identity})

    def result(self, stage: Stage) -> dict[str, Any] | None:
        """What a finished stage left, or None while it is not done."""
        return _read(self.path / stage.value / "result.json")

    def write_result(self, stage: Stage, result: dict[str, Any]) -> None:
        write_json(self.stage(stage) / "result.json", result)

    def fetch_again(self) -> None:
        """Note that the base model is no longer where it was fetched to. Which one it was is kept: no other will do."""
        self.write_result(Stage.FETCH, {**(self.result(Stage.FETCH) or {}), "gone": True})

    def write_promised(self, size: int) -> None:
        write_json(self.stage(Stage.FETCH) / PROMISED, {"bytes": size})

    def plan(self) -> dict[str, Any] | None:
        """The plan that the next training goes by, or None before there is one."""
        return _read(self.plan_file)

    def recipe(self) -> dict[str, Any] | None:
        """The resolved recipe, as the check wrote it; None before that."""
        return _read(self.path / Stage.CHECK / "recipe.json")

    def problems(self, stage: Stage) -> list[Problem]:
        """What a stage found wrong with the input; empty when it found nothing."""
        entries = _load(self.path / stage.value / "problems.json")
        return [Problem.from_json(entry) for entry in entries] if isinstance(entries, list) else []

    def write_problems(self, stage: Stage, problems: tuple[Problem, ...]) -> None:
        write_json(self.stage(stage) / "problems.json", [problem.as_json() for problem in problems])

    def failure(self, stage: Stage) -> dict[str, Any] | None:
        """`{"failure" | "waiting": class, "message", "hint"}` of a stage that could not go on."""
        return _read(self.path / stage.value / "failure.json")

    def write_failure(self, stage: Stage, failure: dict[str, Any]) -> None:
        write_json(self.stage(stage) / "failure.json", failure)

    def outcome(self) -> dict[str, Any] | None:
        return _read(self.path / "outcome.json")

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        write_json(self.path / "outcome.json", outcome)


class ProgressWriter:
    """Appends events to a stage's `progress.jsonl`; each line is whole, flushed as it is written."""

    def __init__(self, stage_folder: Path) -> None:
        path = stage_folder / "progress.jsonl"
        cut = path.exists() and not _ends_in_newline(path)
        self._file = path.open("a", buffering=1)
        if cut:
            # A power cut can leave half a line; what comes next must not be glued to it.
            self._file.write("\n")

    def write(self, event: str, **facts: object) -> None:
        """Record `event` now. Non-finite numbers are written as strings by the caller, never as bare NaN."""
        line = json.dumps({"time": time.time(), "event": event, **facts}, allow_nan=False)
        self._file.write(line + "\n")

    def close(self) -> None:
        self._file.close()


class RowProgress:
    """Tells the daemon how many rows (and tokens, if it counts them) a stage has done, at most four times a second."""

    SECONDS_BETWEEN_EVENTS = 0.25

    def __init__(self, stage_folder: Path, *, total: int | None = None) -> None:
        self._writer = ProgressWriter(stage_folder)
        self._total = total
        self._rows = 0
        self._tokens: int | None = None
        self._next = 0.0

    def report(self, rows: int, tokens: int | None = None) -> None:
        self._rows, self._tokens = rows, tokens
        if time.monotonic() >= self._next:
            self._write()

    def close(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        tokens = {} if self._tokens is None else {"tokens": self._tokens}
        self._writer.write("progress", done=self._rows, total=self._total, unit="rows", **tokens)
        self._next = time.monotonic() + self.SECONDS_BETWEEN_EVENTS


def read_progress(folder: Path) -> Progress:
    """What a stage has reported so far, from its file."""
    progress = Progress()
    try:
        text = (folder / "progress.jsonl").read_text()
    except FileNotFoundError:
        return progress
    for event in parse_lines(text):
        progress = fold(progress, event)
    return progress


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None when there is no such file."""
    found = _load(path)
    return found if isinstance(found, dict) else None


def _load(path: Path) -> object:
    """What a file holds as JSON; None when there is no such file.

    They are all written whole. One that is damaged all the same, by a bad disk or somebody's hand, is as good as none:
    its stage is done again, and no other job waits for that.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        _say_damaged(path, str(error))
        return None


@cache
def _say_damaged(path: Path, why: str) -> None:
    """Once: the board reads some of them every second."""
    logger.warning("%s is damaged, and taken for one that is not there: %s", path, why)


def job_to_json(job: Job) -> dict[str, Any]:
    """The object of `job.json`."""
    return asdict(job)


def job_from_json(value: dict[str, Any]) -> Job:
    """The inverse of `job_to_json`."""
    files = tuple(DroppedFile(**{**entry, "role": Role(entry["role"])}) for entry in value["files"])
    typed = {
        "state": JobState(value["state"]),
        "priority": Priority(value["priority"]),
        "waiting": Waiting(value["waiting"]),
        "push": Push(value["push"]),
        "stage": Stage(value["stage"]) if value["stage"] else None,
        "outcome": Outcome(value["outcome"]) if value["outcome"] else None,
        "verdict": Verdict(value["verdict"]) if value["verdict"] else None,
        "failure": FailureClass(value["failure"]) if value["failure"] else None,
        "files": files,
    }
    return Job(**{**value, **typed})
