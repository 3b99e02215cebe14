"""The demo's dataset as a job, for the benchmarks: made and worked on by the real stages, each in its own process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from appliance.job import DroppedFile, Job, JobState, Role, Stage
from appliance.job_dir import JobDir

ROOT = Path(__file__).parents[1]
DATASET = ROOT / "appliance" / "demo" / "support-tickets.jsonl"


def prepared_job(folder: Path, name: str, recipe: str) -> JobDir:
    """A job as far as the train stage."""
    path = folder / f"0001-{name}"
    (path / "dropped").mkdir(parents=True)
    files = (
        dropped_file(path, f"{name}.jsonl", Role.DATASET, DATASET.read_bytes()),
        dropped_file(path, f"{name}.yaml", Role.RECIPE, recipe.encode()),
    )
    job = JobDir(path)
    job.write_job(Job(1, path.name, name, name=name, state=JobState.QUEUED, created=time.time(), files=files))
    for stage in (Stage.CHECK, Stage.FETCH, Stage.PREPARE):
        run_stage(stage, job, folder)
    return job


def dropped_file(job: Path, name: str, role: Role, content: bytes) -> DroppedFile:
    path = job / "dropped" / name
    path.write_bytes(content)
    digest = sha256(content).hexdigest()
    return DroppedFile(name, role, f"dropped/{name}", len(content), digest, name, device=0, inode=0, mtime_ns=0)


def run_stage(stage: Stage, job: JobDir, folder: Path) -> None:
    run([sys.executable, "-m", "appliance.stages", stage, str(job.path)], folder)


def run(command: Sequence[str], folder: Path) -> None:
    """Run one process to its end, each in the same environment: offline, no statistics, threads that sleep."""
    environment = {
        "APPLIANCE_STATE": str(folder / "state"),
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(folder / "unsloth"),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "log").open("ab") as log:
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{(folder / 'log').read_text()[-3000:]}")


def numbers(job: JobDir) -> dict[str, Any]:
    """What recipe and plan say, under the names that the plain scripts read."""
    recipe = json.loads((job.path / Stage.CHECK / "recipe.json").read_text())
    plan = json.loads(job.plan_file.read_text())
    same = ("learning_rate", "lr_scheduler_type", "weight_decay", "max_grad_norm", "seed")
    planned = ("max_seq_length", "target_modules", "gradient_checkpointing", "warmup_steps", "optim")
    return {
        "base": json.loads((job.path / Stage.FETCH / "result.json").read_text())["path"],
        "steps": recipe["max_steps"],
        "r": recipe["lora"]["r"],
        "alpha": recipe["lora"]["alpha"],
        "micro_batch": plan["per_device_train_batch_size"],
        "accumulation": plan["gradient_accumulation_steps"],
        **{name: recipe[name] for name in same},
        **{name: plan[name] for name in planned},
    }
