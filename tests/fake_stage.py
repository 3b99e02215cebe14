"""A stand-in for the heavy stages, started as the real ones are: `python fake_stage.py STAGE JOB_DIR`.

What it does is told by the first row of the dropped dataset, `{"train": "sleep", ...}`: `crash` ends by SIGKILL,
`sleep` works until it is asked to stop, `nap` for some seconds, `crash once` and `sleep once` only the first
time, `reject` refuses the input, `wait` says that the network is away, `lose` loses the GPU once and is aborted over
it, `fail` fails with a class, `ignore` works on and does not listen to SIGTERM, `talk` reports all the time, `family`
has a child of its own, `need N` runs out of memory while the plan's micro-batch is above N. Without a word it
succeeds, with the `verdict` that the row names. With `"adapter"` (the `hub.repo` of its recipe, or nothing) the
result holds one that can be pushed. `plan` is an object of what it leaves in `plan.json`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from appliance import outbox
from appliance.errors import Problem
from appliance.exits import explain_refusal
from appliance.job import Job, Outcome, Stage, outbox_name
from appliance.job_dir import JobDir, ProgressWriter
from appliance.pushing import PushError, PushResult
from appliance.recipe import Hub, Recipe
from appliance.recipe_yaml import recipe_as_yaml
from appliance.stages.training.checkpoints import write_checkpoint
from appliance.stages.training.standing import Standing

RESULTS = {
    Stage.CHECK: {"base_model": "demo", "method": "sft", "priority": "normal"},
}
RECIPE = {"gradient_checkpointing": "auto", "hub": {"push": None}}
PLAN = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
DEADLINE_SECONDS, NAP_SECONDS = 250, 4
FAILURES = {
    "wait": (3, {"waiting": "network", "message": "the Hub is away", "hint": None}),
    "fail": (1, {"failure": "nonfinite_loss", "message": "the loss is NaN", "hint": None}),
}
SLEEPERS = ("sleep", "nap", "ignore", "talk", "save", "family")

asked_to_stop: list[bool] = []


def main() -> int:
    stage, job_dir = Stage(sys.argv[1]), JobDir(Path(sys.argv[2]))
    try:
        for stale in ("problems.json", "failure.json"):
            (job_dir.stage(stage) / stale).unlink(missing_ok=True)
        if stage is Stage.PUSH:
            return push(job_dir)
        if stage is Stage.PUBLISH:
            publish(job_dir)
        elif code := act(script(job_dir).get(stage, ""), stage, job_dir):
            return code
        write_result(stage, job_dir)
    except OSError as error:
        code, word = explain_refusal(error)
        with contextlib.suppress(OSError):
            job_dir.write_failure(stage, word or {})
        return code
    return 0


def write_result(stage: Stage, job_dir: JobDir) -> None:
    said = {"verdict": script(job_dir).get("verdict", "improved")} if stage is Stage.VERIFY else {}
    if stage is Stage.CHECK and "priority" in script(job_dir):
        said = {"priority": script(job_dir)["priority"]}
    if stage is Stage.CHECK and "adapter" in script(job_dir):
        (job_dir.stage(stage) / "recipe.json").write_text(recipe_of(job_dir).model_dump_json())
    if stage is Stage.PUBLISH:
        said = {"manifest_sha256": manifest_sha256(job_dir), "with_dataset": with_dataset()}
    job_dir.write_result(stage, {**RESULTS.get(stage, {"stage": stage}), **said})


def script(job_dir: JobDir) -> dict:
    data = next((path for path in sorted(job_dir.dropped.iterdir()) if path.suffix == ".jsonl"), None)
    try:
        return json.loads(data.read_text().splitlines()[0]) if data else {}
    except ValueError:
        return {}


def act(what: str, stage: Stage, job_dir: JobDir) -> int:
    what, _, number = what.partition(" ")
    if number == "once" and was_here(job_dir.stage(stage)):
        what = ""
    if what in SLEEPERS:
        signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(True))
    # Last: whoever sees these may stop or kill it.
    leave_marks(stage, job_dir)
    match what:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "reject":
            job_dir.write_problems(stage, (Problem(code="made_up", message="the row is made up", line=3),))
            return 2
        case "wait" | "fail":
            code, failure = FAILURES[what]
            job_dir.write_failure(stage, failure)
            return code
        case "lose":
            return lose(stage, job_dir)
        case "need":
            return need(int(number), stage, job_dir)
        case "family":
            subprocess.Popen(["sleep", str(DEADLINE_SECONDS)])
            return sleep(DEADLINE_SECONDS, stop=True)
        case "sleep" | "nap" | "ignore" | "talk" | "save":
            return work(what, job_dir.stage(stage))
    return 0


def was_here(folder: Path) -> bool:
    """Whether the stage has run before; from now on it has."""
    marker = folder / "was here"
    found = marker.exists()
    marker.touch()
    return found


def work(what: str, folder: Path) -> int:
    seconds = NAP_SECONDS if what == "nap" else DEADLINE_SECONDS
    code = sleep(seconds, stop=what != "ignore", report=ProgressWriter(folder) if what == "talk" else None)
    if what == "save":
        write_checkpoint(folder / "checkpoints", Standing(step=5, loss=1.0), {"optimizer.pt": lambda: b"state"})
    return code


def leave_marks(stage: Stage, job_dir: JobDir) -> None:
    """What the daemon looks at of a stage besides its result."""
    ProgressWriter(job_dir.stage(stage)).write("progress", done=1, total=2, unit="rows")
    if stage is Stage.CHECK:
        (job_dir.stage(stage) / "recipe.json").write_text(json.dumps(RECIPE))
    if stage is Stage.PREPARE:
        (job_dir.stage(stage) / "plan.json").write_text(json.dumps(PLAN | script(job_dir).get("plan", {})))


def need(micro_batch: int, stage: Stage, job_dir: JobDir) -> int:
    plan = json.loads((job_dir.path / Stage.PREPARE / "plan.json").read_text())
    if plan["per_device_train_batch_size"] <= micro_batch:
        return 0
    job_dir.write_failure(stage, {"failure": "out_of_memory", "message": "it did not fit", "hint": None})
    return 1


def lose(stage: Stage, job_dir: JobDir) -> int:
    """What a training leaves that finds its GPU gone, and the end that CUDA makes of the process then."""
    if was_here(job_dir.stage(stage)):
        return 0
    message = "the GPU is gone: CUDA error: no CUDA-capable device is detected"
    job_dir.write_failure(stage, {"waiting": "gpu", "message": message, "hint": None})
    os.kill(os.getpid(), signal.SIGABRT)
    return 1


def sleep(seconds: float, *, stop: bool, report: ProgressWriter | None = None) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (asked_to_stop and stop):
        time.sleep(0.02)
        if report is not None:
            report.write("progress", done=1, total=2, unit="rows")
    return 4 if asked_to_stop else 0


def push(job_dir: JobDir) -> int:
    """A Hub that is away until a file `hub-is-back` lies beside the state folder."""
    if not (Path(os.environ["APPLIANCE_STATE"]).parent / "hub-is-back").exists():
        error = PushError(PushResult.NETWORK, "the Hub is away")
        job_dir.write_failure(Stage.PUSH, error.as_json())
        return error.exit_code
    facts = {"repository": f"acme/{job_dir.path.name}", "url": "", "commit": "0" * 40, "bytes": 1, "notes": []}
    job_dir.write_result(Stage.PUSH, facts)
    return 0


def publish(job_dir: JobDir) -> None:
    job = job_dir.read_job()
    facts = job_dir.outcome() or {}

    def fill(staging: Path) -> None:
        if facts["outcome"] == Outcome.SUCCEEDED and "adapter" in script(job_dir):
            fill_adapter(staging, job_dir, job)
        if facts["outcome"] != Outcome.SUCCEEDED or with_dataset():
            (staging / "dropped").mkdir()
            for file in job.files:
                (staging / file.path).write_bytes((job_dir.path / file.path).read_bytes())
        plan = job_dir.path / Stage.PREPARE / "plan.json"
        if plan.exists():
            (staging / "plan.json").write_bytes(plan.read_bytes())

    target = published_directory(job_dir)
    outbox.publish(
        target.parent, target.name, job_uuid=job.uuid, fill=fill, facts=lambda: {"job_uuid": job.uuid, **facts}
    )


def fill_adapter(staging: Path, job_dir: JobDir, job: Job) -> None:
    (staging / "adapter").mkdir()
    marker = {"installation": job.installation, "job": job.id, "job_uuid": job.uuid, "appliance": "0.1.0"}
    for name, text in {
        "adapter/README.md": "---\nlicense: mit\n---\nAn adapter.\n",
        "adapter/adapter_model.safetensors": f"weights of {job.id}",
        "adapter/adapter_config.json": "{}",
        "adapter/appliance.json": json.dumps(marker),
        "recipe.yaml": recipe_as_yaml(recipe_of(job_dir)),
        "eval.json": "{}",
    }.items():
        (staging / name).write_text(text)


def recipe_of(job_dir: JobDir) -> Recipe:
    return Recipe(base_model="demo", hub=Hub(repo=script(job_dir).get("adapter") or None))


def published_directory(job_dir: JobDir) -> Path:
    facts = job_dir.outcome() or {}
    return Path(os.environ["APPLIANCE_OUTBOX"]) / outbox_name(job_dir.read_job().id, Outcome(facts["outcome"]))


def with_dataset() -> bool:
    return os.environ.get("APPLIANCE_KEEP_DATASETS", "outbox") == "outbox"


def manifest_sha256(job_dir: JobDir) -> str:
    return outbox.manifest_sha256(published_directory(job_dir))


if __name__ == "__main__":
    sys.exit(main())
