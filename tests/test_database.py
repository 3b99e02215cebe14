"""The database as a whole: damaged, locked, newer, read-only, gone; copied every day; made anew from the jobs."""

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.daemon import Appliance
from appliance.database import BACKUPS_KEPT, DATABASE, DailyBackup, LockedError, StoreError, back_up, check_database
from appliance.job import JobState, Outcome, Stage
from appliance.job_dir import JobDir
from appliance.lock import AlreadyRunningError
from appliance.opening import open_database
from appliance.places import Places
from appliance.rebuild import rebuild
from appliance.store import Store
from appliance.store_schema import SCHEMA_VERSION
from tests.box import Box
from tests.small_disk import small_disk
from tests.users import not_as_root

DEADLINE_SECONDS = 60.0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    store = Store(tmp_path / DATABASE)
    store.set_fact("installation", "ours")
    store.close()
    return tmp_path / DATABASE


def damage(database: Path) -> None:
    """Overwrite the pages after the first, as a bad disk does."""
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (database.stat().st_size - 4096))


def test_a_sound_database_is_opened_and_keeps_its_identity(database: Path):
    store = open_database(database)
    assert store.fact("installation") == "ours"
    store.close()


def test_a_damaged_database_stops_the_start_says_how_to_mend_it_and_is_left_alone(database: Path):
    damage(database)
    before = database.read_bytes()
    with pytest.raises(StoreError, match=r"is damaged|cannot be used") as caught:
        open_database(database)
    assert caught.value.exit_code == 3
    assert "serve --rebuild" in (caught.value.hint or "")
    assert database.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(database: Path):
    database.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StoreError) as caught:
        open_database(database)
    assert "serve --rebuild" in (caught.value.hint or "")


def test_a_newer_database_is_refused_with_the_way_back(database: Path):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="newer appliance") as caught:
        open_database(database)
    assert "newer version" in (caught.value.hint or "")


def test_a_locked_database_is_waited_for(database: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("appliance.store.BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(database, check_same_thread=False)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    opened: list[Store] = []
    thread = threading.Thread(target=lambda: opened.append(open_database(database)))
    thread.start()
    thread.join(1.0)
    assert opened == []
    holder.close()
    thread.join(DEADLINE_SECONDS)
    assert opened[0].fact("installation") == "ours"


def test_who_waits_for_a_locked_database_can_still_be_stopped(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("appliance.store.BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(database)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        answers = iter((False, True))
        with pytest.raises(LockedError, match="locked by another program") as caught:
            open_database(database, stopping=lambda: next(answers))
    assert "try again" in (caught.value.hint or "")
    assert "waiting until it is closed there" in caplog.text


def test_a_lock_in_the_middle_of_the_work_ends_nothing(box: Box, caplog: pytest.LogCaptureFixture):
    box.appliance.store.connection.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(box.settings.state / DATABASE)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        box.drop()
        # Every turn that has to write meets the lock, and the loop takes none of them for its own fault.
        end = time.monotonic() + DEADLINE_SECONDS
        while caplog.text.count("a turn of the loop met an error") < 10:
            assert time.monotonic() < end
            assert box.appliance.turn(time.monotonic(), time.time())
        holder.execute("ROLLBACK")
    box.turn_until(lambda: any(job.state is JobState.SUCCEEDED for job in box.appliance.store.recent_jobs()))
    for _ in range(20):
        box.tick()
    assert len(box.appliance.store.recent_jobs()) == 1
    assert len(list((box.settings.state / "jobs").iterdir())) == 1


def test_a_full_disk_is_not_taken_for_a_failing_one(tmp_path: Path):
    with small_disk(tmp_path, 1 << 20):
        # Closed, it leaves nothing beside itself: whoever opens it next needs room.
        Store(tmp_path / DATABASE).close()
        with contextlib.suppress(OSError), (tmp_path / "results").open("wb", buffering=0) as results:
            while True:
                results.write(bytes(4096))
        with pytest.raises(StoreError, match=r"^the disk of .* is full$") as caught:
            Store(tmp_path / DATABASE)
        assert "goes on by itself" in (caught.value.hint or "")
        (tmp_path / "results").unlink()
        Store(tmp_path / DATABASE).close()


def test_an_error_of_a_disk_with_room_is_called_one(database: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match="reports an error") as caught:
            Store(database)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "kernel's log" in (caught.value.hint or "")


def test_a_database_that_may_not_be_written_is_refused_with_what_to_do():
    # The folders of tests belong to whoever runs them: another user may not even look into them.
    with tempfile.TemporaryDirectory() as name:
        database = Path(name) / DATABASE
        Store(database).close()
        database.chmod(0o444)
        database.parent.chmod(0o555)
        with not_as_root(), pytest.raises(StoreError, match="cannot be written") as caught:
            open_database(database)
        database.parent.chmod(0o755)
    hint = caught.value.hint or ""
    assert str(database.parent) in hint
    assert f"Let user {65534 if os.geteuid() == 0 else os.geteuid()} write" in hint


def test_a_state_folder_with_jobs_and_without_a_database_never_starts_empty(box: Box):
    box.drop()
    box.ended()
    box.stop()
    for part in ("", "-wal", "-shm"):
        (box.settings.state / (DATABASE + part)).unlink(missing_ok=True)
    with pytest.raises(StoreError, match="is gone, and 1 job folders are there") as caught:
        Appliance(box.settings)
    assert "serve --rebuild" in (caught.value.hint or "")
    assert not (box.settings.state / DATABASE).exists()
    mend(box)
    box.start()


def mend(box: Box) -> int:
    settings = box.settings
    return rebuild(settings.state / DATABASE, Places(settings.state, settings.outbox, settings.recipes), settings.inbox)


def test_a_rebuilt_database_knows_every_job_and_the_work_goes_on(box: Box):
    box.drop("done.jsonl")
    box.ended(1)
    box.drop("refused.jsonl", check="reject")
    box.ended(2)
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop("waiting.jsonl")
    box.turn_until(lambda: (job := box.job(3)) is not None and job.waiting == "paused")
    box.drop("running.jsonl", fetch="sleep once")
    box.turn_until(lambda: box.runs(Stage.FETCH, 4))
    installation = box.appliance.store.fact("installation")
    box.crash()
    damage(box.settings.state / DATABASE)

    assert mend(box) == 4
    box.start()

    store = box.appliance.store
    assert store.fact("installation") == installation
    assert [job.state for job in reversed(store.recent_jobs())][:2] == [JobState.SUCCEEDED, JobState.REJECTED]
    # The queue is not paused any more: nobody remembers.
    assert [box.ended(number).state for number in (3, 4)] == [JobState.SUCCEEDED] * 2
    assert len([path for path in box.outbox.iterdir() if path.is_dir()]) == 4
    assert len(list((box.settings.state / "damaged").glob("*/appliance.sqlite"))) == 1
    box.drop("next.jsonl")
    assert box.ended(5).id == "0005-next"


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_rebuilt_database_knows_which_drop_is_the_same(box: Box, spoilt: bool):
    box.appliance.store.ask("pause", "queue", now=0.0)
    row = '{"text": "the same"}\n'
    (box.inbox / "first.jsonl").write_text(row)
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting == "paused")
    box.stop()
    damage(box.settings.state / DATABASE)
    if spoilt:
        (box.settings.state / "jobs" / "0001-first" / "identity.json").write_text("[")
    mend(box)
    box.start()
    box.appliance.store.ask("pause", "queue", now=0.0)
    (box.inbox / "second.jsonl").write_text(row)
    box.turn_until(lambda: box.job(2) is not None)
    second = box.job(2)
    assert second is not None
    # What a bad disk spoilt costs no job.
    assert second.outcome is (None if spoilt else Outcome.REJECTED)


def copy_now(box: Box) -> None:
    back_up(box.settings.state / DATABASE, box.settings.state / "backup" / "appliance-2099-01-01.sqlite")


def works_on(box: Box, stage: Stage) -> bool:
    running = box.appliance.crew.running.get(1)
    return running is not None and running.stage is stage


@pytest.mark.parametrize("stage", [Stage.CHECK, Stage.TRAIN, Stage.VERIFY, Stage.PUBLISH])
def test_a_copy_taken_while_a_stage_ran_rebuilds_when_the_job_has_ended_since(box: Box, stage: Stage):
    box.drop()
    box.turn_until(lambda: works_on(box, stage))
    copy_now(box)
    box.ended()
    box.stop()
    assert mend(box) == 1
    box.start()
    job = box.job(1)
    assert job is not None
    assert (job.state, job.outcome) == (JobState.SUCCEEDED, Outcome.SUCCEEDED)
    assert box.appliance.store.open_attempts() == []


def test_a_copy_taken_while_a_job_was_published_rebuilds_when_that_was_cut_short(box: Box):
    box.drop()
    box.turn_until(lambda: works_on(box, Stage.PUBLISH))
    copy_now(box)
    published = box.settings.state / "jobs" / "0001-support" / "publish" / "result.json"
    end = time.monotonic() + DEADLINE_SECONDS
    while not published.exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    box.crash()
    mend(box)
    box.start()
    assert box.ended().state is JobState.SUCCEEDED
    assert [path.name for path in box.outbox.iterdir() if path.is_dir()] == ["0001-support"]


def test_what_was_asked_for_before_the_copy_is_not_done_again(box: Box):
    box.drop(train="fail")
    box.ended()
    box.appliance.store.ask("retry", "1", now=0.0)
    copy_now(box)
    box.ended(2)
    box.stop()
    mend(box)
    box.start()
    assert box.appliance.store.requests() == []
    box.drop("next.jsonl")
    assert box.ended(3).id == "0003-next"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_job_whose_last_stage_is_done_and_not_noted_ends_after_a_rebuild(box: Box, dry_run: bool):
    last, name = (Stage.PREPARE, "check/support.jsonl") if dry_run else (Stage.VERIFY, "support.jsonl")
    (box.inbox / "check").mkdir(exist_ok=True)
    (box.inbox / name).write_text(json.dumps({last: "sleep once"}) + "\n")
    box.turn_until(lambda: box.runs(last))
    box.crash()
    JobDir(box.settings.state / "jobs" / "0001-support").write_result(last, {"verdict": "improved"})
    damage(box.settings.state / DATABASE)
    mend(box)
    box.start()
    assert box.ended().outcome is (Outcome.CHECKED if dry_run else Outcome.SUCCEEDED)


def test_a_rebuild_starts_from_the_last_copy_and_numbers_above_the_outbox(box: Box):
    box.drop()
    box.ended()
    copy_now(box)
    (box.outbox / "0041-older").mkdir()
    box.stop()
    damage(box.settings.state / DATABASE)
    mend(box)
    box.start()
    counters = {name: value for name, labels, value in box.appliance.store.counters() if labels == {}}
    assert counters["job_queue_wait_seconds_sum"] >= 0
    box.drop("next.jsonl")
    box.turn_until(lambda: box.job(42) is not None)
    assert box.ended(42).state is JobState.SUCCEEDED


def test_a_job_whose_folder_is_gone_ends_and_blocks_nobody(box: Box):
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting == "paused")
    copy_now(box)
    box.crash()
    shutil.rmtree(box.settings.state / "jobs" / "0001-support")
    mend(box)
    box.start()
    job = box.job(1)
    assert job is not None
    assert (job.state, job.outcome) == (JobState.FAILED, Outcome.FAILED)


def test_a_job_that_was_deleted_does_not_come_back_with_an_older_copy(box: Box):
    box.drop()
    job = box.ended()
    copy_now(box)
    box.stop()
    shutil.rmtree(box.settings.state / "jobs" / job.id)
    shutil.rmtree(box.outbox / job.id)
    assert mend(box) == 0
    box.start()
    assert box.job(1) is None
    box.drop("next.jsonl")
    assert box.ended(2).id == "0002-next"


def test_nobody_rebuilds_beside_a_running_daemon(box: Box):
    from appliance.rebuild import rebuild_database

    with pytest.raises(AlreadyRunningError):
        rebuild_database(box.settings)


def test_a_copy_is_taken_every_day_and_the_newest_few_are_kept(database: Path):
    backup, folder = DailyBackup(database), database.parent / "backup"
    day = 86_400.0
    for number in range(BACKUPS_KEPT + 3):
        backup.keep_up(number * day)
        backup.wait(DEADLINE_SECONDS)
        backup.keep_up(number * day + 60)
        backup.wait(DEADLINE_SECONDS)
    copies = sorted(folder.iterdir())
    assert [path.name for path in copies] == [f"appliance-1970-01-{day:02d}.sqlite" for day in range(4, 11)]
    check_database(copies[-1])
    store = Store(copies[-1])
    assert store.fact("installation") == "ours"
    store.close()


def test_a_copy_that_fails_leaves_the_work_alone_and_is_tried_again(database: Path):
    (database.parent / "backup").write_text("in the way")
    backup = DailyBackup(database)
    backup.keep_up(0.0)
    backup.wait(DEADLINE_SECONDS)
    (database.parent / "backup").unlink()
    backup.keep_up(60.0)
    backup.wait(DEADLINE_SECONDS)
    assert not (database.parent / "backup").exists()
    backup.keep_up(3700.0)
    backup.wait(DEADLINE_SECONDS)
    assert len(list((database.parent / "backup").iterdir())) == 1


def test_the_daemon_takes_the_copy_by_itself(box: Box):
    box.tick()
    end = time.monotonic() + DEADLINE_SECONDS
    while not list((box.settings.state / "backup").glob("appliance-*.sqlite")):
        assert time.monotonic() < end
        time.sleep(0.02)
