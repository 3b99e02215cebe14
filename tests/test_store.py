"""The database: what was committed is there again, and counters go on."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.job import DroppedFile, Job, JobState, Role, Stage, move
from appliance.store import DropKey, Store, StoreError
from appliance.store_schema import SCHEMA_VERSION

KEY = DropKey(b"support.jsonl", device=2**63 + 5, inode=2**64 - 1, mtime_ns=3, size=4)


def a_job(number: int = 1) -> Job:
    file = DroppedFile("support.jsonl", Role.DATASET, "dropped/support.jsonl", 4, "00", "inbox/support.jsonl", 1, 2, 3)
    return Job(number, f"{number:04d}-support", f"uuid-{number}", "support", JobState.QUEUED, 5.0, files=(file,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "appliance.sqlite"


@pytest.fixture
def store(path: Path) -> Store:
    return Store(path)


def test_a_job_is_the_same_after_the_database_is_opened_again(store: Store, path: Path):
    job = replace(a_job(), stage=Stage.TRAIN, message="näher")
    store.add_job(job)
    store.close()
    assert Store(path).job(1) == job


def test_an_ended_job_is_not_active(store: Store):
    store.add_job(a_job(1))
    store.add_job(a_job(2))
    ended = move(move(a_job(1), JobState.RUNNING), JobState.FAILED, finished=9.0)
    store.save(ended)
    assert [job.number for job in store.active_jobs()] == [2]
    assert store.ended_since(9.0) == [ended]
    assert store.count_by_state()[JobState.FAILED] == 1


def test_a_failed_transaction_leaves_nothing(store: Store):
    def half_a_change() -> None:
        with store.transaction():
            store.add_job(a_job())
            raise KeyError

    with pytest.raises(KeyError):
        half_a_change()
    assert store.job(1) is None


def test_a_source_that_was_taken_in_is_known_until_it_is_removed(store: Store):
    store.add_job(a_job(), [KEY])
    assert store.unremoved() == [KEY]
    store.forget_source(KEY)
    # A new file may get the inode, and with `cp -p` the time, of one that is gone.
    assert store.unremoved() == []


def test_an_attempt_counts_before_anyone_saw_its_end(store: Store):
    store.add_job(a_job())
    store.start_attempt(1, Stage.TRAIN, mark="0", boot_id="b", now=1.0)
    store.start_attempt(1, Stage.TRAIN, mark="0", boot_id="b", now=2.0)
    assert store.attempts(1, Stage.TRAIN) == 2
    assert len(store.open_attempts()) == 2


def test_an_attempt_that_got_further_starts_a_new_count(store: Store):
    store.add_job(a_job())
    store.start_attempt(1, Stage.TRAIN, mark="step 0", boot_id="b", now=1.0)
    store.start_attempt(1, Stage.TRAIN, mark="step 20", boot_id="b", now=2.0)
    assert store.attempts(1, Stage.TRAIN, mark="step 20") == 1
    assert store.attempts(1, Stage.TRAIN) == 2


def test_an_attempt_that_was_asked_to_stop_does_not_count(store: Store):
    store.add_job(a_job())
    store.start_attempt(1, Stage.TRAIN, mark="0", boot_id="b", now=1.0)
    store.end_attempt(1, Stage.TRAIN, exit_code=4, counted=False, now=2.0)
    assert store.attempts(1, Stage.TRAIN) == 0
    assert store.open_attempts() == []


def test_counters_and_histograms_go_on_after_a_restart(store: Store, path: Path):
    store.count("drops", {"outcome": "accepted"})
    store.observe("delay", 3.0, (1, 5, 10))
    store.close()
    store = Store(path)
    store.count("drops", {"outcome": "accepted"}, 2)
    assert sorted((name, dict(labels), value) for name, labels, value in store.counters()) == [
        ("delay_bucket", {"le": "5"}, 1.0),
        ("delay_sum", {}, 3.0),
        ("drops", {"outcome": "accepted"}, 3.0),
    ]


def test_requests_are_kept_in_order_until_they_are_dropped(store: Store):
    store.ask("cancel", "7", now=1.0)
    store.ask("pause", "queue", now=2.0)
    first, second = store.requests()
    assert (first.action, first.target, second.action) == ("cancel", "7", "pause")
    store.drop_request(first.id)
    assert [request.action for request in store.requests()] == ["pause"]


def test_a_database_of_a_newer_appliance_is_refused_with_a_hint(store: Store, path: Path):
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer appliance") as caught:
        Store(path)
    assert caught.value.hint


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path):
    path.write_bytes(b"not a database, but somebody's file" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="cannot be used"):
        Store(path)
    assert path.read_bytes() == before
