"""Stage push: the published adapter, in a private repository of the administrator's organisation.

It works on the outbox, after the job has ended, and changes nothing there. A push that hangs is killed at its deadline.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from appliance.hub.intentions import Intentions
from appliance.hub.parcel import ParcelFile, pack
from appliance.hub.push import Errand
from appliance.hub.repository import MAIN
from appliance.job import Job, Outcome, Stage, Verdict, outbox_name
from appliance.job_dir import JobDir, ProgressWriter
from appliance.logs import redactor
from appliance.models import cache_folder
from appliance.processes import PARENT
from appliance.pushing import (
    BY_PERSON,
    PushError,
    PushResult,
    deadline_seconds,
    job_reference,
    own_repository,
    push_error,
)
from appliance.recipe import Recipe
from appliance.recipe_yaml import parse_recipe
from appliance.settings import Settings

PHASES: Final = ("look", "upload", "commit")
OUTPUT_SECONDS: Final = 10.0
# After these the library's Rust half gives up, and the other way is tried.
XET_PATIENCE: Final = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "60s",
    "HF_XET_CLIENT_READ_TIMEOUT": "120s",
    "HF_XET_TELEMETRY_ENABLED": "false",
}


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Push the result of one job. Raises PushError, which says whether a person has to do something."""
    if settings.hub_org is None or settings.hub_token is None:
        missing = "HUB_ORG" if settings.hub_org is None else "HUB_TOKEN_FILE"
        hint = f"Set APPLIANCE_{missing}, restart, then push again with `appliance push`."
        raise PushError(PushResult.AUTH, f"{missing} is not set", hint=hint, blocked=True)
    record, folder = job.read_job(), job.stage(Stage.PUSH)
    directory = settings.outbox / outbox_name(record.id, Outcome.SUCCEEDED)
    published = job.result(Stage.PUBLISH) or {}
    try:
        parcel = pack(directory, folder / "parcel", manifest_sha256=published.get("manifest_sha256"))
        recipe = _recipe(parcel)
        errand = errand_of(record, recipe, settings, by_person=asked_by_person(job))
        pushed = Upload(parcel, errand, folder, settings).run()
    finally:
        shutil.rmtree(folder / "parcel", ignore_errors=True)
    notes = (
        ["hub.public was asked for and HUB_ALLOW_PUBLIC is not set: it is private"]
        if _kept_back(recipe, errand)
        else []
    )
    return {**pushed, "bytes": sum(file.bytes for file in parcel), "branch": errand.branch, "notes": notes}


def asked_by_person(job: JobDir) -> bool:
    """Whether somebody asked for this push with `appliance push`."""
    return (job.path / Stage.PUSH / BY_PERSON).exists()


def errand_of(record: Job, recipe: Recipe, settings: Settings, *, by_person: bool) -> Errand:
    """Where a job's adapter goes: a repository of its own, or the branch of a shared one that its verdict earned."""
    shared, reference = recipe.hub.repo, job_reference(record.number)
    moves_main = not shared or by_person or record.verdict is Verdict.IMPROVED
    return Errand(
        repository=f"{settings.hub_org}/{shared or own_repository(record.name, record.number, record.uuid)}",
        installation=record.installation,
        job_uuid=record.uuid,
        message=f"Adapter of job {record.id}",
        shared=shared is not None,
        branch=MAIN if moves_main else reference,
        tag=reference if shared else None,
        public=recipe.hub.public and settings.hub_allow_public,
    )


def _recipe(parcel: tuple[ParcelFile, ...]) -> Recipe:
    """The recipe as it was published; the parcel has proven that nobody changed it."""
    path = next(file.path for file in parcel if file.name == "recipe.yaml")
    return parse_recipe(path.read_bytes(), name=path.name)


def _kept_back(recipe: Recipe, errand: Errand) -> bool:
    return recipe.hub.public and not errand.public


class Upload:
    """One parcel on its way: a child process with a deadline. What it prints is written down without secrets."""

    def __init__(
        self,
        parcel: tuple[ParcelFile, ...],
        errand: Errand,
        folder: Path,
        settings: Settings,
        *,
        deadline: float | None = None,
        patience: Mapping[str, float] | None = None,
    ) -> None:
        token = settings.hub_token or ""
        self.folder, self.redact = folder, redactor([token])
        self.deadline = deadline or deadline_seconds(sum(file.bytes for file in parcel))
        self.cache = cache_folder(settings)
        files = [{**asdict(file), "path": str(file.path)} for file in parcel]
        order = {"errand": asdict(errand), "parcel": files, "token": token, "patience": dict(patience or {})}
        order["intentions"] = str(Intentions.in_state(settings.state).folder)
        self.order = json.dumps(order).encode()

    def run(self) -> dict[str, Any]:
        """Where it lies now. What does not get through Xet is tried once more without. Raises PushError."""
        with closing(ProgressWriter(self.folder)) as progress:
            answer = self._attempt(progress, xet=True)
            if "xet" in answer:
                progress.write("xet_failed", why=answer["xet"])
                answer = self._attempt(progress, xet=False)
        if "pushed" in answer:
            pushed: dict[str, Any] = answer["pushed"]
            return pushed
        raise push_error(answer["failure"])

    def _attempt(self, progress: ProgressWriter, *, xet: bool) -> dict[str, Any]:
        child = subprocess.Popen(
            [sys.executable, "-m", "appliance.stages.upload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(xet=xet),
        )
        answers: list[dict[str, Any]] = []
        assert child.stdout is not None
        reader = threading.Thread(target=self._read, args=(child.stdout, answers, progress), daemon=True)
        reader.start()
        _hand_over(child, self.order)
        ended = self._wait(child)
        # Something that it started may hold its output open: wait no longer than a bit.
        reader.join(OUTPUT_SECONDS)
        if not reader.is_alive():
            child.stdout.close()
        if answers and "phase" not in answers[-1]:
            return answers[-1]
        return self._without_answer(answers, child.returncode, ended=ended, xet=xet)

    def _wait(self, child: subprocess.Popen[bytes]) -> bool:
        """Wait for the child until its deadline; then kill it, and say False."""
        try:
            child.wait(self.deadline)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return False
        return True

    def _read(self, output: IO[bytes], answers: list[dict[str, Any]], progress: ProgressWriter) -> None:
        """Collect the answers among what the child prints; all else goes to the log, without secrets."""
        for line in output:
            text = line.decode(errors="replace").rstrip("\n")
            answer = _parse(text)
            if answer is None:
                sys.stderr.write(self.redact(text) + "\n")
                continue
            answers.append(answer)
            if answer.get("phase") in PHASES:
                progress.write("progress", done=PHASES.index(answer["phase"]), total=len(PHASES), unit="steps")

    def _without_answer(self, answers: list[dict[str, Any]], code: int, *, ended: bool, xet: bool) -> dict[str, Any]:
        phase = answers[-1]["phase"] if answers else "start"
        if ended:
            message = f"the push ended with code {code} while it was at: {phase}"
            failure = PushError(PushResult.OTHER, message, hint="It is tried again by itself.")
        else:
            message = f"the push was ended after {self.deadline:.0f} s while it was at: {phase}"
            failure = PushError(PushResult.NETWORK, message, hint="It is tried again by itself.")
        # Transfers over Xet can hang or die in native code.
        return {"xet": failure.message} if xet and phase == "upload" else {"failure": failure.as_json()}

    def _environment(self, *, xet: bool) -> dict[str, str]:
        secret = {name for name in os.environ if "TOKEN" in name}
        inherited = {name: value for name, value in os.environ.items() if name not in {*secret, "HF_HUB_OFFLINE"}}
        ours = {"HF_HOME": str(self.cache), "HF_HUB_DISABLE_TELEMETRY": "1", PARENT: str(os.getpid())}
        return inherited | ours | XET_PATIENCE | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})


def _hand_over(child: subprocess.Popen[bytes], order: bytes) -> None:
    assert child.stdin is not None
    # A child that died at once closes its end; how it died is told afterwards.
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(order)
        child.stdin.close()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.keys() <= {"phase", "pushed", "xet", "failure"} else None
