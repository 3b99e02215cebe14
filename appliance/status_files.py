"""`STATUS.md` and `STATUS.html` in the outbox: the board for people who only have the folder."""

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from appliance.copying import user_name
from appliance.files import write_whole
from appliance.inbox import Availability
from appliance.job import ENDED, Job, Outcome, Stage
from appliance.job_dir import JobDir
from appliance.names import printable
from appliance.places import highest_number
from appliance.progress import how_far
from appliance.running import Running
from appliance.settings import Settings
from appliance.settling import Drop, DropState
from appliance.store import Store
from appliance.texts.board import Board, InboxRow, QueuedRow, ResultRow, RunningRow, status_html, status_markdown
from appliance.view import View

logger = logging.getLogger(__name__)

RESULTS_SHOWN = 20
DAY_SECONDS = 86_400.0
INBOX_SHOWN = 100
# People look at it, programs have the API: a few seconds old is fresh enough, and spares the disk.
EVERY_SECONDS = 2.0
AT_LEAST_EVERY_SECONDS = 60.0
# Writing two small files takes longer than this only where the outbox hangs.
HUNG_SECONDS = 15.0
STOP_SECONDS = 2.0


class StatusFiles:
    """Writes the board when it has changed, at most every two seconds, at least every minute.

    It is written in a thread, one board at a time: the outbox may lie on a share, and a share can hang for minutes.
    """

    def __init__(self, outbox: Path, jobs: Path, store: Store, settings: Settings) -> None:
        self._outbox = outbox
        self._settings = settings
        self._jobs = jobs
        self._store = store
        self.last_turn = 0.0
        """When nothing hung, at the last look, in Unix seconds."""
        self._looked = float("-inf")
        self._began = float("-inf")
        self._last: Board | None = None
        self._failed = self._hung = False
        self._highest = 0
        self._thread: threading.Thread | None = None

    def write(self, view: View, now: float) -> None:
        """Have the files brought up to date. `now` is monotonic; an outbox that cannot be written is logged once."""
        if now - self._looked < EVERY_SECONDS:
            return
        self._looked = now
        if self._is_writing:
            # What is written next is how things stand then.
            return
        self.last_turn = view.time
        # Somebody may have put results of another time there: their numbers are not given again.
        self._store.use_up(self._highest)
        board = make_board(view, self._store, self._jobs, self._settings)
        unchanged = not self._failed and self._last is not None and _same(board, self._last)
        if unchanged and now - self._began < AT_LEAST_EVERY_SECONDS:
            return
        files = {"STATUS.md": status_markdown(board), "STATUS.html": status_html(board)}
        self._last, self._began = board, now
        self._thread = threading.Thread(target=self._put, args=(files,), name="board", daemon=True)
        self._thread.start()

    def trouble(self, now: float) -> str | None:
        """That the outbox hangs, for people; None while it answers. Logged when that changes."""
        hung, self._hung = self._hung, self._is_writing and now - self._began > HUNG_SECONDS
        if self._hung and not hung:
            logger.error("the outbox %s does not answer: STATUS.html is not written", self._outbox)
        elif hung and not self._hung:
            logger.info("the outbox answers again")
        said = "the outbox does not answer; work goes on, and results are published when it does"
        return said if self._hung else None

    def close(self) -> None:
        """Let the thread finish; one that hangs is left behind."""
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    @property
    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _put(self, files: Mapping[str, str]) -> None:
        try:
            for name, content in files.items():
                write_whole(self._outbox / name, content)
            self._highest = highest_number(self._outbox)
        except OSError as error:
            if not self._failed:
                logger.warning("STATUS.html cannot be written into the outbox: %s", error.strerror)
            self._failed = True
        else:
            self._failed = False


def make_board(view: View, store: Store, jobs: Path, settings: Settings) -> Board:
    """The board as things stand: the loop's view, and what the database says of the rest."""
    running = {entry.job.number: entry for entry in view.running}
    waiting = [job for job in store.active_jobs() if job.number not in running]
    return Board(
        updated=view.time,
        running=tuple(running_row(entry, view) for entry in running.values()),
        queued=tuple(queued_row(job, jobs) for job in waiting),
        results=tuple(result_row(job, jobs, settings) for job in store.recent_jobs(RESULTS_SHOWN, ENDED)),
        inbox=inbox_rows(view),
        troubles=tuple(troubles_of(view)),
        paused=view.paused,
    )


def people(job: Job) -> tuple[str, ...]:
    """Who dropped a job's files, where that is worth saying: on a share, and not where we are the only user."""
    return tuple(name for name in job.dropped_by if name != user_name(os.geteuid()))


def kept_until(job: Job, settings: Settings) -> float | None:
    """Until when a succeeded job's dataset stays in the state folder where it is kept there; None before its end."""
    if job.outcome is not Outcome.SUCCEEDED or job.finished is None:
        return None
    return job.finished + settings.keep_finished_days * DAY_SECONDS


def _same(one: Board, other: Board) -> bool:
    """Whether two boards differ only in when they were made."""
    return one == Board(**{**vars(other), "updated": one.updated})


def running_row(entry: Running, view: View) -> RunningRow:
    """A job that a stage works on, as the board shows it."""
    progress = entry.progress
    return RunningRow(
        id=entry.job.id,
        stage=entry.stage,
        base_model=entry.job.base_model,
        since=view.wall(entry.began),
        fraction=progress.fraction,
        how_far=how_far(progress),
        tokens_per_second=progress.tokens_per_second,
        loss=progress.loss,
        seconds_left=progress.seconds_left,
        eval_loss=progress.eval_loss,
        people=people(entry.job),
    )


def queued_row(job: Job, jobs: Path) -> QueuedRow:
    """A job that waits, as the board shows it."""
    ready = not job.dry_run and _is_there(jobs / job.id / Stage.PREPARE / "result.json")
    return QueuedRow(
        job.id,
        job.created,
        job.waiting,
        job.waiting_detail,
        made_ready=ready,
        ended=job.outcome is not None,
        dry_run=job.dry_run,
        people=people(job),
    )


def result_row(job: Job, jobs: Path, settings: Settings) -> ResultRow:
    """A job that has ended, as the board shows it."""
    if job.outcome is None or job.finished is None:
        raise ValueError(f"job {job.id} has not ended")
    verified = _verified(JobDir(jobs / job.id))
    return ResultRow(
        id=job.id,
        state=job.state,
        outcome=job.outcome,
        finished=job.finished,
        verdict=job.verdict,
        base_loss=verified.get("base_loss"),
        tuned_loss=verified.get("tuned_loss"),
        message=job.message,
        kept_until=kept_until(job, settings) if settings.keep_datasets == "state" else None,
        push=job.push,
        people=people(job),
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # One folder that cannot be read is no reason for a board that says nothing of the others.
        return False


def _verified(job_dir: JobDir) -> Mapping[str, float | None]:
    try:
        return job_dir.result(Stage.VERIFY) or {}
    except OSError:
        return {}


def inbox_rows(view: View) -> tuple[InboxRow, ...]:
    """What lies in the inbox, or lay there a moment ago and was no use, as the board shows it."""
    notes = [InboxRow(printable(name), DropState.SETTLING, said) for name, said in view.notes]
    return (*notes, *(_inbox_row(drop) for drop in view.drops[:INBOX_SHOWN]))


def _inbox_row(drop: Drop) -> InboxRow:
    return InboxRow(printable(drop.name), drop.state, drop.why or "is being copied")


def troubles_of(view: View) -> list[str]:
    troubles = [view.trouble] if view.trouble else []
    if view.availability is Availability.UNAVAILABLE:
        troubles.append("the inbox cannot be read; nothing is lost, and it is tried again every few seconds")
    if view.availability is Availability.FOREIGN:
        troubles.append("another appliance serves this inbox; `appliance serve --take-over` makes it this one's again")
    return troubles
