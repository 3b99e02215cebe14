"""An appliance on folders of its own, turned by a test: real files, real SQLite, real processes, made-up stages."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from appliance.daemon import Appliance
from appliance.guard import MemoryGuard
from appliance.job import ENDED, Job, Stage
from appliance.memory import Memory, Reading, memory_floors
from appliance.processes import Command, stage_command, start_stage
from appliance.settings import Settings

FAKE = Path(__file__).parent / "fake_stage.py"
DEADLINE_SECONDS = 100.0
GB = 10**9


def plenty() -> Reading:
    """A machine on which nothing else takes memory: this one has other tests on it, and the GPU lane waits for that."""
    return Reading(Memory(128 * GB, 100 * GB))


def fake_command(stage: Stage, job: Path) -> list[str]:
    return [sys.executable, str(FAKE), stage, str(job)]


def fake_but_push(stage: Stage, job: Path) -> list[str]:
    """Made-up stages; only pushing is the real thing, towards whichever Hub HF_ENDPOINT names."""
    return stage_command(stage, job) if stage is Stage.PUSH else fake_command(stage, job)


def fake_but_fetch(stage: Stage, job: Path) -> list[str]:
    """Made-up stages but fetch, and check, which leaves the recipe that fetch wants."""
    return stage_command(stage, job) if stage in (Stage.FETCH, Stage.CHECK) else fake_command(stage, job)


class Box:
    """An appliance on folders of its own, turned by the test."""

    def __init__(
        self,
        root: Path,
        *,
        command: Command = fake_command,
        reading: Callable[[], Reading] = plenty,
        **settings: object,
    ) -> None:
        self.command = command
        (root / "recipes").mkdir(exist_ok=True)
        (root / "recipes" / "default.yaml").write_text("base_model: demo\n")
        folders = {name: root / name for name in ("inbox", "outbox", "recipes", "state", "models")}
        quick = {"quiet_seconds": 0, "pair_seconds": 0, "scan_seconds": 0.02}
        # However full the disk of this machine is.
        self.settings = Settings(**{**folders, **quick, "disk_reserve_gb": 0, **settings})  # type: ignore[arg-type]
        self.inbox, self.outbox = root / "inbox", root / "outbox"
        self.shift = 0.0
        self.reading = reading
        self.looks = True
        """Whether the guard looks at every turn, instead of by itself."""
        self.forgiving = False
        """Whether a turn may meet an error, as the daemon's own turns may."""
        self.start()

    def start(self) -> None:
        start = partial(start_stage, settings=self.settings, command=self.command)
        floors = memory_floors(self.settings, self.reading().memory.total_bytes)
        guard = MemoryGuard(floors, read=lambda: self.reading(), clock=lambda: time.monotonic() + self.shift)
        self.appliance = Appliance(self.settings, start=start, guard=guard)
        self.appliance.recover()
        self.appliance.prepare_inbox()

    def stop(self) -> None:
        self.appliance.stop()

    def crash(self) -> None:
        """As SIGKILL leaves it: the stages die with their parent, nothing is written."""
        for running in self.appliance.crew.running.values():
            running.process.kill()
            while running.process.poll() is None:
                time.sleep(0.005)
        self.appliance.reception.close()
        # Two writers of one board are never in one process.
        self.appliance.status.close()
        self.appliance.store.close()
        self.appliance._lock.release()

    def drop(self, name: str = "support.jsonl", **script: object) -> None:
        (self.inbox / f".{name}.tmp").write_text(json.dumps(script) + f'\n{{"text": "{name} {time.time_ns()}"}}\n')
        (self.inbox / f".{name}.tmp").rename(self.inbox / name)

    def tick(self) -> None:
        if self.looks:
            self.appliance.guard.look()
        turn = self.appliance.turn if self.forgiving else self.appliance.tick
        turn(time.monotonic() + self.shift, time.time() + self.shift)

    def turn_until(self, condition: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, [self.job(n) for n in range(1, 4)]
            self.tick()
            time.sleep(0.005)

    def job(self, number: int) -> Job | None:
        return self.appliance.store.job(number)

    def folder(self, number: int = 1) -> Path:
        """Where everything about a job lies."""
        job = self.job(number)
        assert job is not None
        return self.appliance.places.jobs / job.id

    def ended(self, number: int = 1, *, seconds_a_turn: float = 0.0) -> Job:
        """The job at its end. With `seconds_a_turn` the clocks run ahead, so that pauses pass by."""

        def has_ended() -> bool:
            self.shift += seconds_a_turn
            job = self.job(number)
            return job is not None and job.state in ENDED

        self.turn_until(has_ended)
        job = self.job(number)
        assert job is not None
        return job

    def history(self, number: int = 1) -> list[dict]:
        return self.appliance.store.events(number)

    def runs(self, stage: Stage, number: int = 1) -> bool:
        running = self.appliance.crew.running.get(number)
        return running is not None and running.stage is stage and running.progress.last_event is not None
