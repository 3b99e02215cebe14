"""The crew: the stages that run now. Starts them, follows what they report, reaps them, stops them."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from appliance import processes
from appliance.exits import EndKind, StageEnd, explain_no_start
from appliance.following import Follower
from appliance.guard import MemoryGuard, Trip, describe
from appliance.job import ENDED, LANES, FailureClass, Job, JobState, Lane, Outcome, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.order import is_due, next_stage, startable
from appliance.pipeline import Pipeline
from appliance.processes import StageProcess
from appliance.progress import Progress
from appliance.running import FAULTS, Running, StopReason
from appliance.store import Store
from appliance.trouble import Told, nobody_told, trouble_with

logger = logging.getLogger(__name__)

NEVER: Final = float("inf")

Start = Callable[[Stage, JobDir], StageProcess]
Obstacle = Callable[[Job, Stage], tuple[Waiting, str] | None]
"""Why a stage of a job cannot start now, and the details for people; None when it can."""


# What a job waited for when the GPU was free for it: no longer known while the GPU works for another one.
OF_THE_MOMENT: Final = frozenset(
    {Waiting.PAUSED, Waiting.WINDOW, Waiting.GPU, Waiting.MEMORY, Waiting.DISK, Waiting.APPROVAL}
)


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
        on_trouble: Told = nobody_told,
    ) -> None:
        """`on_trouble` is told of an error with the files of one job, by which no other job is held up."""
        self.running: dict[int, Running] = {}
        self.trained: dict[int, Progress] = {}
        """The training progress of jobs, also between and after their stages; `forget` takes a job out."""
        self._pipeline = pipeline
        self._store = store
        self._start = start
        self._guard = guard
        self._stall_seconds = stall_seconds
        self._follower = Follower(store)
        self._on_trouble = on_trouble
        self._troubles: dict[int, str] = {}
        self._unstarted: dict[int, StageEnd] = {}

    def follow(self, now: float) -> None:
        """Read what the running stages reported since the last turn, and count it."""
        for running in self.running.values():
            with self._alone(running.job):
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
        for running in self.running.values():
            if not running.over and running.process.poll() is not None:
                running.over, running.ended_by_us = True, self._why_ended(running)
        ended = []
        for running in [running for running in self.running.values() if running.over]:
            with self._alone(running.job):
                ended.append(self._note_end(running, now, wall=wall))
        return ended

    def _note_end(self, running: Running, now: float, *, wall: float) -> tuple[Job, Stage, StageEnd]:
        code = running.process.poll()
        assert code is not None, "asked only of those that are over"
        job = self._store.job(running.job.number) or running.job
        seconds = now - running.began
        if self._pipeline.lose(job, now=wall):
            self._let_go(running)
            return job, running.stage, StageEnd(EndKind.FAILED, failure=FailureClass.INTERNAL)
        self._follow(running, now)
        job, end = self._pipeline.end(
            job,
            running.stage,
            code,
            seconds=seconds,
            now=wall,
            instead=running.ended_by_us,
            asked=running.stop_asked is not None,
        )
        # Not before it is written down: a turn that fails above is gone through again.
        self._let_go(running)
        _log_end(job, running.stage, end, seconds)
        return job, running.stage, end

    def _let_go(self, running: Running) -> None:
        del self.running[running.job.number]
        if self._guard is not None:
            self._guard.release(running.process)

    def _why_ended(self, running: Running) -> StageEnd | None:
        """What ended a stage where its exit code does not tell: we did."""
        trip = self._tripped(running)
        if running.stop_asked is None and trip is None:
            return None
        # Whoever was leaving anyway has not failed, although others took its memory before it was gone.
        leaving = running.stop_reason is not None and running.stop_reason not in FAULTS
        if trip is not None and self._guard is not None and not leaving:
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
        found = []
        for job in self._store.active_jobs():
            if job.number in self.running:
                continue
            with self._alone(job):
                if not self._pipeline.lose(job, now=wall):
                    job = self._cancelled(self._picked_up(job, wall))
                    found.append((job, next_stage(job, self._pipeline.dir(job))))
        return found

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
            self._mark_waiting((job, gpu) for job, stage in jobs if LANES[stage] is Lane.GPU)
            jobs = [(job, stage) for job, stage in jobs if LANES[stage] is not Lane.GPU]
        busy = [LANES[running.stage] for running in self.running.values() if not running.over]
        told: set[int] = set()

        def may_start(job: Job, stage: Stage) -> bool:
            found = obstacle(job, stage)
            if found is not None:
                told.add(job.number)
                self._mark_waiting([(job, found)])
            return found is None

        for job, stage in startable(jobs, busy, now=wall, may_start=may_start):
            told.add(job.number)
            with self._alone(job):
                begun = self._pipeline.begin(job, stage, now=wall)
                if begun is not None:
                    self._launch(begun, stage, now)
        # What is left waits for its turn only, whatever closed the lane before.
        left = [job for job, stage in jobs if LANES[stage] is Lane.GPU and job.number not in told and is_due(job, wall)]
        self._mark_waiting((job, (Waiting.NONE, "")) for job in left if job.waiting in OF_THE_MOMENT)

    def hold_back(self, held: Iterable[tuple[Job, tuple[Waiting, str]]]) -> None:
        """Let each of the jobs say why it does not go on."""
        self._mark_waiting(held)

    def may_preempt(self, job: Job) -> bool:
        """Whether others make room for a job: not when its last stage has only waited, as the next one would."""
        return self._pipeline.last_end(job) is not EndKind.WAITS

    def held_back(self, job: Job) -> tuple[Waiting, str] | None:
        """Why a training goes on only when a person lets it; None when it may go on by itself."""
        return self._pipeline.held_back(job)

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
        return [r for r in self.running.values() if LANES[r.stage] is Lane.GPU and not r.over]

    @property
    def trouble(self) -> str | None:
        """What keeps the end of a stage from being written down, for people; None when nothing does."""
        over = (running.job for running in self.running.values() if running.over)
        return next((f"{job.id}: {self._troubles[job.number]}" for job in over if job.number in self._troubles), None)

    @property
    def is_over(self) -> bool:
        """Whether nothing runs any more. What is still here could not be written down yet."""
        return all(running.over for running in self.running.values())

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
            if job is None or job.state in ENDED:
                self._store.end_attempt(attempt["number"], attempt["stage"], exit_code=None, counted=True, now=wall)
                continue
            with self._alone(job):
                if not self._pipeline.lose(job, now=wall):
                    stage = Stage(attempt["stage"])
                    recovered.append(self._pipeline.interrupted(job, stage, same_boot=same_boot, now=wall))
        return recovered

    def _picked_up(self, job: Job, wall: float) -> Job:
        """A job that is said to run and that nobody works on: a fault cut its start short. It is begun again."""
        stage = job.stage
        if job.state is not JobState.RUNNING or stage is None:
            return job
        if (why := self._unstarted.get(job.number)) is not None:
            job = self._pipeline.not_started(job, stage, why, now=wall)
            del self._unstarted[job.number]
            return job
        return self._pipeline.interrupted(job, stage, same_boot=True, now=wall)

    def _cancelled(self, job: Job) -> Job:
        """A job that nobody works on and that was cancelled ends here, as soon as that can be written down."""
        job_dir = self._pipeline.dir(job)
        if not job.cancel_requested or job_dir.outcome() is not None:
            return job
        stage = next_stage(job, job_dir)
        return self._pipeline.settle(job, Outcome.CANCELLED, stage=stage, message="cancelled by request")

    def _launch(self, job: Job, stage: Stage, now: float) -> None:
        job_dir = self._pipeline.dir(job)
        try:
            process = self._start(stage, job_dir)
        except OSError as error:
            # Written down at the next turn, as often as it takes: no attempt was made.
            self._unstarted[job.number] = why = explain_no_start(stage, error)
            logger.warning("%s", why.message, extra={"job": job.id})
            self._on_trouble(error)
            return
        self._troubles.pop(job.number, None)
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

    def held_up(self, job: Job, error: Exception) -> tuple[Waiting, str]:
        """Take note of an error with the files of one job. Returns what the job waits for until it is over."""
        self._on_trouble(error)
        trouble = trouble_with(error)
        if self._troubles.get(job.number) != trouble:
            # Once: it is met again at every turn.
            self._troubles[job.number] = trouble
            logger.error("held up: %s", trouble, exc_info=error, extra={"job": job.id})
        return Waiting.DISK, trouble

    @contextmanager
    def _alone(self, job: Job) -> Iterator[None]:
        """What goes wrong with one job's files holds up that job, visibly, and no other."""
        try:
            yield
        except sqlite3.Error:
            # The books are everybody's.
            raise
        except Exception as error:  # noqa: BLE001
            self._mark_waiting([(self._store.job(job.number) or job, self.held_up(job, error))])

    def _mark_waiting(self, jobs: Iterable[tuple[Job, tuple[Waiting, str]]]) -> None:
        queued = ((job, why) for job, why in jobs if job.state is JobState.QUEUED)
        changed = [(job, why) for job, why in queued if (job.waiting, job.waiting_detail) != why]
        if changed:
            # Hundreds may wait for the same: one write to the disk, not one for each.
            with self._store.transaction():
                for job, (reason, detail) in changed:
                    self._store.save(replace(job, waiting=reason, waiting_detail=detail))


def _log_end(job: Job, stage: Stage, end: StageEnd, seconds: float) -> None:
    words = {
        EndKind.DONE: "finished",
        EndKind.REJECTED: "refused the input",
        EndKind.WAITS: f"waits for {end.waiting}",
        EndKind.STOPPED: "stopped as asked",
        EndKind.FAILED: f"failed ({end.failure})",
    }
    level = logging.WARNING if end.kind is EndKind.FAILED else logging.INFO
    why = f": {end.message}" if end.kind in (EndKind.WAITS, EndKind.FAILED) else ""
    logger.log(level, "%s %s after %.1f s%s", stage, words[end.kind], seconds, why, extra={"job": job.id})
