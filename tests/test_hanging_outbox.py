"""An outbox that hangs, as a share does whose server is away: only what is written there waits."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import status_files
from appliance.job import JobState, Stage
from appliance.store import DATABASE, Store
from tests.box import Box
from tests.real_daemon import RealDaemon


@pytest.fixture
def answers() -> Iterator[threading.Event]:
    """Set while the outbox answers."""
    event = threading.Event()
    event.set()
    yield event
    event.set()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: threading.Event) -> Iterator[Box]:
    write = status_files.write_whole

    def write_when_it_answers(path: Path, content: str) -> None:
        answers.wait(600.0)
        write(path, content)

    monkeypatch.setattr(status_files, "write_whole", write_when_it_answers)
    box = Box(tmp_path)
    yield box
    answers.set()
    box.stop()


def test_an_outbox_that_hangs_keeps_nothing_else_waiting(box: Box, answers: threading.Event):
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    answers.clear()
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.drop("b.jsonl")
    box.shift += 10.0
    assert box.ended(1).state is JobState.CANCELLED
    assert box.ended(2).state is JobState.SUCCEEDED


def test_an_outbox_that_hangs_is_told_on_the_pages_and_the_board_is_right_afterwards(
    box: Box, answers: threading.Event, caplog: pytest.LogCaptureFixture
):
    status = box.outbox / "STATUS.md"
    box.turn_until(status.exists)
    answers.clear()
    box.drop("a.jsonl")
    box.ended(1, seconds_a_turn=0.1)
    turned = box.appliance.view.board_turn
    box.shift += status_files.HUNG_SECONDS + 10.0
    box.turn_until(lambda: "the outbox does not answer" in str(box.appliance.view.trouble))
    for _ in range(5):
        box.shift += 10.0
        box.tick()
    assert box.appliance.view.board_turn <= turned + 2 * status_files.EVERY_SECONDS
    assert caplog.text.count("does not answer") == 1
    answers.set()
    box.turn_until(lambda: box.appliance.view.trouble is None)
    box.shift += 10.0
    box.turn_until(lambda: "0001-a" in status.read_text() and "does not answer" not in status.read_text())
    box.turn_until(lambda: box.appliance.view.board_turn > turned)


def test_numbers_go_on_above_what_somebody_puts_into_the_outbox(box: Box):
    (box.outbox / "0041-old").mkdir()
    box.tick()
    box.shift += 10.0
    box.turn_until(lambda: box.appliance.store.highest_number() == 41)
    # Nobody had so many jobs.
    (box.outbox / "20261128-backup").mkdir()
    box.shift += 10.0
    box.tick()
    box.drop("a.jsonl")
    box.turn_until(lambda: box.job(42) is not None)
    box.shift += 10.0
    box.tick()
    box.drop("b.jsonl")
    box.turn_until(lambda: box.job(43) is not None)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[RealDaemon]:
    """A daemon whose inbox and outbox hang."""
    daemon = RealDaemon(tmp_path, module="tests.hanging_daemon")
    (tmp_path / "hang").touch()
    store = Store(tmp_path / "state" / DATABASE)
    store.ask("pause", "queue", now=0.0)
    store.close()
    daemon.wait_for(lambda: (tmp_path / "hangs-outbox").exists() and (tmp_path / "hangs-inbox").exists())
    yield daemon
    daemon.kill()


def test_sigterm_ends_the_daemon_although_inbox_and_outbox_hang(hanging: RealDaemon):
    assert hanging.stop() == 0
    assert "without an answer: survey" in hanging.log()


def test_a_loop_that_gives_up_ends_the_daemon_although_inbox_and_outbox_hang(hanging: RealDaemon):
    (hanging.root / "broken").touch()
    assert hanging.process.wait(60) == 1
    assert "the loop met an error at every turn" in hanging.log()
    assert "without an answer: survey" in hanging.log()
