"""The memory guard: what it does at each floor, to whom, and what becomes of the job. Readings are made up here."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.guard import BLIND_SECONDS, Floor, MemoryGuard, describe
from appliance.job import FailureClass, JobState, Stage, Waiting
from appliance.memory import Floors, Memory, Pressure, Reading, memory_floors, read_machine, read_memory, read_pressure
from appliance.running import StopReason
from appliance.settings import Settings
from tests.box import Box
from tests.waiting import until

GB = 10**9
FLOORS = Floors(first_bytes=8 * GB, second_bytes=4 * GB)
PLENTY = Reading(Memory(128 * GB, 100 * GB), Pressure(0.0, 0.0))


def left(gigabytes: float, *, stalled: float = 0.0) -> Reading:
    return Reading(Memory(128 * GB, int(gigabytes * GB)), Pressure(stalled, stalled))


@dataclass
class Process:
    """A stage that notes what is sent to it."""

    pid: int = 1
    code: int | None = None
    got: str = ""

    def poll(self) -> int | None:
        return self.code

    def ask_to_stop(self) -> None:
        self.got += "T"

    def kill(self) -> None:
        self.got += "K"


class Machine:
    """A guard with the reading and the clock in the test's hand."""

    def __init__(self) -> None:
        self.reading, self.now = PLENTY, 0.0
        self.guard = MemoryGuard(FLOORS, read=lambda: self.reading, clock=lambda: self.now)

    def sees(self, reading: Reading, *, seconds: float = 0.2) -> None:
        self.reading, self.now = reading, self.now + seconds
        self.guard.look()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_above_both_floors_nothing_happens(machine: Machine):
    process = Process()
    machine.guard.watch(process)
    machine.sees(left(8.1))
    assert process.got == ""
    assert machine.guard.trip(process) is None


def test_below_the_first_floor_it_asks_once_and_below_the_second_it_kills_once(machine: Machine):
    process = Process()
    machine.guard.watch(process)
    for gigabytes in (7.9, 5.0, 7.0, 3.9, 1.0, 100.0, 1.0):
        machine.sees(left(gigabytes))
    assert process.got == "TK"
    assert [trip.floor for trip in machine.guard.news()] == [Floor.FIRST, Floor.SECOND]
    assert machine.guard.news() == []


def test_a_fall_through_both_floors_at_once_is_a_kill(machine: Machine):
    process = Process()
    machine.guard.watch(process)
    machine.sees(left(2.0))
    assert process.got == "K"


def test_it_signals_nobody_else(machine: Machine):
    ended, released = Process(code=0), Process()
    machine.sees(left(1.0))
    machine.guard.watch(ended)
    machine.sees(left(1.0))
    machine.guard.watch(released)
    machine.guard.release(released)
    machine.sees(left(1.0))
    assert ended.got + released.got == ""


def test_a_machine_that_stands_still_is_out_of_memory_whatever_is_said_to_be_free(machine: Machine):
    process = Process()
    machine.guard.watch(process)
    stalled = 0.0
    for _ in range(20):
        stalled += 0.15
        machine.sees(left(50.0, stalled=stalled))
    assert process.got == "T"
    trip = machine.guard.trip(process)
    assert trip is not None
    assert trip.by_pressure
    assert "stood still" in describe(trip, FLOORS)
    for _ in range(80):
        stalled += 0.15
        machine.sees(left(50.0, stalled=stalled))
    assert process.got == "TK"


def test_short_stalls_are_nothing(machine: Machine):
    process = Process()
    machine.guard.watch(process)
    for turn in range(100):
        machine.sees(left(50.0, stalled=0.05 * turn))
    assert process.got == ""


def test_without_pressure_information_memory_alone_decides(machine: Machine):
    process = Process()
    machine.guard.watch(process)
    for _ in range(50):
        machine.sees(replace(left(50.0), pressure=None))
    machine.sees(replace(left(7.0), pressure=None))
    assert process.got == "T"


def test_the_default_floors_leave_a_small_machine_something(tmp_path: Path):
    spark = memory_floors(Settings(), 128 * GB)
    assert (spark.first_bytes, spark.second_bytes) == (8 * GB, 4 * GB)
    small = memory_floors(Settings(), 16 * GB)
    assert (small.first_bytes, small.second_bytes) == (1_280_000_000, 640_000_000)
    said = memory_floors(Settings(memory_floor_gb=6, memory_kill_floor_gb=3), 16 * GB)
    assert (said.first_bytes, said.second_bytes) == (6 * GB, 3 * GB)


def test_floors_in_the_wrong_order_are_refused_by_name():
    with pytest.raises(ApplianceError, match="MEMORY_KILL_FLOOR_GB is 5 and APPLIANCE_MEMORY_FLOOR_GB is 4"):
        memory_floors(Settings(memory_floor_gb=4, memory_kill_floor_gb=5), 128 * GB)


def test_readings_are_the_kernels_own(tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal:  100 kB\nMemAvailable:  40 kB\nSwapTotal:  10 kB\nSwapFree:  4 kB\nHugePages_Total:  0\n"
    )
    assert read_memory(meminfo) == Memory(102400, 40960, 6144)
    pressure = tmp_path / "memory"
    pressure.write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
    )
    assert read_pressure(pressure) == Pressure(1.5, 0.5)
    assert read_pressure(tmp_path / "none") is None
    assert read_machine().memory.total_bytes > 0


# What becomes of the job. The stages are real processes; the memory is made up.


class Memories:
    """What the box's guard reads, until a test says something else."""

    def __init__(self) -> None:
        self.reading = PLENTY

    def __call__(self) -> Reading:
        return self.reading


@pytest.fixture
def memories() -> Memories:
    return Memories()


@pytest.fixture
def box(tmp_path: Path, memories: Memories) -> Iterator[Box]:
    box = Box(tmp_path, reading=memories)
    yield box
    box.stop()


def plan(box: Box) -> dict:
    """The plan as it stands in the result."""
    return json.loads(next(box.outbox.glob("0001-support*/plan.json")).read_text())


def fall_to(box: Box, memories: Memories, gigabytes: float) -> None:
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    memories.reading = left(gigabytes)
    box.turn_until(lambda: not box.runs(Stage.TRAIN))
    memories.reading = PLENTY


def test_a_training_stopped_at_the_first_floor_is_tried_once_more_in_smaller_pieces(box: Box, memories: Memories):
    box.drop(train="sleep once")
    fall_to(box, memories, 7.0)
    assert box.ended().state is JobState.SUCCEEDED
    assert (plan(box)["per_device_train_batch_size"], plan(box)["gradient_accumulation_steps"]) == (4, 2)
    assert "memory guard" in plan(box)["notes"][0]
    ends = [event for event in box.history() if event["event"] == "stage_ended" and event["stage"] == "train"]
    assert [(event["exit_code"], event["failure"]) for event in ends] == [(4, "memory_guard"), (0, None)]


def test_the_second_time_it_fails_with_its_class(box: Box, memories: Memories):
    box.drop(train="sleep")
    fall_to(box, memories, 7.0)
    fall_to(box, memories, 2.0)
    job = box.ended()
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.MEMORY_GUARD)
    assert "2.0 GB of memory were left" in job.message
    counters = {(name, labels.get("floor")): value for name, labels, value in box.appliance.store.counters()}
    assert counters["memory_guard_trips_total", "first"] == 1
    assert counters["memory_guard_trips_total", "second"] == 1
    assert {
        labels["reason"]: v for name, labels, v in box.appliance.store.counters() if name == "job_retries_total"
    } == {"memory_guard": 1}


def test_a_cancelled_job_stays_cancelled_when_the_guard_acts_as_well(box: Box, memories: Memories):
    box.drop(train="ignore")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.turn_until(lambda: box.appliance.crew.running[1].stop_asked is not None)
    memories.reading = left(2.0)
    assert box.ended().state is JobState.CANCELLED


@pytest.mark.parametrize("reason", [StopReason.WINDOW, StopReason.PREEMPTED, StopReason.SHUTDOWN])
@pytest.mark.parametrize("gigabytes", [7.0, 2.0])
def test_a_training_that_was_leaving_has_not_failed_when_others_take_its_memory_meanwhile(
    box: Box, memories: Memories, reason: StopReason, gigabytes: float
):
    """The server by day starts when the window closes, and the training is still saving."""
    box.drop(train="sleep once")
    for _ in range(2):
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        box.appliance.crew.ask_gpu_to_stop(time.monotonic() + box.shift, reason)
        memories.reading = left(gigabytes)
        box.turn_until(lambda: not box.runs(Stage.TRAIN))
        memories.reading = PLENTY
        (box.folder() / "train" / "was here").unlink()
    ends = [event for event in box.history() if event["event"] == "stage_ended" and event["stage"] == "train"]
    assert [event["failure"] for event in ends] == [None, None]
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 0
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    assert json.loads((box.folder() / "prepare" / "plan.json").read_text())["per_device_train_batch_size"] == 8


def test_running_out_of_memory_halves_the_micro_batch_up_to_three_times(box: Box):
    box.drop(train="need 1")
    job = box.ended()
    assert job.state is JobState.SUCCEEDED
    assert (plan(box)["per_device_train_batch_size"], plan(box)["gradient_accumulation_steps"]) == (1, 8)
    assert job.trainings == 4


def test_a_fourth_time_it_fails_with_its_class(box: Box):
    box.drop(train="need 0")
    job = box.ended()
    assert (job.state, job.failure, job.trainings) == (JobState.FAILED, FailureClass.OUT_OF_MEMORY, 4)
    assert plan(box)["per_device_train_batch_size"] == 1


def test_the_guard_looks_by_itself_five_times_a_second():
    reads: list[float] = []

    def read() -> Reading:
        reads.append(time.monotonic())
        return PLENTY

    guard = MemoryGuard(FLOORS, read=read)
    guard.start()
    end = time.monotonic() + 60
    while len(reads) < 6 and time.monotonic() < end:
        time.sleep(0.01)
    guard.close()
    assert len(reads) >= 6
    assert reads[5] - reads[1] > 0.5


def test_a_guard_that_sees_nothing_does_not_look_alive_and_logs_why_once(caplog: pytest.LogCaptureFixture):
    reads: list[float] = []
    broken = True

    def read() -> Reading:
        reads.append(time.monotonic())
        if broken and len(reads) > 1:
            raise OSError("no reading")
        return PLENTY

    guard = MemoryGuard(FLOORS, read=read)
    guard.start()
    began = guard.last_turn
    assert began > 0
    until(lambda: len(reads) >= 5)
    assert guard.last_turn == began
    assert caplog.text.count("the memory guard met an error") == 1
    broken = False
    until(lambda: guard.last_turn > began)
    guard.close()
    assert caplog.text.count("the memory guard works again") == 1


def test_a_guard_without_a_reading_for_some_seconds_is_blind(machine: Machine):
    machine.now += BLIND_SECONDS
    assert not machine.guard.is_blind
    machine.now += 0.1
    assert machine.guard.is_blind
    machine.sees(PLENTY)
    assert not machine.guard.is_blind


def test_nothing_begins_on_the_gpu_while_the_guard_is_blind(box: Box):
    box.looks = False
    box.shift += BLIND_SECONDS + 1.0
    box.drop()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.GPU)
    job = box.job(1)
    assert job is not None
    assert "memory guard cannot read" in job.waiting_detail
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 0
    box.looks = True
    assert box.ended().state is JobState.SUCCEEDED


def test_an_error_in_a_reading_does_not_end_the_guard():
    answers = iter([PLENTY, None, left(7.0)])
    process = Process()

    def read() -> Reading:
        answer = next(answers, PLENTY)
        if answer is None:
            raise OSError("no reading")
        return answer

    guard = MemoryGuard(FLOORS, read=read)
    guard.watch(process)
    guard.start()
    end = time.monotonic() + 60
    while not process.got and time.monotonic() < end:
        time.sleep(0.01)
    guard.close()
    assert process.got == "T"
