"""Job directories for tests: made as intake makes them, worked on by real stages in real processes."""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from appliance.job import DroppedFile, Job, JobState, Role, Stage
from appliance.job_dir import JobDir

ROLES = {".yaml": Role.RECIPE, ".yml": Role.RECIPE, ".sha256": Role.CHECKSUM}


def make_job(folder: Path, files: dict[str, str | bytes], *, name: str = "test", number: int = 1, **fields) -> JobDir:
    """A job directory as intake leaves it. `files` maps dropped names to content; `*.eval.*` is the held-out file."""
    path = folder / f"{number:04d}-{name}"
    (path / "dropped").mkdir(parents=True)
    entries = tuple(_drop(path, file_name, content) for file_name, content in files.items())
    job = Job(
        number=number,
        id=path.name,
        uuid=str(uuid.uuid4()),
        name=name,
        state=JobState.QUEUED,
        created=1_790_000_000.0,
        files=entries,
        **fields,
    )
    job_dir = JobDir(path)
    job_dir.write_job(job)
    return job_dir


def _drop(path: Path, name: str, content: str | bytes) -> DroppedFile:
    data = content.encode() if isinstance(content, str) else content
    target = path / "dropped" / name
    target.write_bytes(data)
    stat = target.stat()
    role = ROLES.get(target.suffix.lower(), Role.EVAL if ".eval." in name or name.startswith("eval.") else Role.DATASET)
    return DroppedFile(
        name=name,
        role=role,
        path=f"dropped/{name}",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        source=f"inbox/{name}",
        device=stat.st_dev,
        inode=stat.st_ino,
        mtime_ns=stat.st_mtime_ns,
    )


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def start_stage(stage: Stage, job: JobDir, **environment: str) -> subprocess.Popen[bytes]:
    """One stage in a process of its own, as the daemon starts it; its output goes to `stage.log`."""
    with (job.stage(stage) / "stage.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "appliance.stages", stage.value, str(job.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Caches of its own: what another test left must not be found.
            env={"APPLIANCE_STATE": str(job.path.parent / "state"), **os.environ, **environment},
        )


def run_stage(stage: Stage, job: JobDir, *, timeout: float = 280, **environment: str) -> int:
    """Run one stage to its end and return its exit code."""
    return start_stage(stage, job, **environment).wait(timeout)


def run_stages(job: JobDir, *stages: Stage, **environment: str) -> None:
    """Run stages one after the other; each must succeed."""
    for stage in stages:
        code = run_stage(stage, job, **environment)
        assert code == 0, (stage, code, (job.stage(stage) / "stage.log").read_text()[-4000:])
