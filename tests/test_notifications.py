"""Notifications: each event reaches a real receiver once; a dead one delays nothing; never a row."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.disk import GB, Space
from appliance.heartbeat import Heartbeat, HeartbeatError
from appliance.job import FailureClass, Job, JobState, Outcome, Push, Stage, Verdict
from appliance.job_dir import JobDir
from appliance.machine_watch import MachineReading
from appliance.metric_table import Notice
from appliance.notifier import Notifier
from appliance.receivers import QUEUED, SEND_SECONDS, Receiver
from appliance.settings import Settings
from appliance.store import Store
from appliance.texts.notices import NAMED, Message
from tests.listener import Listener, listening
from tests.waiting import until

NOW = 1_790_000_000.0
SECRET = "the row that nobody may see"
SECONDS = 60


class Desk:
    """A notifier over a store of the test's own."""

    def __init__(self, root: Path, *urls: str) -> None:
        for name in ("outbox", "jobs"):
            (root / name).mkdir(exist_ok=True)
        self.outbox, self.jobs = root / "outbox", root / "jobs"
        self.settings = Settings(outbox=self.outbox, notify_urls=urls)
        self.store = Store(root / "appliance.sqlite")
        self.machine = MachineReading({})
        self.notifier = Notifier(self.settings, self.store, self.jobs, lambda: self.machine, pauses_seconds=(0.0, 0.0))
        self.notifier.start(NOW)

    def end(self, number: int, outcome: Outcome, **facts: object) -> Job:
        states = {Outcome.CHECKED: JobState.SUCCEEDED}
        state = states.get(outcome) or JobState(outcome.value)
        job = Job(number, f"{number:04d}-support", str(number), "support", state, NOW, outcome=outcome)
        job = replace(job, finished=NOW + number, message=SECRET, **facts)
        self.store.add_job(job)
        self.store.save(job)
        return job

    def told(self, event: Notice, outcome: str) -> float:
        labels = {"event": str(event), "outcome": outcome}
        return sum(value for name, found, value in self.store.counters() if found == labels)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path, listener: Listener) -> Iterator[Desk]:
    desk = Desk(tmp_path, f"json://{listener.address}/")
    yield desk
    desk.notifier.stop()


def make_everything_happen(desk: Desk) -> None:
    # Files first, as in a real job: the notifier may look at any moment.
    (desk.jobs / "0001-support").mkdir()
    JobDir(desk.jobs / "0001-support").write_result(Stage.VERIFY, {"base_loss": 2.314, "tuned_loss": 0.871})
    desk.end(1, Outcome.SUCCEEDED, verdict=Verdict.IMPROVED, push=Push.BLOCKED)
    desk.end(2, Outcome.FAILED, failure=FailureClass.OUT_OF_MEMORY)
    (desk.outbox / "0003-support.rejected").mkdir()
    problems = [{"code": "bad_json", "found": SECRET}, {"code": "bad_json"}, {"code": "unknown_key"}]
    (desk.outbox / "0003-support.rejected" / "problems.json").write_text(json.dumps(problems))
    desk.end(3, Outcome.REJECTED)
    desk.store.count("memory_guard_trips_total", {"floor": "first"})
    desk.machine = MachineReading(
        {"outbox": Space(3 * GB, 1000 * GB, 10**6), "state": Space(1000 * GB, 1000 * GB, 10**6)}
    )
    desk.end(4, Outcome.CANCELLED)


def test_each_event_reaches_the_receiver_once(desk, listener):
    make_everything_happen(desk)
    until(lambda: len(listener.heard) >= 6)
    said = {message["title"]: message["message"] for message in listener.heard}
    assert said == {
        "0001-support has finished": "It fits your held-out rows better than the base does (loss 2.314 → 0.871); "
        "its push to the Hub needs a person. See 0001-support in the outbox.",
        "0002-support has failed": "Class: out_of_memory. See 0002-support.failed in the outbox.",
        "0003-support was rejected": "3 problems (bad_json, unknown_key). See 0003-support.rejected in the outbox.",
        "0001-support: the push to the Hub needs a person": "Its adapter is safe in 0001-support in the outbox; "
        "its page says why it is not on the Hub.",
        "A training was stopped to save memory": "Memory fell below a floor (1 time). "
        "The training is tried again with a smaller plan.",
        "The disk of the outbox folder is nearly full": "3.0 GB are free. Jobs wait until there is room; "
        "nothing is lost.",
    }
    assert SECRET not in json.dumps(listener.heard)
    until(lambda: sum(desk.told(event, "sent") for event in Notice) == 6)
    assert desk.notifier.look() == []
    assert len(listener.heard) == 6
    assert [desk.told(event, "sent") for event in Notice] == [1] * len(Notice)


def test_a_restart_tells_nothing_again_and_nothing_of_before(tmp_path):
    desk = Desk(tmp_path)
    make_everything_happen(desk)
    desk.notifier._store.set_fact("notified of jobs", json.dumps([NOW, 0]))
    assert len(desk.notifier.look()) == 6
    assert Desk(tmp_path).notifier.look() == []


def test_what_ended_before_there_was_an_address_is_not_told(tmp_path):
    store = Desk(tmp_path)
    store.end(1, Outcome.FAILED)
    with listening() as listener:
        later = Notifier(
            Settings(notify_urls=(f"json://{listener.address}/",)), store.store, store.jobs, lambda: store.machine
        )
        later.start(NOW + 10)
        assert later.look() == []
        later.stop()


def test_a_disk_is_low_once_until_it_has_recovered(tmp_path):
    desk = Desk(tmp_path)
    told = []
    for gigabytes in (19, 18, 21, 19, 26, 19):
        desk.machine = MachineReading({"state": Space(gigabytes * GB, 1000 * GB, 10**6)})
        told.append(len(desk.notifier.look()))
    assert told == [1, 0, 0, 0, 0, 1]


def test_a_small_disk_is_low_below_the_share_that_jobs_leave_free_on_it(tmp_path):
    desk = Desk(tmp_path)
    told = []
    for gigabytes in (10, 4, 3):
        desk.machine = MachineReading({"state": Space(gigabytes * GB, 64 * GB, 10**6)})
        told.append(len(desk.notifier.look()))
    assert told == [0, 0, 1]


def test_a_push_that_is_blocked_again_is_told_again(tmp_path):
    desk = Desk(tmp_path)
    job = desk.end(1, Outcome.CANCELLED, push=Push.BLOCKED)
    told = []
    for push in (Push.BLOCKED, Push.BLOCKED, Push.PENDING, Push.BLOCKED):
        desk.store.save(replace(job, push=push))
        told.append(sum(message.event is Notice.PUSH_BLOCKED for message in desk.notifier.look()))
    assert told == [1, 0, 0, 1]


def test_a_look_holds_up_no_writer_and_is_held_up_by_none_without_news(tmp_path):
    desk = Desk(tmp_path)
    other = Store(desk.store.path)

    def machine() -> MachineReading:
        other.count("written while the notifier looks")
        return MachineReading({})

    assert Notifier(desk.settings, desk.store, desk.jobs, machine).look() == []
    with other.transaction():
        assert desk.notifier.look() == []


def test_a_damaged_result_is_told_of_without_its_figures(desk, listener):
    verified = desk.jobs / "0001-support" / Stage.VERIFY
    verified.mkdir(parents=True)
    (verified / "result.json").write_text('{"base_loss": 2.3, "tuned')
    desk.end(1, Outcome.SUCCEEDED, verdict=Verdict.IMPROVED)
    until(lambda: [one["title"] for one in listener.heard] == ["0001-support has finished"])


def test_a_result_whose_figures_cannot_be_read_is_told_without_them(desk, listener):
    (desk.jobs / "0001-support" / Stage.VERIFY / "result.json").mkdir(parents=True)
    job = desk.end(1, Outcome.FAILED, failure=FailureClass.STALLED)
    until(lambda: [one["title"] for one in listener.heard] == [f"{job.id} has failed"])


def test_what_cannot_be_marked_as_told_is_looked_at_again_and_told_once(desk, listener, caplog):
    desk.store.connection.execute(
        "CREATE TRIGGER unmarkable BEFORE INSERT ON facts BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    job = desk.end(1, Outcome.FAILED, failure=FailureClass.STALLED)
    until(lambda: "the notifier could not look and tries again" in caplog.text)
    assert listener.heard == []
    desk.store.connection.execute("DROP TRIGGER unmarkable")
    until(lambda: [one["title"] for one in listener.heard] == [f"{job.id} has failed"])


def test_a_deep_file_in_the_outbox_ends_no_notifier(desk, listener):
    rejected = desk.outbox / "0001-support.rejected"
    rejected.mkdir()
    (rejected / "problems.json").write_text("[" * 100_000)
    desk.end(1, Outcome.REJECTED)
    until(lambda: [one["title"] for one in listener.heard] == ["0001-support was rejected"])


def test_messages_go_on_when_they_cannot_be_counted(desk, listener, caplog):
    desk.store.connection.execute(
        "CREATE TRIGGER uncountable BEFORE INSERT ON counters WHEN NEW.name = 'notifications_total' "
        "BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    desk.end(1, Outcome.FAILED, failure=FailureClass.STALLED)
    until(lambda: "a notification (failed, sent) could not be counted: full" in caplog.text)
    desk.store.connection.execute("DROP TRIGGER uncountable")
    desk.end(2, Outcome.FAILED, failure=FailureClass.STALLED)
    until(lambda: desk.told(Notice.FAILED, "sent") == 1)
    assert len(listener.heard) == 2


def test_many_at_once_are_one_message(tmp_path):
    desk = Desk(tmp_path)
    for number in range(1, 61):
        desk.end(number, Outcome.REJECTED)
    desk.store.set_fact("notified of jobs", json.dumps([NOW, 0]))
    [message] = desk.notifier.look()
    assert message.title == "60 jobs: rejected"
    assert message.body.splitlines()[-1] == f"and {60 - NAMED} more"


def silent_address() -> tuple[socket.socket, str]:
    """Somebody who takes a connection and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, "{}:{}".format(*server.getsockname())


def test_a_dead_receiver_delays_nobody(tmp_path, listener):
    server, silent = silent_address()
    desk = Desk(tmp_path, f"json://{silent}/", "json://127.0.0.1:9/", f"json://{listener.address}/")
    began = time.monotonic()
    for number in (1, 2):
        job = desk.end(number, Outcome.FAILED, failure=FailureClass.STALLED)
        until(lambda job=job: [one["title"] for one in listener.heard].count(f"{job.id} has failed") == 1)
    # Before the one that never answers is given up.
    assert time.monotonic() - began < SEND_SECONDS
    # The one that refuses is given up after its tries, and counted.
    until(lambda: desk.told(Notice.FAILED, "failed") >= 1)
    desk.notifier.stop()
    server.close()


def test_a_queue_that_is_full_drops_and_counts():
    counted: list[str] = []
    receiver = Receiver("json://127.0.0.1:9/", lambda event, outcome: counted.append(outcome))
    for _ in range(QUEUED + 3):
        receiver.tell(Message(Notice.FAILED, "title", "body"))
    assert counted == ["dropped"] * 3


def test_an_address_that_is_none_is_said_without_showing_it(caplog):
    receiver = Receiver("nonsense://token-of-somebody", lambda event, outcome: None)
    receiver.start()
    until(lambda: "begins with nonsense cannot be used" in caplog.text)
    assert "token-of-somebody" not in caplog.text
    receiver.stop()


def test_a_heartbeat_is_heard_while_the_loop_turns(listener):
    alive = threading.Event()
    alive.set()
    heart = Heartbeat(f"http://{listener.address}/beat", alive.is_set, every_seconds=0.01)
    heart.start()
    until(lambda: listener.beats >= 3)
    alive.clear()
    settled = [-1]

    def is_silent() -> bool:
        before, settled[0] = settled[0], listener.beats
        time.sleep(0.2)
        return before == listener.beats

    until(is_silent)
    heart.stop()


def test_a_heartbeat_that_nobody_hears_is_logged_once_without_its_address(caplog):
    heart = Heartbeat("http://127.0.0.1:9/key-of-somebody", lambda: True, every_seconds=0.01)
    heart.start()
    until(lambda: "the heartbeat was not heard" in caplog.text)
    time.sleep(0.1)
    heart.stop()
    assert caplog.text.count("the heartbeat was not heard") == 1
    assert "key-of-somebody" not in caplog.text


def test_a_heartbeat_goes_on_after_an_answer_that_is_no_http():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        heart = Heartbeat("http://{}:{}/".format(*server.getsockname()), lambda: True, every_seconds=0.01)
        heart.start()
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")
        heart.stop()


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://127.0.0.1:eighty/", "http://[::1/"])
def test_a_heartbeat_address_that_cannot_be_asked_is_refused(address):
    with pytest.raises(HeartbeatError, match="APPLIANCE_HEARTBEAT_URL"):
        Heartbeat(address, lambda: True)


def test_without_an_address_there_is_no_heartbeat():
    Heartbeat(None, lambda: True).start()
