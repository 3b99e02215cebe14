"""Jobs as the pages and the API show them, put together from the database, the loop's view and the outbox."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.actions import offered
from appliance.errors import Problem
from appliance.files import open_below
from appliance.job import ENDED, Job, JobState, Push, Stage
from appliance.job_dir import JobDir, read_progress
from appliance.outbox import find_result, read_manifest
from appliance.progress import Progress, how_far
from appliance.push_store import PushStore
from appliance.web.answers import JobAnswer
from appliance.web.site import Site

LOG_BYTES: Final = 16_384
LOG_LINES: Final = 40
SAMPLES_SHOWN: Final = 3
SAMPLES_BYTES: Final = 200_000
PROBLEMS_SHOWN: Final = 5
REJECTIONS_SHOWN: Final = 20
PUSHES: Final = {
    Push.PENDING: "waits to be pushed",
    Push.PUSHED: "pushed",
    Push.WITHHELD: "withheld: the verdict is below what APPLIANCE_HUB_PUSH_WHEN asks for",
    Push.BLOCKED: "needs a person",
}


def progress_of(site: Site, job: Job) -> Progress | None:
    """What the running stage has reported; of a job that trained, what the training reported last."""
    view = site.view()
    running = view.running_of(job.number)
    return running.progress if running else view.trained.get(job.number)


def answer(site: Site, job: Job) -> JobAnswer:
    """One job for the API."""
    folder = result_of(site, job)
    actions = offered(job, hub=site.settings.hub_org is not None)
    return JobAnswer.of(job, progress_of(site, job), result=folder.name if folder else None, actions=actions)


def result_of(site: Site, job: Job) -> Path | None:
    """The folder of an ended job in the outbox."""
    return find_result(site.settings.outbox, job.id) if job.state in ENDED else None


@dataclass(frozen=True)
class ResultFile:
    """A file of a result that can be downloaded, by its path in the job's folder."""

    path: str
    bytes: int


def result_files(site: Site, job: Job) -> tuple[Path | None, list[ResultFile]]:
    """The folder of a job's result and the files that its manifest names: nothing else in it is ever served."""
    folder = result_of(site, job)
    if folder is None:
        return None, []
    try:
        entries = read_manifest(folder)["files"]
        return folder, [ResultFile(str(entry["path"]), int(entry["bytes"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return folder, []


def log_tail(site: Site, job: Job) -> tuple[Stage | None, str]:
    """The last lines that the current or the last stage printed."""
    stages = [job.stage] if job.stage else list(reversed(Stage))
    for stage in stages:
        text = _tail(site.jobs / job.id / stage / "stage.log")
        if text:
            # Of a progress bar only its last state is worth reading.
            lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
            return stage, "\n".join(lines[-LOG_LINES:]).strip("\n")
    return None, ""


def samples(site: Site, job: Job, folder: Path | None) -> list[dict[str, Any]]:
    """The first answers before and after, once there are some."""
    places = [(site.jobs / job.id / Stage.VERIFY, "samples.jsonl"), *([(folder, "samples.jsonl")] if folder else [])]
    for root, name in places:
        if text := _head(root, name):
            return [sample for line in text.split("\n")[:SAMPLES_SHOWN] if (sample := _sample(line))]
    return []


def evaluation(site: Site, job: Job) -> dict[str, Any]:
    """What the verification found; empty until it has."""
    return JobDir(site.jobs / job.id).result(Stage.VERIFY) or {}


def push_words(site: Site, job: Job) -> str:
    """How the push of a job stands, as a phrase; empty where nothing is pushed."""
    if job.push is Push.OFF:
        return ""
    row = PushStore(site.store).row(job.number)
    details = {Push.PUSHED: row.url, Push.BLOCKED: row.message, Push.PENDING: row.message}
    detail = details.get(job.push) or ""
    if row.pid is not None:
        detail = how_far(read_progress(site.jobs / job.id / Stage.PUSH)) or "being pushed"
    hint = f" {row.hint}" if row.hint and job.push is Push.BLOCKED else ""
    return f"{PUSHES[job.push]}{': ' if detail else ''}{detail}{hint}"


@dataclass(frozen=True)
class Rejection:
    """A drop that could not be used, and the first of its problems."""

    job: Job
    problems: tuple[Problem, ...]
    more: int
    page: str | None


def rejections(site: Site) -> Iterator[Rejection]:
    """The newest rejected drops."""
    for job in site.store.recent_jobs(REJECTIONS_SHOWN, [JobState.REJECTED]):
        folder = result_of(site, job)
        problems, more = first_problems(folder)
        page = f"/jobs/{job.number}/files/WHY.html" if folder else None
        yield Rejection(job, problems, more, page)


def first_problems(folder: Path | None) -> tuple[tuple[Problem, ...], int]:
    """The first problems of the drop whose result lies in a folder, and how many there are besides."""
    problems = _problems(folder) if folder else []
    return tuple(problems[:PROBLEMS_SHOWN]), sum(problem.count for problem in problems[PROBLEMS_SHOWN:])


def _problems(folder: Path) -> list[Problem]:
    try:
        entries = json.loads(_head(folder, "problems.json") or "[]")
        return [Problem.from_json(entry) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def _sample(line: str) -> dict[str, Any] | None:
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return sample if isinstance(sample, dict) else None


def _head(folder: Path, name: str) -> str:
    """The beginning of a file, through no link; empty when it cannot be read."""
    try:
        with open(open_below(folder, name), "rb") as file:
            return file.read(SAMPLES_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
