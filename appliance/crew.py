"""The crew: the stages that run now. Starts them, follows what they report, reaps them, stops them."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from appliance import processes
from appliance.exits import EndKind, StageEnd
from appliance.following import Follower
from appliance.guard import MemoryGuard, Trip, describe
from appliance.job import LANES, FailureClass, Job, JobState, Lane, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.order import next_stage, startable
from appliance.pipeline import Pipeline
from appliance.processes import StageProcess
from appliance.progress import Progress
from appliance.running import Running, StopReason
from appliance.store import Store

logger = logging.getLogger(__name__)

NEVER: Final = float("inf")

Start = Callable[[Stage, JobDir], StageProcess]
Obstacle = Callable[[Job, Stage], tuple[Waiting, str] | None]
"""Why a stage of a job cannot start now, and the details for people; None when it can."""


def nothing_in_the_way(job: Job, stage: Stage) -> None:
    return None


class Crew:
    """At most one running stage a job, at most as many a lane as it has room for."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        *,
        start: Start,
        guard: MemoryGuard | None = None,
        stall_seconds: float = NEVER,
    ) -> None:
        self.running: dict[int, Running] = {}
        self.trained: dict[int, Progress] = {}
        """The training progress of jobs, also between and after their stages; `forget` takes a job out."""
        self._pipeline = pipeline
        self._store = store
        self._start = start
        self._guard = guard
        self._stall_seconds = stall_seconds
        self._follower = Follower(store)

    def follow(self, now: float) -> None:
        """Read what the running stages reported since the last turn, and count it."""
        for running in self.running.values():
            self._follow(running, now)

    def forget(self, keep: Iterable[int]) -> None:
        """Drop the training progress of every job but these."""
        self.trained = {number: self.trained[number] for number in set(keep) & set(self.trained)}

    def watch(self, now: float) -> None:
        """Stop what has stalled, take note of what the memory guard did, kill what does not stop when asked."""
        for trip in self._guard.news() if self._guard else ():
            self._store.count("memory_guard_trips_total", {"floor": trip.floor})
        for running in self.running.values():
            if self._tripped(running) is not None:
                # The guard has signalled it already.
                running.ask_to_stop(StopReason.MEMORY_GUARD, now, signal=False)
            elif running.stop_asked is None and self._follower.is_silent(running, now, self._stall_seconds):
                logger.warning("%s shows no sign of life", running.stage, extra={"job": running.job.id})
                running.ask_to_stop(StopReason.STALLED, now)
            running.hurry(now)

    def reap(self, now: float, *, wall: float) -> list[tuple[Job, Stage, StageEnd]]:
        """Take note of every stage that has ended. Returns the jobs as they are afterwards."""
        ended = []
        for number, running in list(self.running.items()):
            code = running.process.poll()
            if code is None:
                continue
            self._follow(running, now)
            job = self._store.job(number) or running.job
            seconds = now - running.began
            job, end = self._pipeline.end(
                job, running.stage, code, seconds=seconds, now=wall, instead=self._why_ended(running)
            )
            # Not before it is written down: a turn that fails above is gone through again.
            del self.running[number]
            if self._guard is not None:
                self._guard.release(running.process)
            _log_end(job, running.stage, end, seconds)
            ended.append((job, running.stage, end))
        return ended

    def _why_ended(self, running: Running) -> StageEnd | None:
        """What ended a stage where its exit code does not tell: we did."""
        trip = self._tripped(running)
        if running.stop_asked is None and trip is None:
            return None
        if trip is not None and self._guard is not None and running.stop_reason is not StopReason.CANCELLED:
            return StageEnd(EndKind.FAILED, describe(trip, self._guard.floors), failure=FailureClass.MEMORY_GUARD)
        if running.stop_reason is StopReason.STALLED:
            minutes = self._stall_seconds / 60
            message = f"the {running.stage} stage made no progress for {minutes:.0f} minutes, so it was stopped"
            return StageEnd(EndKind.FAILED, message, failure=FailureClass.STALLED)
        return StageEnd(EndKind.STOPPED)

    def _tripped(self, running: Running) -> Trip | None:
        return self._guard.trip(running.process) if self._guard is not None else None

    def waiting(self, wall: float) -> list[tuple[Job, Stage]]:
        """The jobs that nobody works on, oldest first, each with its next stage."""
        jobs = [job for job in self._store.active_jobs() if job.number not in self.running]
        picked_up = [self._picked_up(job, wall) for job in jobs if not self._pipeline.lose(job, now=wall)]
        return [(job, next_stage(job, self._pipeline.dir(job))) for job in picked_up]

    def start(
        self,
        waiting: Iterable[tuple[Job, Stage]],
        now: float,
        *,
        wall: float,
        gpu: tuple[Waiting, str] | None = None,
        obstacle: Obstacle = nothing_in_the_way,
    ) -> None:
        """Start the next stage of every waiting job that there is room for.

        `gpu` says why the GPU lane is closed, if it is; `obstacle` why one job cannot start although there is room.
        """
        jobs = list(waiting)
        if gpu is not None:
            self._mark_waiting([job for job, stage in jobs if LANES[stage] is Lane.GPU], *gpu)
            jobs = [(job, stage) for job, stage in jobs if LANES[stage] is not Lane.GPU]
        busy = [LANES[running.stage] for running in self.running.values()]

        def may_start(job: Job, stage: Stage) -> bool:
            found = obstacle(job, stage)
            if found is not None:
                self._mark_waiting([job], *found)
            return found is None

        for job, stage in startable(jobs, busy, now=wall, may_start=may_start):
            begun = self._pipeline.begin(job, stage, now=wall)
            if begun is not None:
                self._launch(begun, stage, now)

    def ask_to_stop(self, number: int, now: float, reason: StopReason = StopReason.CANCELLED) -> bool:
        """Ask the stage of one job to stop; False when it has none running."""
        running = self.running.get(number)
        if running is None:
            return False
        running.ask_to_stop(reason, now)
        return True

    def ask_gpu_to_stop(self, now: float, reason: StopReason) -> None:
        """Ask the training to save and make room; what verifies is nearly done and may finish."""
        for running in self.running.values():
            if running.stage is Stage.TRAIN:
                running.ask_to_stop(reason, now)

    @property
    def on_gpu(self) -> list[Running]:
        """What runs on the GPU: at most one."""
        return [running for running in self.running.values() if LANES[running.stage] is Lane.GPU]

    def stop_all(self, now: float) -> None:
        for number in self.running:
            self.ask_to_stop(number, now, StopReason.SHUTDOWN)

    def recover(self, wall: float) -> list[Job]:
        """Put back to the queue what ran when the daemon or the host went down, and end what is left of it."""
        recovered = []
        for attempt in self._store.open_attempts():
            same_boot = attempt["boot_id"] == self._pipeline.boot_id
            if same_boot and attempt["pid"] is not None:
                processes.kill_leftover(attempt["pid"], attempt["pid_started"])
            job = self._store.job(attempt["number"])
            if job is not None:
                stage = Stage(attempt["stage"])
                recovered.append(self._pipeline.interrupted(job, stage, same_boot=same_boot, now=wall))
        return recovered

    def _picked_up(self, job: Job, wall: float) -> Job:
        """A job that is said to run and that nobody works on: a fault cut its start short. It is begun again."""
        if job.state is not JobState.RUNNING or job.stage is None:
            return job
        return self._pipeline.interrupted(job, job.stage, same_boot=True, now=wall)

    def _launch(self, job: Job, stage: Stage, now: float) -> None:
        job_dir = self._pipeline.dir(job)
        process = self._start(stage, job_dir)
        running = Running(job, stage, process, began=now, alive=now)
        self.running[job.number] = running
        if self._guard is not None and LANES[stage] is Lane.GPU:
            self._guard.watch(process)
        self._store.note_process(job.number, stage, pid=process.pid, pid_started=processes.started_at(process.pid) or 0)
        self._follower.replay(running, job_dir)
        logger.info("%s started, attempt %d", stage, job.attempt, extra={"job": job.id})

    def _follow(self, running: Running, now: float) -> None:
        self._follower.follow(running, self._pipeline.dir(running.job), now)
        if running.stage is Stage.TRAIN:
            self.trained[running.job.number] = running.progress

    def _mark_waiting(self, jobs: Iterable[Job], reason: Waiting, detail: str = "") -> None:
        for job in jobs:
            if job.state is JobState.QUEUED and (job.waiting, job.waiting_detail) != (reason, detail):
                self._store.save(replace(job, waiting=reason, waiting_detail=detail))


def _log_end(job: Job, stage: Stage, end: StageEnd, seconds: float) -> None:
    words = {
        EndKind.DONE: "finished",
        EndKind.REJECTED: "refused the input",
        EndKind.WAITS: f"waits for {end.waiting}: {end.message}",
        EndKind.STOPPED: "stopped as asked",
        EndKind.FAILED: f"failed ({end.failure}): {end.message}",
    }
    level = logging.WARNING if end.kind is EndKind.FAILED else logging.INFO
    logger.log(level, "%s %s after %.1f s", stage, words[end.kind], seconds, extra={"job": job.id})
