"""Tidying up after jobs that have ended: what they no longer need goes at once, their dataset when its time is over."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from appliance.job import Job, Outcome, Stage
from appliance.job_dir import JobDir
from appliance.label_cache import LabelCache
from appliance.order import ORDER
from appliance.settings import Settings
from appliance.status_files import kept_until
from appliance.store import Store

logger = logging.getLogger(__name__)

EXPIRY_SECONDS: Final = 3600.0
# Small, without rows, and what a person asks for afterwards.
KEPT_AFTER_THE_END: Final = ("stage.log", "progress.jsonl", "result.json", "failure.json", "recipe.json")


class Tidying:
    """Everything here is safe to repeat."""

    def __init__(self, store: Store, jobs: Path, settings: Settings) -> None:
        self._store, self._jobs, self._settings = store, jobs, settings
        self._labels = LabelCache.in_state(settings.state)
        self._next_expiry = float("-inf")
        self._told: set[int] = set()
        self._over_since: dict[int, float] = {}

    def tidy(self, job: Job, *, expired: bool = False) -> None:
        """Remove what an ended job no longer needs now, its kept dataset only once that has expired.

        What cannot go is tried again, and told once.
        """
        with self._alone(job):
            keep = not expired and self._kept_until(job) is not None
            clean(job, JobDir(self._jobs / job.id), self._store, keep_dropped=keep)

    def recover(self) -> None:
        """Tidy up after whatever ended when the daemon or the host went down. Nothing expires here: see `expire`."""
        for job in self._ended_with_files():
            self.tidy(job)

    def expire(self, now: float, wall: float) -> None:
        """Remove the datasets in the state folder whose time is over, and the labels that were made of them.

        `now` is monotonic. They are the only copies, and a clock may be wrong until the network has set it: the time
        must have been over an hour ago already, by the monotonic clock.
        """
        if now < self._next_expiry:
            return
        self._next_expiry = now + EXPIRY_SECONDS
        for job in self._ended_with_files():
            with self._alone(job):
                if self._is_over(job, now, wall):
                    self.tidy(job, expired=True)
                    for file in job.files:
                        self._labels.forget(file.sha256)
                elif job.number in self._told:
                    self.tidy(job)

    def _ended_with_files(self) -> list[Job]:
        return [job for job in self._store.ended_since(0.0) if _may_be_there(self._jobs / job.id / "dropped")]

    @contextmanager
    def _alone(self, job: Job) -> Iterator[None]:
        """What cannot be removed of one job holds up no other: it is tried again in an hour and at the next start."""
        try:
            yield
        except OSError as error:
            if job.number not in self._told:
                self._told.add(job.number)
                logger.error("not all that is left of it can be removed: %s", error, extra={"job": job.id})

    def _kept_until(self, job: Job) -> float | None:
        """Until when the dropped files of an ended job stay in the state folder; None when nothing keeps them there.

        What its result does not hold is kept although the settings have changed since: it is the only copy.
        """
        days = self._settings.keep_finished_days
        if job.outcome is not Outcome.SUCCEEDED or self._settings.keep_datasets == "delete" or not days:
            return None
        published = JobDir(self._jobs / job.id).result(Stage.PUBLISH) or {}
        if self._settings.keep_datasets == "outbox" and published.get("with_dataset", False):
            return None
        return kept_until(job, self._settings)

    def _is_over(self, job: Job, now: float, wall: float) -> bool:
        """Whether nothing keeps the dropped files of an ended job any more."""
        until = self._kept_until(job)
        if until is None:
            return True
        if wall < until:
            self._over_since.pop(job.number, None)
            return False
        return now - self._over_since.setdefault(job.number, now) >= EXPIRY_SECONDS


def clean(job: Job, job_dir: JobDir, store: Store, *, keep_dropped: bool = False) -> None:
    """Remove what an ended job no longer needs: its files lie in the outbox now.

    With `keep_dropped` the dropped files of a succeeded job stay: they were not put into its result. Raises OSError,
    after all else is gone, for what cannot be removed; the dropped files then stay as well.
    """
    store.forget_progress(job.number)
    left = [path for stage in ORDER for path in (job_dir.path / stage).glob("*") if path.name not in KEPT_AFTER_THE_END]
    refused: OSError | None = None
    for path in left:
        try:
            _remove(path)
        except OSError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    # Last: while it is there, the next start knows that cleaning is not finished.
    if not (keep_dropped and job.outcome is Outcome.SUCCEEDED):
        _remove(job_dir.dropped)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _may_be_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # Who tries to remove it says what is the matter with it.
        return True
