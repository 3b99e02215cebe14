"""A stand-in for the heavy stages, started as the real ones are: `python fake_stage.py STAGE JOB_DIR`.

What it does is told by the first row of the dropped dataset, `{"train": "sleep", ...}`: `crash` ends by SIGKILL,
`sleep` works until it is asked to stop, `crash once` and `sleep once` only the first time, `reject` refuses the input,
`wait` says that the network is away, `fail` fails with a class, `ignore` works on and does not listen to SIGTERM,
`need N` runs out of memory while the plan's micro-batch is above N. Without a word it succeeds, with the `verdict` that
the row names.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from appliance import outbox
from appliance.errors import Problem
from appliance.job import Outcome, Stage, outbox_name
from appliance.job_dir import JobDir, ProgressWriter

RESULTS = {
    Stage.CHECK: {"base_model": "demo", "method": "sft", "priority": "normal"},
}
RECIPE = {"gradient_checkpointing": "auto", "hub": {"push": None}}
PLAN = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
DEADLINE_SECONDS = 120


def main() -> int:
    stage, job_dir = Stage(sys.argv[1]), JobDir(Path(sys.argv[2]))
    if stage is Stage.PUBLISH:
        publish(job_dir)
    else:
        code = act(script(job_dir).get(stage, ""), stage, job_dir)
        if code:
            return code
    verdict = {"verdict": script(job_dir).get("verdict", "improved")} if stage is Stage.VERIFY else {}
    job_dir.write_result(stage, {**RESULTS.get(stage, {"stage": stage}), **verdict})
    return 0


def script(job_dir: JobDir) -> dict:
    data = next((path for path in sorted(job_dir.dropped.iterdir()) if path.suffix == ".jsonl"), None)
    try:
        return json.loads(data.read_text().splitlines()[0]) if data else {}
    except ValueError:
        return {}


def act(what: str, stage: Stage, job_dir: JobDir) -> int:
    leave_marks(stage, job_dir)
    what, _, number = what.partition(" ")
    if number == "once":
        marker = job_dir.stage(stage) / "was here"
        what = "" if marker.exists() else what
        marker.touch()
    match what:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "reject":
            job_dir.write_problems(stage, (Problem(code="made_up", message="the row is made up", line=3),))
            return 2
        case "wait":
            job_dir.write_failure(stage, {"waiting": "network", "message": "the Hub is away", "hint": None})
            return 3
        case "fail":
            job_dir.write_failure(stage, {"failure": "nonfinite_loss", "message": "the loss is NaN", "hint": None})
            return 1
        case "need":
            return need(int(number), stage, job_dir)
        case "sleep" | "ignore":
            return sleep(stop=what == "sleep")
    return 0


def leave_marks(stage: Stage, job_dir: JobDir) -> None:
    """What the daemon looks at of a stage besides its result."""
    ProgressWriter(job_dir.stage(stage)).write("progress", done=1, total=2, unit="rows")
    if stage is Stage.CHECK:
        (job_dir.stage(stage) / "recipe.json").write_text(json.dumps(RECIPE))
    if stage is Stage.PREPARE:
        (job_dir.stage(stage) / "plan.json").write_text(json.dumps(PLAN))


def need(micro_batch: int, stage: Stage, job_dir: JobDir) -> int:
    plan = json.loads((job_dir.path / Stage.PREPARE / "plan.json").read_text())
    if plan["per_device_train_batch_size"] <= micro_batch:
        return 0
    job_dir.write_failure(stage, {"failure": "out_of_memory", "message": "it did not fit", "hint": None})
    return 1


def sleep(*, stop: bool) -> int:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(stop))
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end and not (stopped and stopped[0]):
        time.sleep(0.02)
    return 4


def publish(job_dir: JobDir) -> None:
    job = job_dir.read_job()
    facts = job_dir.outcome() or {}

    def fill(staging: Path) -> None:
        (staging / "dropped").mkdir()
        for file in job.files:
            (staging / file.path).write_bytes((job_dir.path / file.path).read_bytes())
        plan = job_dir.path / Stage.PREPARE / "plan.json"
        if plan.exists():
            (staging / "plan.json").write_bytes(plan.read_bytes())

    name = outbox_name(job.id, Outcome(facts["outcome"]))
    folder = Path(os.environ["APPLIANCE_OUTBOX"])
    outbox.publish(folder, name, job_uuid=job.uuid, fill=fill, facts=lambda: {"job_uuid": job.uuid, **facts})


if __name__ == "__main__":
    sys.exit(main())
