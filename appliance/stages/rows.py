"""The first half of fetch, for a recipe that names a dataset on the Hub: its rows lie with the job, as if dropped."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.errors import InputError, Problem, Reason
from appliance.files import sha256_of, sync
from appliance.hub_rows import PREFIX, is_allowed_dataset
from appliance.job import DroppedFile, Role, Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.fetch_one import Download


def fetch_rows(dataset: str, job: JobDir, settings: Settings) -> dict[str, Any]:
    """Fetch a dataset's rows. Raises InputError for one that cannot be used, NotReadyError when the Hub is away."""
    if not is_allowed_dataset(dataset, settings):
        allowed = ", ".join(settings.allowed_datasets) or "none"
        message = f"dataset is {PREFIX}{dataset}, which is not allowed here; these are: {allowed}"
        raise _refused("dataset_not_allowed", f"{message} (APPLIANCE_ALLOWED_DATASETS)", dataset)
    folder = job.stage(Stage.FETCH) / "dataset"
    shutil.rmtree(folder, ignore_errors=True)
    most = settings.max_drop_bytes
    answer = Download(dataset, None, job.stage(Stage.FETCH), settings, dataset_to=folder, most_bytes=most).answer()
    if answer.get("error") == "unavailable":
        hint = f" {answer['hint']}" if answer.get("hint") else ""
        raise _refused("dataset_unavailable", f"dataset is {PREFIX}{dataset}: {answer['message']}.{hint}", dataset)
    file = _keep(Path(answer["path"]), answer["name"], job)
    shutil.rmtree(folder, ignore_errors=True)
    return {"dataset": {"repository": dataset, "commit": answer["commit"]}, "rows": asdict(file)}


def _keep(path: Path, name: str, job: JobDir) -> DroppedFile:
    """Move the file to where dropped files lie; it is one without a source, as those borrowed from another job are."""
    sha256 = sha256_of(path)
    sync(path)
    target = job.dropped / name
    path.replace(target)
    sync(job.dropped)
    stat = target.stat()
    return DroppedFile(
        name=name,
        role=Role.DATASET,
        path=f"dropped/{name}",
        bytes=stat.st_size,
        sha256=sha256,
        source="",
        device=stat.st_dev,
        inode=stat.st_ino,
        mtime_ns=stat.st_mtime_ns,
    )


def _refused(code: str, message: str, dataset: str) -> InputError:
    return InputError([Problem(code, message, Reason.DATASET_MISSING, key="dataset", found=f"{PREFIX}{dataset}")])
