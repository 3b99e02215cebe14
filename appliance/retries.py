"""What follows a failure: the same stage again, later, in smaller pieces, or not at all."""

from dataclasses import dataclass
from typing import Final

from appliance import exits
from appliance.exits import StageEnd
from appliance.files import write_json
from appliance.job import FailureClass, Job, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.planning.smaller import smaller_plan
from appliance.store import Store

# How often a training that ran out of memory is begun again in smaller pieces, by who noticed: the training itself, or
# the guard, after which the whole machine was in danger.
SMALLER_TRIES: Final = {FailureClass.OUT_OF_MEMORY: 3, FailureClass.MEMORY_GUARD: 1}
WORDS: Final = {
    FailureClass.OUT_OF_MEMORY: "running out of memory",
    FailureClass.MEMORY_GUARD: "the memory guard stopped it",
}


@dataclass(frozen=True)
class Again:
    """The stage is begun again after `pause` seconds; until then the job waits for `waiting`."""

    pause: float = 0.0
    waiting: Waiting = Waiting.NONE


def again(job: Job, stage: Stage, ended: StageEnd, job_dir: JobDir, store: Store, *, max_attempts: int) -> Again | None:
    """How a failed stage is tried again, or None when it would only fail once more.

    After running out of memory this writes a smaller plan. The user's mistakes never come here.
    """
    if stage is Stage.PUBLISH:
        # There is nothing to fall back to: the result is kept, and publishing is tried at once and then patiently.
        waiting = Waiting.DISK if ended.failure is FailureClass.DISK_FULL else Waiting.NONE
        return Again(exits.backoff_seconds(tries(store, job, stage) - 1), waiting)
    if ended.failure in SMALLER_TRIES and stage is Stage.TRAIN:
        return Again() if _may_shrink(job, stage, ended.failure, job_dir, store) else None
    if not ended.retried or store.attempts(job.number, stage, mark=progress_mark(job_dir)) >= max_attempts:
        return None
    if ended.failure is FailureClass.DISK_FULL:
        return Again(exits.backoff_seconds(1), Waiting.DISK)
    # The first time at once: whatever it was may be over.
    return Again(exits.backoff_seconds(tries(store, job, stage) - 1))


def tries(store: Store, job: Job, stage: Stage) -> int:
    """How often a stage of this job has ended without getting anywhere, this time included."""
    ends = [event for event in store.events(job.number) if event.get("stage") == stage and "kind" in event]
    return sum(event["kind"] in (exits.EndKind.WAITS, exits.EndKind.FAILED) for event in ends)


def crashes_since_approval(store: Store, job: Job, stage: Stage) -> int:
    """How often the whole machine went down under a stage since somebody last let the job go on."""
    crashes = 0
    for event in store.events(job.number):
        if event["event"] == "approved":
            crashes = 0
        elif event["event"] == "host_crashed" and event.get("stage") == stage:
            crashes += 1
    return crashes


def last_failure(store: Store, job: Job, stage: Stage) -> FailureClass | None:
    """How the last attempt at a stage failed; None when nobody saw its end, or it did not fail."""
    ends = [event for event in store.events(job.number) if event.get("stage") == stage]
    ends = [event for event in ends if event["event"] in ("stage_ended", "daemon_restarted", "host_crashed")]
    failure = ends[-1].get("failure") if ends else None
    return FailureClass(failure) if failure else None


def progress_mark(job_dir: JobDir) -> str:
    """How far the training has come: its newest complete checkpoint, and how small its pieces are.

    Attempts are counted by it, so a job is given up only when it fails again and again at the same place in the same
    way.
    """
    checkpoints = job_dir.path / Stage.TRAIN / "checkpoints"
    complete = sorted(path.parent.name for path in checkpoints.glob("step-*/COMPLETE.json"))
    plan = job_dir.plan()
    pieces = plan.get("smaller", 0) if plan else 0
    return (complete[-1] if complete else "") + (f" smaller {pieces}" if pieces else "")


def _may_shrink(job: Job, stage: Stage, failure: FailureClass, job_dir: JobDir, store: Store) -> bool:
    """Write a smaller plan for the next try. False when there was the last one, or it cannot get smaller."""
    failures = [event.get("failure") for event in store.events(job.number) if event.get("stage") == stage]
    plan = job_dir.plan()
    if plan is None or failures.count(failure) > SMALLER_TRIES[failure]:
        return False
    if plan.get("smaller", 0) >= sum(failures.count(kind) for kind in SMALLER_TRIES):
        # It was made smaller for this very failure, and only writing that down was cut short.
        return True
    smaller = smaller_plan(plan, WORDS[failure], may_recompute=_may_recompute(job_dir))
    if smaller is None:
        # The guard may have stopped it for what something else took: once more as it is, when memory is back.
        return failure is FailureClass.MEMORY_GUARD
    write_json(job_dir.plan_file, smaller | {"smaller": plan.get("smaller", 0) + 1})
    return True


def _may_recompute(job_dir: JobDir) -> bool:
    recipe = job_dir.recipe()
    assert recipe is not None, "check comes before training"
    return bool(recipe["gradient_checkpointing"] is not False)
