"""Who gets the GPU and when: hours, priorities, a server by day, memory that comes back, a GPU that is missing."""

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from appliance.admission import Admission
from appliance.exits import EndKind, StageEnd
from appliance.gpu_lane import MEMORY_BACK_SECONDS, TAKEN, VAIN_SECONDS, GpuLane
from appliance.gpu_presence import GpuPresence, find_fault
from appliance.guard import MemoryGuard
from appliance.job import Job, JobState, Priority, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.memory import Floors, Memory, Reading
from appliance.neighbour import TRIES, Neighbour, Side
from appliance.order import startable
from appliance.priorities import LOW_WAITS_SECONDS, capped, makes_room
from appliance.settings import Settings, SettingsError
from appliance.store import Store
from appliance.window import Window
from tests.box import Box
from tests.waiting import until

GB = 10**9


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-27T{clock}").replace(tzinfo=UTC)


# The window


def test_a_window_over_midnight_is_open_at_night():
    window = Window.parse("20:00-07:00")
    assert [window.is_open(at(clock)) for clock in ("19:59", "20:00", "23:59", "00:00", "06:59", "07:00", "12:00")] == [
        *(False, True, True, True, True, False, False)
    ]
    assert window.opens(at("12:30")) == at("20:00")


def test_a_window_by_day_is_open_by_day_and_opens_tomorrow():
    window = Window.parse(" 9:30 - 17:00 ")
    assert [window.is_open(at(clock)) for clock in ("09:29", "09:30", "16:59", "17:00")] == [False, True, True, False]
    assert window.opens(at("18:00")) == at("09:30") + timedelta(days=1)
    assert str(window) == "09:30–17:00"


@pytest.mark.parametrize("text", ["20-7", "20:00", "25:00-07:00", "20:60-07:00", "20:00-20:00", "night"])
def test_a_window_that_is_none_is_refused_by_name(text: str):
    with pytest.raises(SettingsError, match=r"APPLIANCE_TRAIN_WINDOW is .* 20:00-07:00"):
        Settings.load({"APPLIANCE_TRAIN_WINDOW": text})


def box_at_noon(tmp_path: Path, **settings: object) -> Box:
    """A box whose window is open from an hour ago for another hour, by the machine's own clock."""
    now = datetime.now().astimezone()
    start, end = now - timedelta(hours=1), now + timedelta(hours=1)
    return Box(tmp_path, train_window=f"{start:%H:%M}-{end:%H:%M}", **settings)


def test_outside_the_window_the_training_steps_back_and_goes_on_when_it_opens(tmp_path: Path):
    box = box_at_noon(tmp_path, stall_minutes=100_000)
    box.drop(train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.shift = 2 * 3600.0
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.WINDOW)
    job = box.job(1)
    assert job is not None
    assert "it goes on at" in job.waiting_detail
    # It did nothing wrong: no attempt is counted. Other work goes on meanwhile.
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 0
    box.drop("b.jsonl")
    box.turn_until(lambda: (job := box.job(2)) is not None and job.waiting is Waiting.WINDOW)
    assert (box.appliance.places.jobs / "0002-b" / "prepare" / "result.json").exists()
    box.shift = 23.5 * 3600.0
    assert [box.ended(number).state for number in (1, 2)] == [JobState.SUCCEEDED] * 2
    box.stop()


# Priorities


def a_job(number: int, priority: Priority = Priority.NORMAL, **fields) -> Job:
    return Job(number, f"{number:04d}-a", f"u{number}", "a", JobState.QUEUED, 0.0, priority=priority, **fields)


def test_a_low_job_is_not_put_off_for_ever():
    jobs = [(a_job(1, Priority.LOW), Stage.TRAIN), (a_job(2), Stage.TRAIN)]
    assert [job.number for job, _ in startable(jobs, [], now=60.0)] == [2]
    assert [job.number for job, _ in startable(jobs, [], now=LOW_WAITS_SECONDS + 1)] == [1]


def test_priority_is_what_the_recipe_asks_for_and_no_more_than_allowed():
    assert capped(Priority.HIGH, Priority.NORMAL) is Priority.NORMAL
    assert capped(Priority.LOW, Priority.HIGH) is Priority.LOW
    assert capped(Priority.HIGH, Priority.HIGH) is Priority.HIGH


def test_only_high_makes_others_step_back_and_nobody_steps_back_for_a_peer():
    low, normal, high = a_job(1, Priority.LOW), a_job(2), a_job(3, Priority.HIGH)
    assert makes_room([normal], [high]) is normal
    assert makes_room([low], [normal]) is None
    assert makes_room([high], [high]) is None
    assert makes_room([], [high]) is None


def test_a_high_job_takes_the_gpu_at_a_checkpoint_and_gives_it_back(tmp_path: Path):
    box = Box(tmp_path)
    box.drop("long.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.drop("urgent.jsonl", priority="high")
    assert box.ended(2).state is JobState.SUCCEEDED
    assert box.ended(1).state is JobState.SUCCEEDED
    long, urgent = box.job(1), box.job(2)
    assert long is not None
    assert urgent is not None
    assert (urgent.finished or 0) < (long.finished or 0)
    stops = [event for event in box.history(1) if event.get("stage") == "train" and event["event"] == "stage_ended"]
    assert [event["kind"] for event in stops] == ["stopped", "done"]
    box.stop()


def stops(box: Box, number: int) -> int:
    """How often the training of a job stepped back."""
    ends = [event for event in box.history(number) if event["event"] == "stage_ended" and event["stage"] == "train"]
    return [event["kind"] for event in ends].count("stopped")


def test_a_high_job_that_has_run_and_waits_again_makes_room_again(tmp_path: Path):
    box = Box(tmp_path)
    box.drop("long.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.drop("urgent.jsonl", priority="high", train="crash")
    # Twice at once; before the third time there is a pause, and the other goes on in it.
    box.turn_until(lambda: box.appliance.store.attempts(2, Stage.TRAIN) == 2 and box.runs(Stage.TRAIN))
    assert stops(box, 1) == 1
    box.shift += 61.0
    assert box.ended(2).state is JobState.FAILED
    assert stops(box, 1) == 2
    box.stop()


def test_a_high_job_that_can_only_wait_does_not_take_the_gpu_again_and_again(tmp_path: Path):
    box = Box(tmp_path, stall_minutes=100_000)
    box.drop("long.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.drop("urgent.jsonl", priority="high", train="wait")
    box.turn_until(lambda: stops(box, 1) == 1)
    box.turn_until(lambda: box.runs(Stage.TRAIN, 1))
    for _ in range(20):
        # Past every pause.
        box.shift += 3601.0
        box.tick()
        box.tick()
    assert stops(box, 1) == 1
    # When the other has ended, it is its turn.
    began = [event["event"] for event in box.history(2)].count("stage_started")
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.turn_until(lambda: [event["event"] for event in box.history(2)].count("stage_started") > began)
    box.crash()


def test_a_verification_steps_back_for_nobody_and_nobody_asks_it_in_vain(tmp_path: Path):
    box = Box(tmp_path)
    box.appliance.starter.admission = Admission(box.settings, free_bytes=lambda: 10 * GB)
    box.drop("nearly-done.jsonl", verify="sleep once")
    box.turn_until(lambda: box.runs(Stage.VERIFY))
    box.drop("long.jsonl", train="sleep once")
    box.turn_until(lambda: box.job(2) is not None)
    box.drop("urgent.jsonl", priority="high", plan={"memory": {"total_bytes": 44 * GB, "reserve_bytes": GB}})
    box.turn_until(lambda: (box.appliance.places.jobs / "0003-urgent" / "prepare" / "result.json").exists())
    for _ in range(10):
        box.tick()
    assert box.runs(Stage.VERIFY)
    box.appliance.crew.running[1].process.ask_to_stop()
    # What it asked of the verification does not count: it asks the training, once, and does not fit even then.
    box.turn_until(lambda: stops(box, 2) == 1)
    box.turn_until(lambda: box.runs(Stage.TRAIN, 2))
    for _ in range(10):
        box.tick()
    assert stops(box, 2) == 1
    box.stop()


def test_a_cap_on_priority_keeps_everybody_in_line(tmp_path: Path):
    box = Box(tmp_path, max_priority="normal")
    box.drop("long.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.drop("urgent.jsonl", priority="high")
    box.turn_until(lambda: (box.appliance.places.jobs / "0002-urgent" / "prepare" / "result.json").exists())
    for _ in range(10):
        box.tick()
    assert box.runs(Stage.TRAIN, 1)
    urgent = box.job(2)
    assert urgent is not None
    assert urgent.priority is Priority.NORMAL
    box.stop()


# The server by day


class Free:
    """What the guard of a box reads, until a test says something else: no other work on this machine counts."""

    def __init__(self) -> None:
        self.gigabytes = 100.0

    def __call__(self) -> Reading:
        return Reading(Memory(128 * GB, int(self.gigabytes * GB)))


class Server:
    """A real one on loopback that notes what it is told, and answers as it is set to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.answers: list[int] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                server.told.append(self.path)
                self.send_response(server.answers.pop(0) if server.answers else 200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def box(self, root: Path, **how: object) -> Box:
        """One that shares the GPU with this server."""
        how.setdefault("reading", Free())
        return Box(root, before_train_url=f"{self.url}/before", after_train_url=f"{self.url}/after", **how)  # type: ignore[arg-type]

    def told_after_a_while(self, box: Box) -> list[str]:
        """What it was told up to now, after some turns in which nothing new comes."""
        for _ in range(10):
            box.tick()
            time.sleep(0.01)
        return self.told

    def neighbour(self, **how: object) -> Neighbour:
        return Neighbour(f"{self.url}/before", f"{self.url}/after", pause_seconds=0.01, **how)  # type: ignore[arg-type]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_the_server_makes_room_before_the_training_and_hears_when_it_is_over(tmp_path: Path, server: Server):
    box = server.box(tmp_path)
    box.drop("a.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    assert server.told == ["/before"]
    box.drop("b.jsonl")
    box.turn_until(lambda: (box.appliance.places.jobs / "0002-b" / "prepare" / "result.json").exists())
    box.appliance.crew.running[1].process.ask_to_stop()
    box.appliance.crew.running[1].stop_asked = time.monotonic()
    assert [box.ended(number).state for number in (1, 2)] == [JobState.SUCCEEDED] * 2
    box.turn_until(lambda: len(server.told) == 2)
    # Two trainings in a row are one time that the GPU is taken.
    assert server.told == ["/before", "/after"]
    box.stop()
    assert server.told == ["/before", "/after"]


def test_nothing_begins_that_the_gpu_was_not_taken_for_and_nobody_is_asked_while_it_is_busy(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
):
    box = Box(tmp_path, before_train_url=f"{server.url}/before")
    asked: list[int] = []

    def obstacle(job: Job, stage: Stage, job_dir: JobDir) -> tuple[Waiting, str] | None:
        """The disk is full when it is looked at first, and has room a moment later."""
        if stage is not Stage.TRAIN:
            return None
        asked.append(job.number)
        return (Waiting.DISK, "full") if len(asked) == 1 else None

    monkeypatch.setattr(box.appliance.upkeep, "obstacle", obstacle)
    box.drop("a.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    assert server.told == ["/before"]
    box.drop("b.jsonl")
    box.turn_until(lambda: (box.appliance.places.jobs / "0002-b" / "prepare" / "result.json").exists())
    for _ in range(10):
        box.tick()
    assert set(asked) == {1}
    box.stop()


def test_a_daemon_that_ends_gives_the_gpu_back_and_so_does_one_after_a_crash(tmp_path: Path, server: Server):
    box = server.box(tmp_path)
    box.drop(train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.stop()
    assert server.told == ["/before", "/after"]
    box.start()
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.crash()
    box.appliance.store.close()
    box.start()
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.ended()
    box.turn_until(lambda: server.told[-1] == "/after")
    assert server.told == ["/before", "/after", "/before", "/after"]
    box.stop()


def test_after_a_crash_the_server_is_asked_again_before_anything_begins(tmp_path: Path, server: Server):
    """The host went down with us, and the server came up again by itself and took the memory."""
    box = server.box(tmp_path)
    box.drop(train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.crash()
    box.start()
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    assert server.told == ["/before", "/before"]
    box.stop()
    assert server.told == ["/before", "/before", "/after"]


def test_the_server_hears_nothing_that_is_not_written_down_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed after the word and before the note, nobody would ever wake it."""
    said: list[str] = []
    neighbour = Neighbour("http://server/before", None, post=lambda url, body: said.append(url))
    box = Lane(tmp_path, neighbour=neighbour)

    def refuse(name: str, value: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(box.store, "set_fact", refuse)
    with pytest.raises(sqlite3.OperationalError):
        box.lane.take()
    until(lambda: not neighbour.is_busy)
    assert said == []
    box.store.close()


def test_a_server_whose_room_is_not_enough_works_on_and_is_asked_again_less_and_less_often(
    tmp_path: Path, server: Server
):
    box = server.box(tmp_path)
    free = [30 * GB]
    box.appliance.starter.admission = Admission(box.settings, free_bytes=lambda: free[0])
    box.drop(plan={"memory": {"total_bytes": 44 * GB, "reserve_bytes": GB}})
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.MEMORY)
    assert server.told == ["/before"]
    began = box.shift
    waits = []
    while len(waits) < 4:
        told = len(server.told)
        box.shift += 30.0
        if len(server.told_after_a_while(box)) > told:
            waits.append(box.shift - began)
            began = box.shift
    assert server.told == ["/before", "/after", "/before", "/after", "/before"]
    assert waits == pytest.approx([VAIN_SECONDS, 600.0, VAIN_SECONDS, 1200.0], abs=61.0)
    job = box.job(1)
    assert job is not None
    assert job.waiting is Waiting.MEMORY
    # It is left alone once more, and what is missing comes from somebody else: nobody waits for the pause to end.
    box.shift += VAIN_SECONDS + 30.0
    box.turn_until(lambda: server.told[-1] == "/after")
    free[0] = 50 * GB
    box.shift += 10.0
    assert box.ended().state is JobState.SUCCEEDED
    assert server.told[5:7] == ["/after", "/before"]
    box.stop()


def test_a_server_that_leaves_less_than_the_floor_is_asked_to_make_room(tmp_path: Path, server: Server):
    free = Free()
    box = server.box(tmp_path, reading=free)
    free.gigabytes = 7.0
    box.drop()
    box.turn_until(lambda: server.told == ["/before"])
    free.gigabytes = 100.0
    assert box.ended().state is JobState.SUCCEEDED
    box.stop()


def test_the_server_hears_nothing_while_the_memory_of_a_training_comes_back(tmp_path: Path, server: Server):
    free = Free()
    box = server.box(tmp_path, reading=free)
    box.drop(train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    free.gigabytes = 50.0
    box.appliance.crew.running[1].process.kill()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.MEMORY)
    assert server.told_after_a_while(box) == ["/before"]
    # Nothing is left to do, and its memory is still on its way.
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.ended()
    assert server.told_after_a_while(box) == ["/before"]
    free.gigabytes = 97.0
    box.turn_until(lambda: server.told == ["/before", "/after"])
    box.stop()


def test_the_server_is_not_woken_below_the_floor_however_long_it_takes(tmp_path: Path, server: Server):
    free = Free()
    box = server.box(tmp_path, reading=free)
    box.drop(train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    free.gigabytes = 7.0
    box.turn_until(lambda: 1 not in box.appliance.crew.running)
    box.shift += 2 * MEMORY_BACK_SECONDS
    assert server.told_after_a_while(box) == ["/before"]
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.ended()
    box.shift += 2 * MEMORY_BACK_SECONDS
    assert server.told_after_a_while(box) == ["/before"]
    free.gigabytes = 9.0
    box.turn_until(lambda: server.told == ["/before", "/after"])
    box.stop()


def test_the_server_hears_nothing_in_the_pause_after_a_gpu_was_lost(tmp_path: Path, server: Server):
    box = server.box(tmp_path)
    box.drop("a.jsonl", train="lose")
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.GPU and job.not_before > 0)
    box.drop("b.jsonl")
    box.turn_until(lambda: (job := box.job(2)) is not None and job.waiting is Waiting.GPU)
    assert server.told_after_a_while(box) == ["/before"]
    box.shift += 61.0
    assert [box.ended(number).state for number in (1, 2)] == [JobState.SUCCEEDED] * 2
    box.turn_until(lambda: len(server.told) == 2)
    assert server.told == ["/before", "/after"]
    box.stop()


def test_a_word_is_repeated_until_it_is_heard(server: Server):
    server.answers = [503, 500]
    neighbour = server.neighbour()
    until(neighbour.take)
    assert server.told == ["/before"] * 3
    assert neighbour.failures == 0


def test_a_server_that_is_gone_holds_nothing_up_for_good():
    said: list[str] = []

    def refuse(url: str, body: bytes) -> None:
        said.append(url)
        raise OSError("connection refused")

    neighbour = Neighbour("http://nobody/before", None, post=refuse, pause_seconds=0.0)
    until(neighbour.take)
    assert said == ["http://nobody/before"] * TRIES
    assert neighbour.failures == 1
    neighbour.give_back()
    assert neighbour.side is Side.THEIRS


def test_an_address_that_is_none_is_like_a_server_that_is_gone():
    neighbour = Neighbour("file:///etc/passwd", None, pause_seconds=0.0)
    until(neighbour.take)
    assert neighbour.failures == 1


def test_a_server_that_speaks_no_http_is_like_one_that_is_gone(caplog: pytest.LogCaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        neighbour = Neighbour("http://{}:{}/".format(*server.getsockname()), None, pause_seconds=0.0)
        neighbour.take()
        for _ in range(TRIES):
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")
        until(neighbour.take)
    assert neighbour.failures == 1
    assert caplog.text.count("what it answered is no HTTP") == TRIES


def test_the_address_stands_in_no_log(caplog: pytest.LogCaptureFixture):
    neighbour = Neighbour("http://127.0.0.1:1/?key=secret", None, pause_seconds=0.0)
    until(neighbour.take)
    assert "was not told" in caplog.text
    assert "secret" not in caplog.text


# Memory and the GPU itself


DONE = StageEnd(EndKind.DONE)


class Lane:
    def __init__(self, root: Path, *, neighbour: Neighbour | None = None, **how: object) -> None:
        self.free = 100.0
        self.store = Store(root / "appliance.sqlite")
        self.guard = MemoryGuard(Floors(8 * GB, 4 * GB), read=lambda: Reading(Memory(128 * GB, int(self.free * GB))))
        self.lane = GpuLane(self.store, self.guard, neighbour or Neighbour(None, None), **how)  # type: ignore[arg-type]

    def closed(self, now: float) -> tuple[Waiting, str] | None:
        self.guard.look()
        return self.lane.closed(now, 0.0, paused=False)


def test_the_next_stage_waits_until_the_last_ones_memory_is_back(tmp_path: Path):
    box = Lane(tmp_path)
    assert box.lane.take() is None
    box.free = 60.0
    box.lane.ended(1000.0, DONE)
    closed = box.closed(1001.0)
    assert closed is not None
    assert closed == (Waiting.MEMORY, "the last stage's memory comes back: 35.0 GB are still missing")
    box.free = 97.0
    assert box.closed(1002.0) is None
    box.store.close()


def test_memory_that_somebody_else_took_is_not_waited_for_for_ever(tmp_path: Path):
    box = Lane(tmp_path)
    box.lane.take()
    box.free = 60.0
    box.lane.ended(1000.0, DONE)
    assert box.closed(1000.0 + MEMORY_BACK_SECONDS - 1) is not None
    assert box.closed(1000.0 + MEMORY_BACK_SECONDS + 1) is None
    box.store.close()


def test_below_the_first_floor_nothing_begins_however_long_it_takes(tmp_path: Path):
    box = Lane(tmp_path)
    box.free = 7.5
    assert box.closed(1e9) == (Waiting.MEMORY, "7.5 GB are free, and 8.0 GB must stay free")
    box.store.close()


def test_without_a_server_to_tell_nothing_is_remembered_of_the_gpu(tmp_path: Path):
    box = Lane(tmp_path)
    box.lane.take()
    assert box.store.fact(TAKEN) is None
    box.store.close()


def test_without_its_gpu_the_queue_holds_and_no_job_is_burnt(tmp_path: Path):
    box = Box(tmp_path)
    faults = ["no GPU answers: Driver Not Loaded"]
    box.appliance.lane._fault = lambda: faults[0] if faults else None
    box.drop()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.GPU)
    for _ in range(10):
        box.tick()
    job = box.job(1)
    assert job is not None
    assert (job.trainings, job.waiting_detail) == (0, "no GPU answers: Driver Not Loaded")
    faults.clear()
    assert box.ended().state is JobState.SUCCEEDED
    box.stop()


def test_a_gpu_that_is_lost_under_a_training_holds_the_queue_and_burns_no_job(tmp_path: Path):
    box = Box(tmp_path)
    box.drop("a.jsonl", train="lose")
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.GPU)
    box.drop("b.jsonl")
    box.turn_until(lambda: (job := box.job(2)) is not None and job.waiting is Waiting.GPU)
    for _ in range(10):
        box.tick()
    first, second = box.job(1), box.job(2)
    assert first is not None
    assert second is not None
    assert "no CUDA-capable device is detected" in first.waiting_detail
    assert second.waiting_detail == first.waiting_detail
    assert [box.appliance.store.attempts(number, Stage.TRAIN) for number in (1, 2)] == [0, 0]
    # It is back after a while.
    box.shift += 61.0
    assert [box.ended(number).state for number in (1, 2)] == [JobState.SUCCEEDED] * 2
    box.stop()


def test_a_gpu_is_missed_only_where_one_belongs():
    without = GpuPresence(expected=False)
    without.start()
    assert without.fault() is None
    without.close()
    if find_fault() is None:
        pytest.skip("this machine has a GPU that answers")
    missing = GpuPresence(expected=True)
    assert missing.fault() is None
    missing.start()
    until(lambda: "no GPU" in (missing.fault() or ""))
    missing.close()
