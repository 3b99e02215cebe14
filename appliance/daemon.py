"""The daemon: one loop that decides. It lists, reads small files, writes rows, starts and reaps stages, nothing else.

Nothing in a turn takes longer than a tenth of a second: long work is a stage, or a thread of the reception. Nor does a
turn touch inbox or outbox: they may lie on a share that hangs, and threads go there.
"""

import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from appliance import outbox
from appliance.admission import Admission
from appliance.again import Reruns
from appliance.crew import Crew, Start
from appliance.errors import ApplianceError
from appliance.exits import EndKind
from appliance.gate import PushRules
from appliance.gpu_lane import lane_of
from appliance.gpu_presence import GpuPresence
from appliance.guard import MemoryGuard
from appliance.inbox import Availability, Inbox
from appliance.job import LANES, Lane, Priority, Stage, outbox_name
from appliance.job_dir import JobDir
from appliance.lock import InstanceLock
from appliance.memory import memory_floors, read_memory
from appliance.opening import open_database
from appliance.pipeline import Pipeline
from appliance.places import Places, highest_number, library_recipes, make_folders
from appliance.processes import StageProcess, boot_id, start_stage
from appliance.pushes import Pushes
from appliance.reception import Reception
from appliance.settings import Settings
from appliance.settling import Rules
from appliance.starting import Starter
from appliance.status_files import StatusFiles
from appliance.store import DATABASE
from appliance.texts.read_me_first import read_me_first
from appliance.tidying import Tidying
from appliance.upkeep import Upkeep
from appliance.view import KEEP_SERIES_SECONDS, View
from appliance.wake import Wake, watch_folder
from appliance.wishes import Wishes

logger = logging.getLogger(__name__)

TURN_SECONDS: Final = 0.25
ERRORS_IN_A_ROW: Final = 20


class InboxTakenError(ApplianceError):
    """Another installation serves this inbox."""

    exit_code = 3


class Appliance:
    """Everything that runs in the daemon. `tick` is one turn; `run` turns until asked to stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        start: Start | None = None,
        wake: Wake | None = None,
        guard: MemoryGuard | None = None,
    ) -> None:
        """Take the state directory and open everything. Raises ApplianceError when it cannot be used."""
        make_folders([settings.state, settings.inbox, settings.outbox])
        self._lock = InstanceLock(settings.state)
        self.settings = settings
        self.wake = wake or Wake()
        database = settings.state / DATABASE
        try:
            self.upkeep = Upkeep(settings, database)
            self.store = open_database(database, stopping=lambda: self.wake.stopping)
        except BaseException:
            self._lock.release()
            raise
        self.places = Places.of(settings)
        for folder in (self.places.incoming, self.places.jobs):
            folder.mkdir(exist_ok=True)
        installation = self.store.fact("installation") or ""
        self.inbox = Inbox(settings.inbox.resolve(), installation)
        self.recipes = library_recipes(settings.recipes)
        inbox_rules = Rules(
            settings.quiet_seconds, settings.pair_seconds, frozenset(self.recipes), settings.max_drop_bytes
        )
        self.reception = Reception(
            self.inbox,
            self.store,
            self.places,
            inbox_rules,
            scan_seconds=settings.scan_seconds,
            wake=self.wake.now,
            lacks_room_for=self.upkeep.lacks_room_for,
        )
        self.reruns = Reruns(self.store, self.places, installation, wake=self.wake.now)
        self._boot_id = boot_id()
        rules = PushRules(settings.hub_org, settings.hub_push, settings.hub_push_when)
        self.pipeline = Pipeline(
            self.store,
            self.places.jobs,
            settings.max_attempts,
            self._boot_id,
            rules,
            max_priority=Priority(settings.max_priority),
        )
        self.guard = guard or MemoryGuard(memory_floors(settings, read_memory().total_bytes))
        start = start or partial(start_stage, settings=settings)
        self.crew = Crew(
            self.pipeline,
            self.store,
            start=partial(self._start, start),
            guard=self.guard,
            stall_seconds=settings.stall_minutes * 60,
            on_trouble=self.upkeep.met_with_one_job,
        )
        self.upkeep.at_work = lambda: [(r.job, r.stage, self.pipeline.dir(r.job)) for r in self.crew.running.values()]
        self.upkeep.arriving = self._arriving_bytes
        self.pushes = Pushes(
            self.store,
            settings,
            job_dir=self.pipeline.dir,
            start=start,
            boot_id=self._boot_id,
            on_trouble=self.upkeep.met_with_one_job,
        )
        self.wishes = Wishes(self.store, self.crew, self.pushes, on_trouble=self.upkeep.met_with_one_job)
        self.gpu = GpuPresence()
        self.lane = lane_of(settings, self.store, self.guard, fault=self.gpu.fault)
        admission = Admission(settings, free_bytes=self.gpu.free_bytes)
        self.starter = Starter(self.crew, self.lane, self.upkeep, admission, job_dir=self.pipeline.dir)
        self.status = StatusFiles(self.places.outbox, self.places.jobs, self.store, settings)
        self.tidying = Tidying(self.store, self.places.jobs, settings)
        self.view = self._view(time.monotonic(), time.time())

    def _arriving_bytes(self) -> int:
        """What running downloads still bring. Two of one model bring it once."""
        fetching = [running for running in self.crew.running.values() if running.stage is Stage.FETCH]
        return sum({running.job.base_model: running.progress.missing_bytes for running in fetching}.values())

    def _start(self, start: Start, stage: Stage, job_dir: JobDir) -> StageProcess:
        if stage is Stage.FETCH:
            self.upkeep.leave_word(job_dir)
        return start(stage, job_dir)

    def recover(self) -> None:
        """Put right what the last end, however it came, left behind. Called once before the first turn."""
        wall = time.time()
        for unfinished in self.places.incoming.iterdir():
            shutil.rmtree(unfinished, ignore_errors=True)
        for job in self.crew.recover(wall):
            logger.info("goes on after an interruption", extra={"job": job.id})
        self.pushes.recover()
        outbox.remove_partials(self.places.outbox)
        self.store.use_up(highest_number(self.places.outbox))
        self.tidying.recover()

    def prepare_inbox(self, *, take_over: bool = False) -> None:
        """Claim the inbox and put the note for people and the recipe folders there.

        Raises InboxTakenError when another appliance serves it.
        """
        if take_over:
            self.inbox.take_over()
        if self.inbox.availability() is Availability.FOREIGN:
            raise InboxTakenError(
                f"another appliance serves the inbox {self.inbox.path}",
                hint="Stop it and run `appliance serve --take-over` here, or choose another APPLIANCE_INBOX.",
            )
        self._furnish(self.recipes)

    def _furnish(self, recipes: tuple[str, ...], gone: Iterable[str] = ()) -> None:
        try:
            self.inbox.write_read_me(read_me_first(recipes))
            for recipe in recipes:
                self.inbox.make_folder(recipe)
            for recipe in gone:
                self.inbox.remove_folder(recipe)
        except OSError as error:
            # Somebody's file in the place of a folder, or an inbox that is not there yet: drops are taken all the same.
            logger.warning("the inbox could not be furnished: %s", error)

    def tick(self, now: float, wall: float, *, woken: bool = False) -> None:
        """Everything the appliance does in one turn, in the order that a job meets it. `now` is monotonic."""
        self.upkeep.keep(now, wall)
        self.wishes.act_on_all(now, wall)
        self.reception.look(now, woken=woken)
        self.follow_library()
        self.act_on_buttons(now, wall)
        self.take_in_drops(now, wall)
        self.crew.follow(now)
        self.crew.watch(now)
        self.reap_stages(now, wall)
        self.starter.start(now, wall, paused=self._paused())
        self.push_adapters(now, wall)
        self.tidying.expire(now, wall)
        self.show(now, wall)

    def follow_library(self) -> None:
        """Recipes came or went: the inbox has their folders, and its note names them."""
        recipes = self.reception.recipes
        if recipes is None or recipes == self.recipes or self.reception.availability is not Availability.AVAILABLE:
            return
        logger.info("the library of recipes has changed: %s", ", ".join(recipes))
        gone = set(self.recipes).difference(recipes)
        self.recipes = recipes
        self.reception.furnish(partial(self._furnish, recipes, gone))

    def act_on_buttons(self, now: float, wall: float) -> None:
        for button in self.reception.buttons():
            self.wishes.press(button.action, button.target, now, wall)
            self.reception.remove_button(button)

    def take_in_drops(self, now: float, wall: float) -> None:
        for job in [*self.reception.take_in(now, wall=wall), *self.reruns.turn(wall)]:
            if job.outcome is not None:
                self.pipeline.note_rejection(job, Stage.CHECK, now=wall)
            what = "refused at the door" if job.outcome else "taken in"
            logger.info("%s, %d files", what, len(job.files), extra={"job": job.id})

    def reap_stages(self, now: float, wall: float) -> None:
        for job, stage, end in self.crew.reap(now, wall=wall):
            if LANES[stage] is Lane.GPU:
                self.lane.ended(now, end)
            if stage is Stage.PUBLISH and end.kind is EndKind.DONE and job.outcome is not None:
                self.tidying.tidy(job)
                where = self.places.outbox / outbox_name(job.id, job.outcome)
                logger.info("%s, see %s", job.state, where, extra={"job": job.id})

    def push_adapters(self, now: float, wall: float) -> None:
        self.pushes.reap(now, wall=wall)
        self.pushes.start(now, wall=wall)

    def show(self, now: float, wall: float) -> None:
        """Let readers see how things stand: other threads, and the people who only have the outbox."""
        recent = self.store.ended_since(wall - KEEP_SERIES_SECONDS)
        self.crew.forget(job.number for job in [*self.store.active_jobs(), *recent])
        self.view = self._view(now, wall)
        self.status.write(self.view, now)

    def _view(self, now: float, wall: float) -> View:
        return View(
            time=wall,
            monotonic=now,
            ready=self.reception.last_scan is not None,
            availability=self.reception.availability,
            drops=tuple(self.reception.drops),
            running=tuple(replace(running) for running in self.crew.running.values()),
            trained=dict(self.crew.trained),
            last_scan=wall - (now - self.reception.last_scan) if self.reception.last_scan is not None else None,
            paused=self._paused(),
            trouble=(
                self.upkeep.trouble
                or self.crew.trouble
                or self.wishes.trouble
                or self.pushes.trouble
                or self.reception.storage_problem
                or self.reception.no_room
                or self.status.trouble(now)
                or self.gpu.fault()
            ),
            notes=(*self.wishes.refused(wall), *self.reception.idle),
            guard_turn=self.guard.last_turn,
            board_turn=self.status.last_turn,
        )

    def run(self) -> None:
        """Turn until asked to stop, then let the running stages save what they can."""
        observer = watch_folder(self.inbox.path, self.wake.now)
        self.guard.start()
        self.gpu.start()
        woken, errors = False, 0
        try:
            while not self.wake.stopping:
                errors = 0 if self.turn(time.monotonic(), time.time(), woken=woken) else errors + 1
                if errors > ERRORS_IN_A_ROW:
                    raise ApplianceError("the loop met an error at every turn", hint="The log has the details.")
                woken = self.wake.wait(TURN_SECONDS)
        finally:
            if observer is not None:
                observer.stop()
            self.stop()

    def turn(self, now: float, wall: float, *, woken: bool = False) -> bool:
        """One turn that a fault of ours, or a passing one of the database, does not end. False when it met one."""
        try:
            self.tick(now, wall, woken=woken)
        except Exception as error:
            # A running training is worth more than the turn: the next one starts from what is written down.
            logger.exception("a turn of the loop met an error")
            passes = self.upkeep.met(error)
            with contextlib.suppress(sqlite3.Error):
                self.store.count("loop_errors_total", {"loop": "main"})
            return passes
        return True

    def stop(self) -> None:
        """Ask every stage to stop and wait for them; each has its own grace time, then it is killed."""
        self.crew.stop_all(time.monotonic())
        self.pushes.stop(time.monotonic())
        while self.crew.running or self.pushes.running:
            try:
                self.crew.watch(time.monotonic())
                self.crew.reap(time.monotonic(), wall=time.time())
                self.pushes.reap(time.monotonic(), wall=time.time())
            except (sqlite3.Error, OSError) as error:
                # What cannot be written down now is seen at the next start: a result, or an attempt without an end.
                logger.exception("the end of a stage could not be noted")
                if not self.upkeep.met(error) or self.crew.is_over:
                    break
            if self.crew.is_over and not self.pushes.running:
                break
            self.wake.wait(0.1)
        self.lane.close()
        self.gpu.close()
        self.upkeep.close()
        self.guard.close()
        self.reception.close()
        self.reruns.close()
        self.status.close()
        self.store.close()
        self._lock.release()

    def _paused(self) -> bool:
        return self.store.fact("paused") == "True"
