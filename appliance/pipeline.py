"""Moving a job along the line of its stages: what begins, what an end means, and how the job ends."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from appliance import exits
from appliance.exits import LONGEST_PAUSE_SECONDS, EndKind, StageEnd
from appliance.gate import PushRules, push_after
from appliance.job import (
    END_STATE,
    LANES,
    DroppedFile,
    FailureClass,
    Job,
    JobState,
    Lane,
    Outcome,
    Priority,
    Push,
    Role,
    Stage,
    Verdict,
    Waiting,
    lost,
    move,
)
from appliance.job_dir import JobDir
from appliance.measurements import record_measurement
from appliance.metric_table import DETECTION_BUCKETS, STAGE_BUCKETS, WAIT_BUCKETS
from appliance.order import has_ended_well
from appliance.priorities import capped
from appliance.retries import (
    again,
    crashes_since_approval,
    ends_in_a_row,
    last_end,
    last_failure,
    progress_mark,
    tries,
)
from appliance.store import Store
from appliance.texts.why import gist

logger = logging.getLogger(__name__)

SHORT_PAUSE_SECONDS: Final = 60.0
# Of what takes the GPU each time that it looks, and with it from the server that shares it.
GPU_PAUSE_SECONDS: Final = 600.0
# Twice what is allowed at one place: a few power cuts in a long training are nobody's fault.
CRASHES_A_PERSON_SEES_TO: Final = 2


@dataclass(frozen=True)
class Pipeline:
    """Moves jobs along the line: every change of a job's state happens here, written down before it is acted on."""

    store: Store
    jobs: Path
    max_attempts: int
    boot_id: str
    push_rules: PushRules
    max_priority: Priority = Priority.HIGH

    def dir(self, job: Job) -> JobDir:
        return JobDir(self.jobs / job.id)

    def begin(self, job: Job, stage: Stage, *, now: float) -> Job | None:
        """Count an attempt at a stage and mark the job as running, before the process starts.

        Returns None, and settles the job as failed, when the stage was tried too often without getting further.
        """
        mark = progress_mark(self.dir(job))
        with self.store.transaction():
            # What is finished is never given up: publishing is tried until it succeeds.
            if stage is not Stage.PUBLISH and tries(self.store, job, stage, mark=mark) >= self.max_attempts:
                self._give_up(job, stage, now=now)
                return None
            self.store.start_attempt(job.number, stage, mark=mark, boot_id=self.boot_id, now=now)
            attempt = self.store.attempts(job.number, stage)
            if job.started is None:
                self.store.observe("job_queue_wait_seconds", now - job.created, WAIT_BUCKETS)
            job = move(
                job,
                JobState.RUNNING,
                stage=stage,
                attempt=attempt,
                trainings=self.store.attempts(job.number, Stage.TRAIN),
                started=job.started or now,
                waiting=Waiting.NONE,
                waiting_detail="",
            )
            self.store.save(job)
            self.store.note(job.number, "stage_started", now=now, stage=stage, attempt=attempt)
        return job

    def end(
        self,
        job: Job,
        stage: Stage,
        code: int,
        *,
        seconds: float,
        now: float,
        instead: StageEnd | None = None,
        asked: bool = True,
    ) -> tuple[Job, StageEnd]:
        """Take note of a stage that ended, and decide what becomes of the job.

        `instead` says why a stage without a result ended, where we know it better than from the exit code; `asked`
        whether we asked it to stop.
        """
        job_dir = self.dir(job)
        has_result = has_ended_well(stage, job_dir)
        ended = (None if has_result else instead) or exits.explain_exit(
            stage,
            code,
            has_result=has_result,
            has_problems=bool(job_dir.problems(stage)),
            failure=job_dir.failure(stage),
            asked=asked,
        )
        counted = ended.kind not in (EndKind.STOPPED, EndKind.WAITS)
        if ended.kind is EndKind.WAITS and (job_dir.failure(stage) or {}).get("again") == Stage.FETCH:
            job_dir.fetch_again()
        with self.store.transaction():
            self.store.end_attempt(job.number, stage, exit_code=code, counted=counted, now=now)
            facts = {"stage": stage, "exit_code": code, "kind": ended.kind, "failure": ended.failure}
            self.store.note(job.number, "stage_ended", now=now, **facts)
            self.store.observe("job_stage_duration_seconds", seconds, STAGE_BUCKETS, {"stage": stage})
            job = self._after(job, stage, ended, now=now)
            # Before it is committed: when it cannot be written, nothing has happened, and the end is noted again.
            job_dir.write_job(job)
        return job, ended

    def not_started(self, job: Job, stage: Stage, why: StageEnd, *, now: float) -> Job:
        """The process of a stage that was begun could not be started: no attempt was made, and the job waits."""
        with self.store.transaction():
            self.store.end_attempt(job.number, stage, exit_code=None, counted=False, now=now)
            self.store.note(job.number, "stage_not_started", now=now, stage=stage, kind=why.kind, message=why.message)
            job = self._after(job, stage, why, now=now)
            self.dir(job).write_job(job)
        return job

    def _after(self, job: Job, stage: Stage, ended: StageEnd, *, now: float) -> Job:
        match ended.kind:
            case EndKind.DONE if stage is Stage.PUBLISH:
                return self._finish(job, now=now)
            case EndKind.DONE:
                return self._advance(job, stage, now=now)
            case EndKind.REJECTED:
                self.note_rejection(job, stage, now=now)
                message = gist(self.dir(job).problems(stage))
                return self.settle(job, Outcome.REJECTED, stage=stage, message=message)
            case _ if job.cancel_requested and stage is not Stage.PUBLISH:
                return self.settle(job, Outcome.CANCELLED, stage=stage, message="cancelled by request")
            case EndKind.STOPPED:
                return self._requeue(job)
            case EndKind.WAITS:
                waits = ends_in_a_row(self.store, job, stage, EndKind.WAITS)
                pause = exits.backoff_seconds(waits, longest=_longest_pause(stage, ended))
                return self._hold(job, ended, pause=pause, now=now)
        return self._after_failure(job, stage, ended, now=now)

    def _advance(self, job: Job, stage: Stage, *, now: float) -> Job:
        """One stage further; the last one tells how the job ends."""
        result = self.dir(job).result(stage) or {}
        if stage is Stage.CHECK:
            priority = capped(Priority(result.get("priority", job.priority)), self.max_priority)
            job = replace(job, base_model=result.get("base_model"), method=result.get("method"), priority=priority)
            self.note_drop(job, "accepted", now=now)
        if stage is Stage.FETCH and "rows" in result:
            job = self._with_rows(job, result["rows"])
        if stage is Stage.TRAIN:
            record_measurement(self.store, self.dir(job), now=now)
        if stage is Stage.VERIFY:
            job = replace(job, verdict=Verdict(result["verdict"]))
            self.store.count("verdicts_total", {"verdict": result["verdict"]})
        if job.cancel_requested:
            return self.settle(job, Outcome.CANCELLED, stage=stage, message="cancelled by request")
        if stage is Stage.VERIFY:
            return self.settle(job, Outcome.SUCCEEDED, stage=stage)
        if stage is Stage.PREPARE and job.dry_run:
            return self.settle(job, Outcome.CHECKED, stage=stage)
        return self._requeue(job)

    def _with_rows(self, job: Job, rows: dict[str, Any]) -> Job:
        """The job with the rows that it fetched, as if they had been dropped."""
        file = DroppedFile(**{**rows, "role": Role(rows["role"])})
        if all(known.path != file.path for known in job.files):
            job = replace(job, files=(*job.files, file))
            # Before the row: the check reads this.
            self.dir(job).write_job(job)
        return job

    def note_rejection(self, job: Job, stage: Stage, *, now: float) -> None:
        """Count a drop that cannot be used, and why."""
        problems = self.dir(job).problems(stage)
        if stage is Stage.CHECK:
            duplicate = any(problem.code == "duplicate" for problem in problems)
            self.note_drop(job, "duplicate" if duplicate else "rejected", now=now)
        for reason in {problem.reason for problem in problems}:
            self.store.count("inbox_rejections_total", {"reason": reason})

    def note_drop(self, job: Job, outcome: str, *, now: float) -> None:
        """Count what became of a drop, and how long that took since its last write."""
        self.store.count("inbox_drops_total", {"outcome": outcome})
        last_write = max((file.mtime_ns for file in job.files), default=None)
        if last_write is not None:
            self.store.observe("inbox_detection_delay_seconds", max(0.0, now - last_write / 1e9), DETECTION_BUCKETS)

    def settle(
        self,
        job: Job,
        outcome: Outcome,
        *,
        stage: Stage,
        failure: FailureClass | None = None,
        message: str = "",
        hint: str | None = None,
    ) -> Job:
        """Write down how the job ends; what is left to do is to publish it."""
        facts = {"outcome": outcome, "stage": stage, "failure": failure, "message": message, "hint": hint}
        self.dir(job).write_outcome(facts)
        if failure is not None:
            self.store.count("job_failures_total", {"reason": failure})
        # Whatever it waited for, it waits no more: its files go back at once.
        due = replace(job, waiting=Waiting.NONE, waiting_detail="", not_before=0.0)
        return self._requeue(replace(due, outcome=outcome, failure=failure, message=message))

    def _requeue(self, job: Job) -> Job:
        if job.state is JobState.RUNNING:
            job = move(job, JobState.QUEUED, stage=None)
        self.store.save(job)
        return job

    def _hold(self, job: Job, ended: StageEnd, *, pause: float, now: float) -> Job:
        """The machine cannot do it now: wait, visibly, and try again later."""
        detail = f"{ended.message}. {ended.hint.rstrip('.')}" if ended.hint else ended.message
        job = replace(job, waiting=ended.waiting, waiting_detail=detail, not_before=now + pause)
        return self._requeue(job)

    def _after_failure(self, job: Job, stage: Stage, ended: StageEnd, *, now: float) -> Job:
        retry = again(job, stage, ended, self.dir(job), self.store, max_attempts=self.max_attempts)
        if retry is None:
            return self.settle(
                job, Outcome.FAILED, stage=stage, failure=ended.failure, message=ended.message, hint=ended.hint
            )
        if stage is not Stage.PUBLISH:
            self.store.count("job_retries_total", {"reason": str(ended.failure)})
        job = replace(job, message=ended.message)
        return self._hold(job, replace(ended, waiting=retry.waiting), pause=retry.pause, now=now)

    def _give_up(self, job: Job, stage: Stage, *, now: float) -> None:
        failure = last_failure(self.store, job, stage, attempts=self.max_attempts)
        message = job.message
        if failure is None:
            failure = FailureClass.HOST_CRASHED
            message = f"the {stage} stage was begun {self.max_attempts} times and never got further: it took the"
            message += " machine or the appliance down each time"
        self.store.note(job.number, "given_up", now=now, stage=stage)
        self.settle(job, Outcome.FAILED, stage=stage, failure=failure, message=message)

    def _finish(self, job: Job, *, now: float) -> Job:
        """The result stands in the outbox. `outcome.json` is the truth: the row may have missed it in a crash."""
        job_dir = self.dir(job)
        facts = job_dir.outcome() or {}
        outcome = Outcome(facts["outcome"])
        verified = job_dir.result(Stage.VERIFY)
        verdict = Verdict(verified["verdict"]) if verified else None
        job = move(
            job,
            END_STATE[outcome],
            stage=None,
            outcome=outcome,
            failure=FailureClass(facts["failure"]) if facts["failure"] else None,
            message=facts["message"],
            verdict=verdict,
            push=self._push(job_dir, verdict) if outcome is Outcome.SUCCEEDED else Push.OFF,
            finished=now,
        )
        self.store.save(job)
        self.store.count("jobs_finished_total", {"outcome": job.state})
        if job.push is Push.WITHHELD:
            self.store.count("hub_pushes_total", {"outcome": "withheld"})
        return job

    def _push(self, job_dir: JobDir, verdict: Verdict | None) -> Push:
        recipe = job_dir.recipe()
        return push_after(verdict, self.push_rules, wanted=recipe["hub"]["push"] if recipe else None)

    def lose(self, job: Job, *, now: float) -> bool:
        """End a job whose folder is gone, and with it all that could be handed back. False while it is there."""
        # Without the folder of all jobs it is the disk that is away.
        if self.dir(job).path.exists() or not self.jobs.exists():
            return False
        ended = lost(job, "its folder in the state folder is gone: drop its files again", now=now)
        with self.store.transaction():
            if job.stage is not None:
                self.store.end_attempt(job.number, job.stage, exit_code=None, counted=True, now=now)
            self.store.save(ended)
            self.store.count("job_failures_total", {"reason": FailureClass.INTERNAL})
            self.store.count("jobs_finished_total", {"outcome": ended.state})
        logger.error(ended.message, extra={"job": job.id})
        return True

    def last_end(self, job: Job) -> EndKind | None:
        """How the last run of a job's stages ended; None before the first end."""
        return last_end(self.store, job)

    def held_back(self, job: Job) -> tuple[Waiting, str] | None:
        """A training that gets further each time and still takes the machine down with it: a person must look first.

        One that gets no further is given up by its attempts; both bound how often a machine is started for nothing.
        """
        crashes = crashes_since_approval(self.store, job)
        if crashes < CRASHES_A_PERSON_SEES_TO * self.max_attempts:
            return None
        return Waiting.APPROVAL, (
            f"the machine went down {crashes} times while it trained; when the reason is found, "
            f"`appliance approve {job.number}` lets it go on from its last checkpoint"
        )

    def interrupted(self, job: Job, stage: Stage, *, same_boot: bool, now: float) -> Job:
        """A stage that no one saw the end of: the daemon or the host went down under it. The attempt stays counted.

        Where the result is there, the stage had finished and only that had not been noted.
        """
        kind = "daemon_restarted" if same_boot else "host_crashed"
        with self.store.transaction():
            self.store.end_attempt(job.number, stage, exit_code=None, counted=True, now=now)
            self.store.note(job.number, kind, now=now, stage=stage)
            if not same_boot:
                self.store.count("job_retries_total", {"reason": FailureClass.HOST_CRASHED})
            done = has_ended_well(stage, self.dir(job))
            # Somebody may have cancelled it meanwhile: as after a stop, that is kept to.
            job = self._after(job, stage, StageEnd(EndKind.DONE if done else EndKind.STOPPED), now=now)
            self.dir(job).write_job(job)
            return job


def _longest_pause(stage: Stage, ended: StageEnd) -> float:
    """How long a stage that could only wait is left alone at most. Room and memory come back at any moment."""
    if ended.waiting is Waiting.NETWORK:
        return LONGEST_PAUSE_SECONDS
    return GPU_PAUSE_SECONDS if LANES[stage] is Lane.GPU else SHORT_PAUSE_SECONDS
