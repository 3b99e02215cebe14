"""Stage fetch: the base model is on this machine, complete, from a pinned commit, and safe to load."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.allow_list import is_allowed
from appliance.errors import NotReadyError, StageFailure
from appliance.hardware import this_machine
from appliance.job import FailureClass, Stage, Waiting
from appliance.job_dir import JobDir, ProgressWriter
from appliance.models import (
    UnusableModel,
    cache_folder,
    canonical_id,
    find_config,
    local_folder,
    read_config,
    read_license,
    refuse_unsafe,
    repository_folder,
    size_of,
)
from appliance.planning.advice import refuse_what_never_fits
from appliance.planning.architectures import read_shape
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.stages.mirrors import mirror_in_4_bits

# Downloads over Xet can hang in native code for ever; only killing the process helps.
STUCK_SECONDS = 180.0
LOOK_SECONDS = 0.5


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """See that the recipe's base model is here.

    Raises InputError for one that this machine can never train, StageFailure `model_unavailable`, or NotReadyError.
    """
    recipe = Recipe.model_validate_json((job.path / "check" / "recipe.json").read_text())
    folder, commit = local_folder(recipe.base_model, settings.models), None
    loaded = canonical_id(recipe.base_model)
    try:
        if folder is None:
            loaded, folder = _download(recipe, job.stage(Stage.FETCH), settings)
            commit = folder.name
        refuse_unsafe(folder)
        refuse_what_never_fits(recipe, read_shape(read_config(folder)), this_machine(settings))
    except UnusableModel as error:
        raise StageFailure(FailureClass.MODEL_UNAVAILABLE, error.message, hint=error.hint) from None
    return {
        "base_model": recipe.base_model,
        "base_model_id": canonical_id(recipe.base_model),
        "base_model_loaded": loaded,
        "base_model_commit": commit,
        "path": str(folder),
        "bytes": size_of(folder),
        "license": read_license(folder),
    }


def _download(recipe: Recipe, stage: Path, settings: Settings) -> tuple[str, Path]:
    """The repository that is loaded, and the directory of its snapshot: the mirror that holds the model in 4 bits
    already where there is one, it may be used and nothing is pinned; else the model itself."""
    asked = canonical_id(recipe.base_model)
    mirror = mirror_in_4_bits(asked) if recipe.load_in_4bit and recipe.revision is None else None
    if mirror is not None and is_allowed(mirror, settings):
        try:
            return mirror, _download_one(mirror, recipe, stage, settings)
        except StageFailure as failure:
            if failure.failure != FailureClass.MODEL_UNAVAILABLE:
                raise
    return asked, _download_one(asked, recipe, stage, settings)


def _download_one(repository: str, recipe: Recipe, stage: Path, settings: Settings) -> Path:
    config = find_config(repository, recipe.revision, settings)
    if config is None:
        config = read_config(Download(repository, recipe.revision, stage, settings, config_to=stage / "config").run())
    # What needs code of its own has a reason of its own to be refused.
    if "auto_map" not in config:
        refuse_what_never_fits(recipe, read_shape(config), this_machine(settings))
    return Download(repository, recipe.revision, stage, settings).run()


class Download:
    """One repository on its way into the cache: a child process that is watched, and killed when it hangs."""

    def __init__(
        self,
        repository: str,
        revision: str | None,
        folder: Path,
        settings: Settings,
        *,
        config_to: Path | None = None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self.repository, self.folder, self.stuck_seconds = repository, folder, stuck_seconds
        self.cache = cache_folder(settings)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.token = settings.hub_read_token
        keep_free = int(settings.disk_reserve_gb * 1e9)
        self.request = json.dumps(
            {
                "repository": repository,
                "revision": revision,
                "keep_free_bytes": keep_free,
                "config_to": str(config_to) if config_to else None,
            }
        )

    def run(self) -> Path:
        """The directory of the snapshot. A transfer that hangs or breaks is tried once more without Xet."""
        answer = self._attempt(xet=True)
        if answer.get("error") in ("xet", "stuck"):
            answer = self._attempt(xet=False)
        if "path" in answer:
            return Path(answer["path"])
        raise _failure(answer)

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
            arrived = size_of(repository_folder(self.repository, self.cache) / "blobs")
            if arrived != seen:
                seen, last_seen = arrived, time.monotonic()
                total = next((entry["total"] for entry in _read(answers) if "total" in entry), None)
                progress.write("progress", done=arrived, total=total, unit="bytes")
            elif time.monotonic() - last_seen > self.stuck_seconds:
                return False

    def _environment(self, *, xet: bool) -> dict[str, str]:
        ours = {"HF_HOME": str(self.cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        ours |= {"HF_TOKEN": self.token} if self.token else {}
        ours |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
        inherited = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
        return inherited | ours


def _read(answers: Path) -> list[dict[str, Any]]:
    # The last line may still be on its way.
    whole = answers.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _failure(answer: dict[str, Any]) -> Exception:
    kind, message, hint = answer["error"], answer["message"], answer["hint"]
    if kind == "unavailable":
        return StageFailure(FailureClass.MODEL_UNAVAILABLE, message, hint=hint)
    if kind == "disk":
        return NotReadyError(message, waiting=Waiting.DISK, hint="Make room on the volume that holds the model cache.")
    if kind == "crash":
        return StageFailure(FailureClass.INTERNAL, message)
    return NotReadyError(message, waiting=Waiting.NETWORK, hint="It is tried again by itself.")
