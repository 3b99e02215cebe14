"""Pushing what is pending, one after the other, for days if need be: starts, reaps and repeats the push stage.

A push is a fact of its own: it neither fails nor repeats a job, and it goes on while other jobs train.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from appliance import processes
from appliance.job import Job, Outcome, Push, Stage
from appliance.job_dir import JobDir
from appliance.metric_table import PUSH_BUCKETS
from appliance.processes import StageProcess
from appliance.push_store import LAST_SUCCESS, PushStore
from appliance.pushing import (
    BY_PERSON,
    LONGEST_DEADLINE_SECONDS,
    Pending,
    PushError,
    PushResult,
    next_push,
    pause_seconds,
    push_error,
)
from appliance.settings import Settings
from appliance.store import Store
from appliance.trouble import Told, nobody_told, trouble_with

logger = logging.getLogger(__name__)

# The stage ends a transfer that hangs, over Xet and then without. This is for a stage that hangs itself.
STAGE_SECONDS: Final = 2 * LONGEST_DEADLINE_SECONDS + 600.0
STOP_SECONDS: Final = 10.0
LEFT_ALONE_SECONDS: Final = 60.0


@dataclass
class RunningPush:
    """A push at work. `began` and `stop_asked` are monotonic seconds."""

    job: Job
    process: StageProcess
    began: float
    stop_asked: float | None = None
    too_long: bool = False


class Pushes:
    """The pushes of one appliance; at most one runs at a time."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        job_dir: Callable[[Job], JobDir],
        start: Callable[[Stage, JobDir], StageProcess],
        boot_id: str,
        on_trouble: Told = nobody_told,
    ) -> None:
        """`on_trouble` is told of an error with the files of one job, by which no other push is held up."""
        self.running: RunningPush | None = None
        self._store, self._rows = store, PushStore(store)
        self._hub_org = settings.hub_org
        self._possible = settings.hub_org is not None and settings.hub_token is not None
        self._dir, self._start, self._boot_id = job_dir, start, boot_id
        self._shared: dict[int, str | None] = {}
        self._left_alone: dict[int, float] = {}
        self._on_trouble = on_trouble
        self._troubles: dict[int, str] = {}

    def recover(self) -> None:
        """End what is left of a push that ran when the daemon or the host went down; it is tried again when due."""
        for row in self._rows.working():
            if row.boot_id == self._boot_id and row.pid is not None and row.pid_started is not None:
                processes.kill_leftover(row.pid, row.pid_started)
            job = self._store.job(row.number)
            self._rows.lost(row.number, done=job is not None and self._got_there(job))

    def _got_there(self, job: Job) -> bool:
        try:
            return self._dir(job).result(Stage.PUSH) is not None
        except OSError as error:
            # It is read again before the next try.
            logger.warning("whether it was pushed cannot be read: %s", error, extra={"job": job.id})
            return False

    def ask(self, number: int, *, wall: float) -> None:
        """Somebody wants this one pushed, whatever its verdict, and now. Asking twice changes nothing."""
        job = self._store.job(number)
        if job is None or job.outcome is not Outcome.SUCCEEDED or job.finished is None:
            return
        if self.running is not None and self.running.job.number == number:
            return
        if self._is_lost(job, wall=wall):
            return
        folder = self._dir(job).stage(Stage.PUSH)
        (folder / BY_PERSON).touch()
        (folder / "result.json").unlink(missing_ok=True)
        with self._store.transaction():
            self._rows.start_over(number)
            self._store.note(number, "push_requested", now=wall)
            self._save(replace(job, push=Push.PENDING))
        logger.info("a push was asked for", extra={"job": job.id})

    def start(self, now: float, *, wall: float) -> None:
        """Start the push that is due, if none is at work."""
        if self.running is not None or not self._possible:
            return
        jobs = {job.number: job for job in self._store.pending_pushes()}
        self._troubles = {number: said for number, said in self._troubles.items() if number in jobs}
        left_alone = {number for number, until in self._left_alone.items() if now < until}
        pending = [self._pending(job) for number, job in jobs.items() if number not in left_alone]
        chosen = next_push(pending, now=wall)
        if chosen is None:
            return
        with self._alone(jobs[chosen.number], now):
            self._begin(jobs[chosen.number], chosen, now, wall=wall)

    def reap(self, now: float, *, wall: float) -> None:
        """Take note of a push that has ended; kill one that has gone on for too long."""
        running = self.running
        if running is None:
            return
        code = running.process.poll()
        if code is None:
            self._hurry(running, now)
            return
        self.running = None
        with self._alone(running.job, now), self._store.transaction():
            job = self._store.job(running.job.number)
            if job is not None and job.push is not Push.OFF:
                self._end(job, running, code, seconds=now - running.began, wall=wall)

    def stop(self, now: float) -> None:
        """Ask the push to stop. Nothing is lost: the next one goes on from what is on the Hub."""
        if self.running is not None and self.running.stop_asked is None:
            self.running.stop_asked = now
            self.running.process.ask_to_stop()

    @property
    def trouble(self) -> str | None:
        """What keeps a push from going on, for people; None when nothing does."""
        return next(iter(self._troubles.values()), None)

    @contextmanager
    def _alone(self, job: Job, now: float) -> Iterator[None]:
        """What goes wrong with one job's files, or with its process, holds up its push, visibly, and nothing else."""
        try:
            yield
        except OSError as error:
            self._left_alone[job.number] = now + LEFT_ALONE_SECONDS
            self._on_trouble(error)
            trouble = trouble_with(error)
            said = f"{job.id}: its push waits: {trouble}"
            if self._troubles.get(job.number) != said:
                # Once: it is met again at every try.
                self._troubles[job.number] = said
                logger.error("its push waits: %s", trouble, exc_info=error, extra={"job": job.id})
        else:
            self._troubles.pop(job.number, None)

    def _pending(self, job: Job) -> Pending:
        if job.number not in self._shared:
            self._shared[job.number] = _shared_repository(self._dir(job))
        return self._rows.pending(job.number, repository=self._shared[job.number])

    def _begin(self, job: Job, pending: Pending, now: float, *, wall: float) -> None:
        if self._is_lost(job, wall=wall):
            return
        job_dir = self._dir(job)
        result = job_dir.result(Stage.PUSH)
        if result is not None:
            # It had got there, and only that had not been noted.
            with self._store.transaction():
                self._pushed(job, result, seconds=None, wall=wall)
            return
        (job_dir.stage(Stage.PUSH) / "failure.json").unlink(missing_ok=True)
        next_try = wall + pause_seconds(pending.attempts + 1)
        # For a shared repository nothing else tells that something of this job may be there.
        goes_to = {"repository": f"{self._hub_org}/{pending.repository}"} if pending.repository else {}
        with self._store.transaction():
            if self._rows.is_called_off(job.number):
                return
            attempt = self._rows.begin(job.number, next_try=next_try, boot_id=self._boot_id)
            self._store.note(job.number, "push_started", now=wall, attempt=attempt, **goes_to)
        process = self._start(Stage.PUSH, job_dir)
        pid_started = processes.started_at(process.pid) or 0
        self._rows.note_process(job.number, pid=process.pid, pid_started=pid_started)
        self.running = RunningPush(job, process, now)
        if self._rows.is_called_off(job.number):
            # Before its process was noted, and could be seen by whoever deletes the job.
            process.kill()
        logger.info("push started, attempt %d", attempt, extra={"job": job.id})

    def _is_lost(self, job: Job, *, wall: float) -> bool:
        """Whether the job's folder is gone, and with it the recipe that says where to; then its push needs a person."""
        if self._dir(job).path.exists():
            return False
        hint = "Its adapter is in the outbox: upload that by hand."
        with self._store.transaction():
            self._rows.make(job.number)
            error = PushError(PushResult.OTHER, "the job's folder in the state folder is gone", hint=hint, blocked=True)
            self._not_pushed(job, error, wall=wall)
        return True

    def _hurry(self, running: RunningPush, now: float) -> None:
        if running.stop_asked is not None and now - running.stop_asked > STOP_SECONDS:
            running.process.kill()
        elif now - running.began > STAGE_SECONDS:
            running.too_long = True
            running.process.kill()

    def _end(self, job: Job, running: RunningPush, code: int, *, seconds: float, wall: float) -> None:
        job_dir = self._dir(job)
        result, failure = job_dir.result(Stage.PUSH), job_dir.failure(Stage.PUSH)
        if result is not None:
            self._pushed(job, result, seconds=seconds, wall=wall)
        elif running.stop_asked is not None:
            self._rows.stopped(job.number)
        elif running.too_long:
            message = f"the push was ended after {seconds:.0f} s"
            self._not_pushed(job, PushError(PushResult.NETWORK, message), wall=wall)
        elif failure is not None and "push" in failure:
            self._not_pushed(job, push_error(failure), wall=wall)
        else:
            message = (failure or {}).get("message") or f"the push ended without a result (exit code {code})"
            hint = f"`appliance logs {job.number}` has the details."
            self._not_pushed(job, PushError(PushResult.OTHER, message, hint=hint), wall=wall)

    def _pushed(self, job: Job, result: dict[str, object], *, seconds: float | None, wall: float) -> None:
        repository, url = str(result["repository"]), str(result["url"])
        notes = result.get("notes")
        message = "; ".join(map(str, notes)) if isinstance(notes, list) else ""
        self._rows.pushed(job.number, repository=repository, url=url, message=message)
        self._store.note(job.number, "pushed", now=wall, repository=repository, commit=result["commit"])
        self._store.count("hub_push_attempts_total", {"result": PushResult.OK})
        self._store.count("hub_pushes_total", {"outcome": "pushed"})
        self._store.count("hub_push_bytes_total", amount=float(str(result["bytes"])))
        self._store.set_fact(LAST_SUCCESS, str(wall))
        if seconds is not None:
            self._store.observe("hub_push_duration_seconds", seconds, PUSH_BUCKETS)
        self._save(replace(job, push=Push.PUSHED))
        logger.info("pushed to %s", repository, extra={"job": job.id})

    def _not_pushed(self, job: Job, error: PushError, *, wall: float) -> None:
        attempts = self._rows.row(job.number).attempts
        pause = pause_seconds(attempts, error.retry_after)
        self._rows.end(job.number, error, next_try=wall + pause)
        self._store.count("hub_push_attempts_total", {"result": error.result})
        facts = {"result": error.result, "message": error.message}
        if error.blocked:
            self._store.count("hub_pushes_total", {"outcome": "blocked"})
            self._store.note(job.number, "push_blocked", now=wall, **facts)
            self._save(replace(job, push=Push.BLOCKED))
            logger.error("push blocked: %s", error.message, extra={"job": job.id})
            return
        self._store.note(job.number, "push_failed", now=wall, **facts, pause_seconds=pause)
        logger.warning("not pushed: %s; again in %.0f s", error.message, pause, extra={"job": job.id})

    def _save(self, job: Job) -> None:
        self._store.save(job)
        if self._dir(job).path.exists():
            self._dir(job).write_job(job)


def _shared_repository(job_dir: JobDir) -> str | None:
    try:
        recipe = job_dir.recipe() or {}
    except (OSError, ValueError):
        return None
    repository = recipe.get("hub", {}).get("repo")
    return str(repository) if repository else None
