"""The fixed line of stages, where a job stands on it, and who starts next.

Whatever died, the next start looks at the job directory and runs the first stage without a result.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from appliance import exits
from appliance.hub_rows import dataset_to_fetch
from appliance.job import LANES, Job, Lane, Stage
from appliance.job_dir import JobDir
from appliance.priorities import rank

Result = dict[str, Any]

ORDER: Final = (Stage.CHECK, Stage.FETCH, Stage.PREPARE, Stage.TRAIN, Stage.VERIFY)
DRY_RUN_ORDER: Final = (Stage.CHECK, Stage.FETCH, Stage.PREPARE)
NEED_THE_MODEL: Final = (Stage.PREPARE, Stage.TRAIN, Stage.VERIFY)
CAPACITY: Final = {Lane.CPU: 2, Lane.NET: 2, Lane.GPU: 1, Lane.OUT: 1}


def next_stage(job: Job, job_dir: JobDir) -> Stage:
    """The first stage without a result; publish as soon as it is known how the job ends."""
    if job_dir.outcome() is not None:
        return Stage.PUBLISH
    order = DRY_RUN_ORDER if job.dry_run else ORDER
    if job_dir.result(Stage.CHECK) is None and dataset_to_fetch(job, job_dir) is not None:
        return Stage.FETCH
    results: dict[Stage, Result] = {}
    for stage in order:
        result = job_dir.result(stage)
        # Where the rows came from the Hub, fetch has a result before it has the model.
        if result is None or (stage is Stage.FETCH and "rows" in result):
            gone = stage in NEED_THE_MODEL and not _has_model(results[Stage.FETCH], job_dir)
            return Stage.FETCH if gone else stage
        results[stage] = result
    return Stage.PUBLISH


def _has_model(fetched: Result, job_dir: JobDir) -> bool:
    """Whether the base model is where it was fetched to, as far as that can be seen in no time.

    Of the state folder's own cache only, which people clear to make room: a disk elsewhere may hang. What a stage does
    not find there, it says itself.
    """
    folder = Path(fetched.get("path", ""))
    own_cache = job_dir.path.parents[1] / "cache"
    return not fetched.get("gone") and (not folder.is_relative_to(own_cache) or (folder / "config.json").exists())


def has_ended_well(stage: Stage, job_dir: JobDir) -> bool:
    """Whether the run of a stage that has just ended left its result, and not one before it: rows come before check,
    and a model may be fetched once more."""
    result = job_dir.result(stage)
    if result is not None and stage is Stage.FETCH and "rows" in result:
        return job_dir.result(Stage.CHECK) is None
    return result is not None and (stage is not Stage.FETCH or _has_model(result, job_dir))


def startable(
    jobs: Iterable[tuple[Job, Stage]],
    busy: Iterable[Lane],
    *,
    now: float,
    may_start: Callable[[Job, Stage], bool] = lambda job, stage: True,
) -> list[tuple[Job, Stage]]:
    """Which of the waiting jobs start their next stage now, given the lanes that running stages occupy.

    Within a lane: higher priority first, then the job that is further along (a trained adapter is verified before the
    next training begins), then the older one. A job that may not start makes room for the one behind it; `may_start`
    is asked only of those whose turn it is.
    """
    free = dict(CAPACITY)
    for lane in busy:
        free[lane] -= 1
    further = [*ORDER, Stage.PUBLISH]
    chosen = []
    for job, stage in sorted(jobs, key=lambda pair: (rank(pair[0], now), -further.index(pair[1]), pair[0].number)):
        lane = LANES[stage]
        if free[lane] > 0 and is_due(job, now) and may_start(job, stage):
            free[lane] -= 1
            chosen.append((job, stage))
    return chosen


def is_due(job: Job, now: float) -> bool:
    """Whether the pause before another try is over."""
    return exits.is_over(job.not_before, now)
