"""What people ask for, by a command, on a page or with a button file: done here, between the stages."""

import logging
import sqlite3
from dataclasses import replace
from typing import Final

from appliance.actions import why_not
from appliance.crew import Crew
from appliance.job import ENDED, Waiting
from appliance.pushes import Pushes
from appliance.store import Request, Store
from appliance.trouble import Told, nobody_told, trouble_with

logger = logging.getLogger(__name__)

# How many buttons that did nothing are shown, and for how long: whoever pressed one looks within minutes.
SHOWN: Final = 5
SHOWN_SECONDS: Final = 3600.0
# What a file of the job kept from being done is tried again after this long.
PAUSE_SECONDS: Final = 60.0


class Wishes:
    """Does what was asked for. Asking twice, or too late, changes nothing."""

    def __init__(
        self,
        store: Store,
        crew: Crew,
        pushes: Pushes,
        *,
        on_trouble: Told = nobody_told,
    ) -> None:
        """`on_trouble` is told of an error with the files of one job, by which nothing else is held up."""
        self._store, self._crew, self._pushes, self._on_trouble = store, crew, pushes, on_trouble
        self._refused: dict[str, tuple[float, str]] = {}
        self._held_up: dict[int, tuple[float, str]] = {}

    def act_on_all(self, now: float, wall: float) -> None:
        """Do what was asked for since the last turn, each thing once. What cannot be done yet is kept."""
        requests = self._store.requests()
        self._held_up = {request.id: self._held_up[request.id] for request in requests if request.id in self._held_up}
        for request in requests:
            # The files of a retry are copied back first: see again.py.
            if request.action == "retry" or now < self._held_up.get(request.id, (now, ""))[0]:
                continue
            try:
                with self._store.transaction():
                    self.act(request, now, wall)
                    self._store.drop_request(request.id)
            except sqlite3.Error:
                # The books are everybody's.
                raise
            except OSError as error:
                self._hold_up(request, error, now)
            except Exception:
                # It would fail at every turn and at every start, and hold up all that was asked for after it.
                logger.exception("%s of %s was asked for and cannot be done", request.action, request.target)
                self._store.drop_request(request.id)

    def press(self, action: str, target: str, now: float, wall: float) -> None:
        """Do what a button file in the inbox asks for; what makes no sense is logged and shown for a while."""
        if target.isdigit():
            job = self._store.job(int(target))
            reason = f"there is no job {int(target)}" if job is None else why_not(job, action, hub=False)
            if reason is not None:
                logger.warning("the button %s.%s does nothing: %s", target, action, reason)
                self._refused[f"{target}.{action}"] = wall, f"this button did nothing, and is gone: {reason}"
                return
        self.act(Request(0, action, target, {}), now, wall)

    @property
    def trouble(self) -> str | None:
        """What was asked for and cannot be done yet, for people; None when there is no such thing."""
        return next((said for _, said in self._held_up.values()), None)

    def _hold_up(self, request: Request, error: OSError, now: float) -> None:
        self._on_trouble(error)
        job = self._store.job(int(request.target)) if request.target.isdigit() else None
        said = f"{job.id if job else request.target}: {request.action} was asked for and waits: {trouble_with(error)}"
        if self._held_up.get(request.id, (now, ""))[1] != said:
            # Once: it is met again at every try.
            logger.error("%s", said, exc_info=error)
        self._held_up[request.id] = now + PAUSE_SECONDS, said

    def refused(self, wall: float) -> tuple[tuple[str, str], ...]:
        """The buttons of the last hour that did nothing, the newest first, each with what is said of it."""
        lately = {name: said for name, said in self._refused.items() if abs(wall - said[0]) < SHOWN_SECONDS}
        self._refused = dict(sorted(lately.items(), key=lambda item: item[1][0], reverse=True)[:SHOWN])
        return tuple((name, said) for name, (_, said) in self._refused.items())

    def act(self, request: Request, now: float, wall: float) -> None:
        """Do one thing that a person asked for."""
        match request.action:
            case "pause" | "resume":
                self._store.set_fact("paused", str(request.action == "pause"))
                logger.info("queue %sd", request.action)
            case "cancel" if request.target.isdigit():
                self.cancel(int(request.target), now, wall)
            case "retry" if request.target.isdigit():
                self._store.ask("retry", request.target, now=wall)
            case "push" if request.target.isdigit():
                self._pushes.ask(int(request.target), wall=wall)
            case "approve" if request.target.isdigit():
                self._approve(int(request.target), wall)

    def cancel(self, number: int, now: float, wall: float) -> None:
        """Stop a job wherever it is. One that is being published is finished instead."""
        job = self._store.job(number)
        if job is None or job.state in ENDED or job.cancel_requested or job.outcome is not None:
            return
        job = replace(job, cancel_requested=True)
        self._store.save(job)
        self._store.note(number, "cancel_requested", now=wall)
        logger.info("cancel was asked for", extra={"job": job.id})
        # One that nobody works on is ended by the crew, still in this turn.
        self._crew.ask_to_stop(number, now)

    def _approve(self, number: int, wall: float) -> None:
        """Let a job start that takes longer than those that start by themselves, or go on in spite of what it did."""
        job = self._store.job(number)
        if job is None or job.state in ENDED or (job.approved and job.waiting is not Waiting.APPROVAL):
            return
        self._store.save(replace(job, approved=True, waiting=Waiting.NONE, waiting_detail=""))
        self._store.note(number, "approved", now=wall)
        logger.info("approved", extra={"job": job.id})
