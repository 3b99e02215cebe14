"""What starts in a turn: the stages that there is room for, and what the GPU is taken for or freed for."""

from collections.abc import Callable, Iterable
from functools import cache, partial

from appliance.admission import Admission
from appliance.crew import Crew, Obstacle
from appliance.gpu_lane import GpuLane
from appliance.job import LANES, Job, Lane, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.order import is_due
from appliance.priorities import makes_room
from appliance.running import StopReason
from appliance.upkeep import Upkeep

Look = tuple[bool, int, bool]
"""What a job that may need a person looked like when that was looked up."""


class Starter:
    """Asked once a turn."""

    def __init__(
        self, crew: Crew, lane: GpuLane, upkeep: Upkeep, admission: Admission, *, job_dir: Callable[[Job], JobDir]
    ) -> None:
        self.admission = admission
        self._crew, self._lane, self._upkeep, self._dir = crew, lane, upkeep, job_dir
        self._stepped_back_for: set[int] = set()
        self._held: dict[int, tuple[Look, tuple[Waiting, str] | None]] = {}

    def start(self, now: float, wall: float, *, paused: bool) -> None:
        """Start what there is room for; take the GPU for what could begin on it, give it back when nothing could."""
        waiting = self._without_held(self._crew.waiting(wall))
        # One answer a turn: what the GPU is taken for is what begins on it.
        obstacle = cache(partial(self._obstacle, now=now))
        if self._lane.is_outside_window(wall):
            self._crew.ask_gpu_to_stop(now, StopReason.WINDOW)
        closed = self._lane.closed(now, wall, paused=paused)
        for_gpu = [pair for pair in waiting if LANES[pair[1]] is Lane.GPU and is_due(pair[0], wall)]
        if self._crew.on_gpu:
            self._step_back([] if closed else for_gpu, obstacle, now)
        elif closed is None and any(obstacle(job, stage) is None for job, stage in for_gpu):
            closed = self._lane.take()
        elif _may_begin(closed) and any(_may_begin(obstacle(job, stage)) for job, stage in for_gpu):
            # What is missing may be what the neighbour has.
            closed = self._lane.ask_for_room(now) or closed
        else:
            self._lane.idle(now)
        self._crew.start(waiting, now, wall=wall, gpu=closed, obstacle=obstacle)
        # Whoever runs now may ask again when something else has come in between.
        self._stepped_back_for &= {job.number for job, _ in waiting} - set(self._crew.running)

    def _obstacle(self, job: Job, stage: Stage, *, now: float) -> tuple[Waiting, str] | None:
        job_dir = self._dir(job)
        try:
            return self._upkeep.obstacle(job, stage, job_dir) or self.admission.obstacle(stage, job_dir, now)
        except OSError as error:
            return self._crew.held_up(job, error)

    def _without_held(self, waiting: Iterable[tuple[Job, Stage]]) -> list[tuple[Job, Stage]]:
        """Without those that only a person lets begin. They say so whatever the GPU does: people decide by day."""
        jobs = list(waiting)
        held = {job.number: (job, why) for job, stage in jobs if (why := self._held_back(job, stage)) is not None}
        self._crew.hold_back(held.values())
        self._held = {job.number: self._held[job.number] for job, _ in jobs if job.number in self._held}
        return [(job, stage) for job, stage in jobs if job.number not in held]

    def _held_back(self, job: Job, stage: Stage) -> tuple[Waiting, str] | None:
        if stage is not Stage.TRAIN:
            return None
        # Looked up when something has become of the job, not at every turn: hundreds may wait for the night.
        look = (job.approved, job.trainings, job.waiting is Waiting.APPROVAL)
        if job.number not in self._held or self._held[job.number][0] != look:
            try:
                why = self._crew.held_back(job) or self.admission.held_back(job, self._dir(job))
            except OSError as error:
                return self._crew.held_up(job, error)
            self._held[job.number] = look, why
        return self._held[job.number][1]

    def _step_back(self, for_gpu: Iterable[tuple[Job, Stage]], obstacle: Obstacle, now: float) -> None:
        """Have a running training make room for a `high` job; once a wait, in case that it does not fit even then."""
        training = [running.job for running in self._crew.on_gpu if running.stage is Stage.TRAIN]
        new = [(job, stage) for job, stage in for_gpu if job.number not in self._stepped_back_for]
        higher = [(job, stage) for job, stage in new if makes_room(training, [job])]
        urgent = {
            job.number for job, stage in higher if _may_begin(obstacle(job, stage)) and self._crew.may_preempt(job)
        }
        if urgent:
            self._stepped_back_for |= urgent
            self._crew.ask_gpu_to_stop(now, StopReason.PREEMPTED)


def _may_begin(obstacle: tuple[Waiting, str] | None) -> bool:
    """Whether a stage could begin on the GPU now, once whoever has its memory has made room."""
    return obstacle is None or obstacle[0] is Waiting.MEMORY
