"""Room on the disks: looked at before a stage starts, kept for the database, and work that goes on when it is back.

Full disks are real here: small file systems in memory, where the machine lets us mount them.
"""

import contextlib
import errno
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from appliance.database import DATABASE
from appliance.disk import Ballast, is_disk_trouble, reserve_bytes, space_of
from appliance.files import write_json
from appliance.job import JobState, Stage, Waiting
from appliance.job_dir import PROMISED, JobDir
from appliance.preflight import bytes_below, lacks_room, needed_bytes, training_bytes
from appliance.settings import Settings
from appliance.texts.wording import size
from appliance.upkeep import Upkeep
from tests.box import Box, fake_command
from tests.jobs import jsonl, make_job, run_stages
from tests.labelled_rows import rows_of
from tests.small_disk import small_disk

MB = 10**6


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """An appliance whose state folder lies on a disk of 64 MB."""
    (tmp_path / "state").mkdir()
    with small_disk(tmp_path / "state", 64 * MB):
        box = Box(tmp_path)
        yield box
        box.stop()


def fill(folder: Path, *, leave: int = 0) -> Path:
    """A file that takes what is free there, but for `leave` bytes."""
    path = folder / "somebody's film"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (more := space_of(folder).free_bytes - leave) > 0:
            file.write(b"\0" * min(1 << 20, more))
    return path


def test_a_job_waits_for_room_says_how_much_and_goes_on_by_itself(box: Box):
    film = fill(box.settings.state, leave=4 * MB)
    box.drop()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.DISK)
    job = box.job(1)
    assert job is not None
    assert "; this needs " in job.waiting_detail
    assert not (box.appliance.places.jobs / "0001-support" / "prepare").exists()
    film.unlink()
    assert box.ended().state is JobState.SUCCEEDED


def test_a_disk_that_is_full_to_the_last_byte_loses_nothing_and_is_said_on_the_board(box: Box):
    box.forgiving = True
    box.drop("a.jsonl", train="sleep once")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.drop("b.jsonl")
    film = fill(box.settings.state)
    # Its end cannot be written down: the ballast goes overboard, and then it can.
    box.appliance.crew.running[1].process.ask_to_stop()
    box.turn_until(lambda: not box.runs(Stage.TRAIN))
    assert not (box.settings.state / "ballast").exists()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.DISK)
    assert "disk" in (box.appliance.view.trouble or "")
    film.unlink()
    assert [box.ended(number, seconds_a_turn=1.0).state for number in (1, 2)] == [JobState.SUCCEEDED] * 2
    assert (box.settings.state / "ballast").exists()
    assert len(list((box.settings.state / "jobs").iterdir())) == 2


def test_a_drop_that_does_not_fit_stays_in_the_inbox_until_it_does(box: Box):
    film = fill(box.settings.state, leave=MB)
    box.drop("large.jsonl", pad="x" * 3 * MB)
    status = box.outbox / "STATUS.md"
    box.turn_until(lambda: status.exists() and "waits for room on the disk" in status.read_text())
    assert "taking in what lies in the inbox needs 4.0 MB" in status.read_text()
    assert (box.inbox / "large.jsonl").exists()
    film.unlink()
    box.turn_until(lambda: box.job(1) is not None)
    assert box.appliance.reception.no_room is None


def test_an_outbox_without_room_keeps_the_result_until_there_is_some(tmp_path: Path):
    (tmp_path / "outbox").mkdir()
    with small_disk(tmp_path / "outbox", 2 * MB):
        box = Box(tmp_path)
        box.turn_until((tmp_path / "outbox" / "STATUS.html").exists)
        film = fill(tmp_path / "outbox")
        box.forgiving = True
        box.drop(pad="x" * 500_000)
        box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.DISK)
        assert not [path for path in box.outbox.iterdir() if path.name.startswith("0001")]
        film.unlink()
        assert box.ended(seconds_a_turn=1.0).state is JobState.SUCCEEDED
        assert (box.outbox / "0001-support" / "manifest.json").exists()
        box.stop()


def test_a_start_on_a_full_disk_throws_the_ballast_overboard_first(box: Box):
    box.tick()
    assert (box.settings.state / "ballast").stat().st_size > 0
    film = fill(box.settings.state)
    box.crash()
    box.start()
    assert not (box.settings.state / "ballast").exists()
    film.unlink()


def test_the_ballast_is_real_room_and_comes_back_only_when_there_is_some(tmp_path: Path):
    with small_disk(tmp_path, 2 * MB):
        ballast = Ballast(tmp_path, MB // 2)
        before = space_of(tmp_path).free_bytes
        assert ballast.restore()
        assert before - space_of(tmp_path).free_bytes >= MB // 2
        film = fill(tmp_path)
        assert ballast.drop()
        assert not ballast.drop()
        film.write_bytes(b"\0" * int(1.8 * MB))
        assert not ballast.restore()
        film.unlink()
        assert ballast.restore()


@pytest.mark.parametrize(
    ("number", "stays"), [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True), (errno.EROFS, True)]
)
def test_only_a_full_disk_costs_the_ballast(tmp_path: Path, number: int, stays: bool):
    upkeep = Upkeep(Settings(state=tmp_path), tmp_path / DATABASE)
    Ballast(tmp_path, MB).restore()
    assert upkeep.met(OSError(number, os.strerror(number)))
    assert (tmp_path / "ballast").exists() is stays
    assert os.strerror(number) in str(upkeep.trouble)


@pytest.mark.parametrize("ballast", [True, False])
def test_a_disk_that_became_read_only_is_a_trouble_that_passes(tmp_path: Path, ballast: bool):
    with small_disk(tmp_path, 8 * MB):
        upkeep = Upkeep(Settings(state=tmp_path), tmp_path / DATABASE)
        if ballast:
            Ballast(tmp_path, MB).restore()
        assert (tmp_path / "ballast").exists() is ballast
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True, timeout=60)
        with pytest.raises(OSError, match="Read-only") as refused:
            (tmp_path / "job.json").write_text("{}")
        assert upkeep.met(refused.value)
        upkeep.keep(100.0, 100.0)
        assert (tmp_path / "ballast").exists() is ballast


def test_the_reserve_leaves_a_small_disk_something(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("APPLIANCE_DISK_RESERVE_GB")
    with small_disk(tmp_path, 4 * MB):
        space = space_of(tmp_path)
        assert reserve_bytes(Settings(), space) == int(0.05 * space.size_bytes)
        assert reserve_bytes(Settings(disk_reserve_gb=1), space) == 10**9


def test_a_training_needs_room_for_its_checkpoints_and_adapter():
    # 8B with rank 16: 42 million parameters, half a gigabyte a checkpoint.
    assert 2.5e9 < training_bytes({"trainable_parameters": 42_000_000}) < 3.5e9
    assert training_bytes({}) == 0


def test_a_training_that_goes_on_does_not_wait_for_the_room_that_it_holds_itself(tmp_path: Path):
    job_dir = make_job(tmp_path, {"a.jsonl": "{}"})
    job, plan = job_dir.read_job(), {"trainable_parameters": 1_000_000}
    job_dir.stage(Stage.PREPARE)
    write_json(job_dir.plan_file, plan)
    assert needed_bytes(job, Stage.TRAIN, job_dir) == training_bytes(plan)

    for step in (10, 20, 30, 40):
        checkpoint = job_dir.stage(Stage.TRAIN) / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "optimizer.pt").write_bytes(bytes(12 * MB))
    assert needed_bytes(job, Stage.TRAIN, job_dir) == training_bytes(plan) - 48 * MB

    (job_dir.stage(Stage.TRAIN) / "adapter").mkdir()
    (job_dir.stage(Stage.TRAIN) / "adapter" / "adapter_model.safetensors").write_bytes(bytes(training_bytes(plan)))
    assert needed_bytes(job, Stage.TRAIN, job_dir) == 0


def test_what_a_running_training_may_still_write_is_promised_to_it(tmp_path: Path):
    (tmp_path / "state").mkdir()
    with small_disk(tmp_path / "state", 500 * MB):
        box = Box(tmp_path)
        plan = {"trainable_parameters": 4_000_000}
        box.drop(train="sleep", plan=plan)
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        large, small = (make_job(tmp_path, {"b.jsonl": "{}"}, name=name, number=9) for name in ("large", "small"))
        for job_dir, rows in ((large, 60 * MB), (small, MB)):
            (job_dir.stage(Stage.CHECK) / "rows.jsonl").touch()
            os.truncate(job_dir.stage(Stage.CHECK) / "rows.jsonl", rows)

        held = box.appliance.upkeep.obstacle(large.read_job(), Stage.PREPARE, large)
        assert held is not None
        assert "; this needs 256 MB, what is under way 336 MB more" in held[1]
        # Promises are the most that may be needed. What is small need not wait for hours until that is known.
        assert box.appliance.upkeep.obstacle(small.read_job(), Stage.PREPARE, small) is None
        assert box.appliance.upkeep.lacks_room_for(256 * MB, 0) is not None
        assert box.appliance.upkeep.lacks_room_for(MB, 0) is None

        box.appliance.store.ask("cancel", "1", now=0.0)
        box.ended()
        assert box.appliance.upkeep.obstacle(large.read_job(), Stage.PREPARE, large) is None
        assert box.appliance.upkeep.lacks_room_for(256 * MB, 0) is None
        assert "what is under way 300 MB more" in (box.appliance.upkeep.lacks_room_for(256 * MB, 300 * MB) or "")
        box.stop()


DOWNLOAD = """
import sys, time
from pathlib import Path
from appliance.job_dir import ProgressWriter
ProgressWriter(Path(sys.argv[1])).write("progress", done=20_000_000, total=320_000_000, unit="bytes")
time.sleep(120)
"""


def test_what_a_running_download_still_brings_is_promised_to_it(tmp_path: Path):
    def downloading(stage: Stage, job: Path) -> list[str]:
        downloads = stage is Stage.FETCH and (job.name == "0002-b")
        return [sys.executable, "-c", DOWNLOAD, str(job / stage)] if downloads else fake_command(stage, job)

    (tmp_path / "state").mkdir()
    with small_disk(tmp_path / "state", 500 * MB):
        box = Box(tmp_path, command=downloading)
        plan = {"trainable_parameters": 1_000_000}
        box.drop("a.jsonl", train="sleep", plan=plan)
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        box.drop("b.jsonl")
        box.turn_until(lambda: box.runs(Stage.FETCH, 2))
        # The download was told what the training may still need, and whoever comes now what both do.
        told = json.loads((box.folder(2) / "fetch" / PROMISED).read_text())
        assert told == {"bytes": needed_bytes(box.job(1), Stage.TRAIN, JobDir(box.folder(1)))}
        box.tick()
        more = f"what is under way {size(told['bytes'] + 300 * MB)} more"
        assert more in (box.appliance.upkeep.lacks_room_for(200 * MB, 0) or "")
        box.stop()


def test_two_that_begin_in_one_turn_are_not_promised_the_same_room(tmp_path: Path):
    with small_disk(tmp_path, 500 * MB):
        upkeep = Upkeep(Settings(state=tmp_path, disk_reserve_gb=0), tmp_path / DATABASE)
        upkeep.keep(0.0, 0.0)
        one, other = (make_job(tmp_path, {"b.jsonl": "{}"}, name=name, number=n) for n, name in ((1, "a"), (2, "b")))
        for job_dir in (one, other):
            (job_dir.stage(Stage.CHECK) / "rows.jsonl").touch()
            os.truncate(job_dir.stage(Stage.CHECK) / "rows.jsonl", 70 * MB)
        assert upkeep.obstacle(one.read_job(), Stage.PREPARE, one) is None
        assert upkeep.obstacle(one.read_job(), Stage.PREPARE, one) is None
        assert upkeep.obstacle(other.read_job(), Stage.PREPARE, other) is not None
        # In the next turn whoever did not begin after all has been promised nothing.
        upkeep.keep(0.25, 0.25)
        assert upkeep.obstacle(other.read_job(), Stage.PREPARE, other) is None


def test_every_stage_is_looked_at_with_its_own_measure(tmp_path: Path):
    job_dir = make_job(tmp_path, {"a.jsonl": "x" * 1000})
    job = job_dir.read_job()
    assert needed_bytes(job, Stage.CHECK, job_dir) == 2000
    (job_dir.stage(Stage.CHECK) / "rows.jsonl").write_bytes(bytes(MB))
    (job_dir.stage(Stage.CHECK) / "eval.jsonl").write_bytes(bytes(MB))
    assert 8 * MB < needed_bytes(job, Stage.PREPARE, job_dir) < 30 * MB
    assert needed_bytes(job, Stage.VERIFY, job_dir) == 0
    greedy = Settings(disk_reserve_gb=10**9)
    held = lacks_room(job, Stage.CHECK, job_dir, tmp_path, greedy)
    assert held is not None
    assert held[0] is Waiting.DISK
    assert "kept in reserve" in held[1]
    # What is finished is never held back for the reserve's sake.
    assert lacks_room(job, Stage.PUBLISH, JobDir(tmp_path), tmp_path, greedy) is None


@pytest.mark.parametrize("name", ["a.jsonl.gz", "A.JSONL.GZ", "a.parquet"])
def test_a_packed_drop_needs_the_room_of_what_is_in_it(tmp_path: Path, name: str):
    rows = rows_of(20_000)
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
        packed = (tmp_path / name).read_bytes()
    else:
        packed = gzip.compress(jsonl(rows).encode())
    job = make_job(tmp_path / "jobs", {name: packed, "a.yaml": "base_model: demo\n"})
    foreseen = needed_bytes(job.read_job(), Stage.CHECK, job)

    run_stages(job, Stage.CHECK)
    assert bytes_below(job.path / "check") <= foreseen
    run_stages(job, Stage.FETCH)
    foreseen = needed_bytes(job.read_job(), Stage.PREPARE, job)
    run_stages(job, Stage.PREPARE)
    assert bytes_below(job.path / "prepare") <= foreseen


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"<html></html>"])
def test_a_packed_drop_that_is_none_stops_nothing(tmp_path: Path, content: bytes):
    job = make_job(tmp_path, {"a.jsonl.gz": content})
    assert needed_bytes(job.read_job(), Stage.CHECK, job) == 10 * len(content)
    (job.dropped / "a.jsonl.gz").unlink()
    assert needed_bytes(job.read_job(), Stage.CHECK, job) == 10 * len(content)


def test_errors_of_a_disk_are_told_from_others(tmp_path: Path):
    assert is_disk_trouble(OSError(errno.ENOSPC, "full"))
    assert is_disk_trouble(OSError(errno.EIO, "broken"))
    assert not is_disk_trouble(OSError(errno.ENOENT, "missing"))
    connection = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 4")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(10000))")
    assert is_disk_trouble(full.value)
    with pytest.raises(sqlite3.OperationalError) as wrong:
        connection.execute("SELEKT")
    assert not is_disk_trouble(wrong.value)
    connection.close()


def test_a_cache_on_a_share_that_went_away_stops_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stale(folder: Path) -> Path:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(folder))

    monkeypatch.setattr("appliance.upkeep.existing", stale)
    box = Box(tmp_path)
    box.drop("a.jsonl")
    assert box.ended(1).state is JobState.SUCCEEDED
    box.stop()
