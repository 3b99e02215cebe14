"""What follows a failure: the same stage again, later, in smaller pieces, or not at all."""

from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from appliance import exits
from appliance.exits import EndKind, StageEnd
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
        return Again(exits.backoff_seconds(ends_in_a_row(store, job, stage, EndKind.FAILED) - 1), waiting)
    if ended.failure in SMALLER_TRIES and stage is Stage.TRAIN:
        return Again() if _may_shrink(job, stage, ended.failure, job_dir, store) else None
    begun = tries(store, job, stage, mark=progress_mark(job_dir))
    if not ended.retried or begun >= max_attempts:
        return None
    if ended.failure is FailureClass.DISK_FULL:
        return Again(exits.backoff_seconds(1), Waiting.DISK)
    # The first time at each place at once: whatever it was may be over.
    return Again(exits.backoff_seconds(begun - 1))


def tries(store: Store, job: Job, stage: Stage, *, mark: str) -> int:
    """How often a stage was begun at `mark` without getting further; see `progress_mark`.

    A fetch may be done several times: rows, a model, and that model again wherever somebody made room.
    """
    done = _ends(store, job, stage).count(EndKind.DONE) if stage is Stage.FETCH else 0
    return max(0, store.attempts(job.number, stage, mark=mark) - done)


def ends_in_a_row(store: Store, job: Job, stage: Stage, kind: EndKind) -> int:
    """How often a stage has ended in one way without any other end in between, the last one included."""
    return len(list(takewhile(kind.__eq__, reversed(_ends(store, job, stage)))))


def last_end(store: Store, job: Job) -> EndKind | None:
    """How the last run of any stage ended; None before the first end."""
    ends = _ends(store, job)
    return ends[-1] if ends else None


def _ends(store: Store, job: Job, stage: Stage | None = None) -> list[EndKind]:
    ends = [event for event in store.events(job.number) if "kind" in event]
    return [EndKind(event["kind"]) for event in ends if stage is None or event["stage"] == stage]


def crashes_since_approval(store: Store, job: Job) -> int:
    """How often the whole machine went down under a training since somebody last let the job go on."""
    crashes = 0
    for event in store.events(job.number):
        if event["event"] == "approved":
            crashes = 0
        elif event["event"] == "host_crashed" and event.get("stage") == Stage.TRAIN:
            crashes += 1
    return crashes


def last_failure(store: Store, job: Job, stage: Stage, *, attempts: int) -> FailureClass | None:
    """The newest failure that was seen among the last `attempts` of a stage; None when nobody saw one end."""
    events = [event for event in store.events(job.number) if event.get("stage") == stage]
    unseen = ("daemon_restarted", "host_crashed")
    counted = [event for event in events if event["event"] in unseen or event.get("kind") == EndKind.FAILED]
    failures = [event["failure"] for event in counted[-attempts:] if event.get("failure")]
    return FailureClass(failures[-1]) if failures else None


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
