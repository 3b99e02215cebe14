"""Intake: a drop becomes one job, whatever dies in between, and nobody is led astray by links."""

import gzip
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.copying import ChangedWhileCopying, copy_in
from appliance.inbox import Availability
from appliance.intake import settle_orphan
from appliance.job import JobState, Outcome, Role, Stage, move
from appliance.job_dir import JobDir
from appliance.places import highest_number
from appliance.settling import DropState
from appliance.sightings import Ending
from tests.door import RECIPE, Door


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_a_drop_becomes_one_job_and_leaves_the_inbox(door: Door):
    door.put("support.jsonl")
    (drop,) = door.drops()
    (job,) = door.take_in(drop)

    assert (job.id, job.library_recipe, job.state) == ("0001-support", "default", JobState.QUEUED)
    assert (door.dir(job).dropped / "support.jsonl").read_text() == '{"text": "a"}\n'
    assert door.dir(job).read_job() == job == door.store.job(1)
    assert door.drops() == []
    assert list(door.places.incoming.iterdir()) == []


def test_numbers_go_on_above_what_stands_in_the_outbox(door: Door):
    (door.places.outbox / "0041-old.failed").mkdir()
    (door.places.outbox / f"{'9' * 25}-a").mkdir()
    door.store.use_up(highest_number(door.places.outbox))
    door.put("a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    assert job.number == 42


def test_two_recipes_for_one_dataset_become_two_jobs(door: Door):
    door.put("a.jsonl")
    door.put("a.yaml", RECIPE)
    door.put("b.yaml", "base_model: demo\nlora: {r: 8}\n")
    (drop,) = door.drops(**{"b.yaml": "a.jsonl"})
    first, second = door.take_in(drop)

    assert [job.id for job in (first, second)] == ["0001-a", "0002-b"]
    assert [file.name for file in second.files] == ["a.jsonl", "b.yaml"]
    assert door.drops() == []


def test_what_could_not_be_recorded_leaves_no_copy_behind(door: Door):
    door.put("a.jsonl")
    (drop,) = door.drops()
    door.store.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        door.take_in(drop)
    door.store.connection.execute("PRAGMA query_only = OFF")
    assert list(door.places.incoming.iterdir()) == []
    # It was renamed into place: only the next look tells whether it was committed.
    assert [path.name for path in door.places.jobs.iterdir()] == ["0001-a"]


def test_what_could_not_be_made_a_job_leaves_no_copy_behind(door: Door):
    """The first of its two jobs is whole when the second cannot be made."""
    door.put("a.jsonl")
    door.put("a.yaml", RECIPE)
    door.put("b.yaml", RECIPE)
    (drop,) = door.drops(**{"b.yaml": "a.jsonl"})
    copied = door.copy(drop)
    (copied.staging / "dropped" / "b.yaml").unlink()
    with pytest.raises(FileNotFoundError):
        door.record(copied)
    assert list(door.places.incoming.iterdir()) == []
    assert list(door.places.jobs.iterdir()) == []


def test_a_drop_in_a_recipe_folder_freezes_that_recipe(door: Door):
    door.put("demo/a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    (door.places.recipes / "demo.yaml").write_text("base_model: other\n")
    assert door.dir(job).library_recipe.read_text() == RECIPE


def test_a_folder_drop_takes_the_empty_folder_away(door: Door):
    door.put("support/train.jsonl")
    door.put("support/eval.jsonl")
    (job,) = door.take_in(door.drops()[0])
    assert {file.role for file in job.files} == {Role.DATASET, Role.EVAL}
    assert not (door.inbox.path / "support").exists()


def test_the_same_bytes_are_refused_while_the_first_job_waits_and_welcome_after_it_ended(door: Door):
    door.put("a.jsonl")
    (first,) = door.take_in(door.drops()[0])
    door.put("b.jsonl")
    (second,) = door.take_in(door.drops()[0])
    assert second.outcome is Outcome.REJECTED
    assert "0001-a" in door.dir(second).problems(Stage.CHECK)[0].message
    assert "0001-a" in (door.dir(second).outcome() or {})["message"]

    door.store.save(move(move(first, JobState.RUNNING), JobState.FAILED, finished=1.0))
    door.put("c.jsonl")
    (third,) = door.take_in(door.drops()[0])
    assert third.outcome is None


def test_a_file_that_changes_after_it_was_listed_is_not_taken(door: Door):
    path = door.put("a.jsonl")
    (drop,) = door.drops()
    listing = door.inbox.listing()
    path.write_text('{"text": "longer than before"}\n')
    with pytest.raises(ChangedWhileCopying):
        copy_in(door.inbox, drop, listing, door.places.incoming, max_bytes=1e9)
    assert list(door.places.incoming.iterdir()) == []
    assert path.exists()


def test_a_file_that_was_replaced_while_it_was_copied_stays_in_the_inbox(door: Door):
    door.put("a.jsonl")
    (drop,) = door.drops()
    copied = door.copy(drop)
    door.put("new", '{"text": "new"}\n').rename(door.inbox.path / "a.jsonl")
    door.record(copied)
    assert (door.inbox.path / "a.jsonl").read_text() == '{"text": "new"}\n'


def test_a_link_is_never_opened_through(door: Door, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("the token")
    (door.inbox.path / "a.jsonl").symlink_to(secret)
    (job,) = door.take_in(door.drops()[0])

    assert job.outcome is Outcome.REJECTED
    assert job.files == ()
    assert secret.read_text() == "the token"
    assert door.drops() == []
    assert b"the token" not in b"".join(p.read_bytes() for p in door.places.jobs.rglob("*") if p.is_file())


def test_a_folder_swapped_for_a_link_is_not_followed(door: Door, tmp_path: Path):
    door.put("support/a.jsonl")
    (drop,) = door.drops()
    listing = door.inbox.listing()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(door.inbox.path / "support", elsewhere)
    (door.inbox.path / "support").symlink_to(elsewhere)
    with pytest.raises(ChangedWhileCopying):
        copy_in(door.inbox, drop, listing, door.places.incoming, max_bytes=1e9)
    assert list(door.places.incoming.iterdir()) == []
    assert not any(path.startswith("support/") for path in door.inbox.listing())


def test_a_file_renamed_while_it_is_copied_is_taken_once_under_its_new_name(door: Door):
    path = door.put("a.jsonl")
    (drop,) = door.drops()
    listing = door.inbox.listing()
    path.rename(door.inbox.path / "b.jsonl")
    with pytest.raises(ChangedWhileCopying):
        copy_in(door.inbox, drop, listing, door.places.incoming, max_bytes=1e9)
    assert [drop.name for drop in door.drops()] == ["b"]


def test_a_link_in_the_place_of_a_temporary_file_is_not_written_through(door: Door, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (door.inbox.path / f"..appliance.{os.getpid()}.tmp").symlink_to(victim)
    assert door.inbox.availability() is Availability.AVAILABLE
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "binary"])
def test_a_sentinel_that_is_none_hangs_and_fools_nobody(door: Door, tmp_path: Path, kind: str):
    sentinel = door.inbox.path / ".appliance"
    match kind:
        case "pipe":
            os.mkfifo(sentinel)
        case "folder":
            sentinel.mkdir()
        case "link":
            (tmp_path / "x").write_text("installation\n")
            sentinel.symlink_to(tmp_path / "x")
        case "binary":
            sentinel.write_bytes(b"\xff" * 5000)
    assert door.inbox.availability() is not Availability.AVAILABLE


def test_two_names_that_look_the_same_are_two_files(door: Door):
    (door.inbox.path / "f").mkdir()
    raw = os.fsencode(door.inbox.path / "f")
    for name in (b"\xff.jsonl", b"\\xff.jsonl"):
        Path(os.fsdecode(raw + b"/" + name)).write_text('{"text": "a"}\n')
    (job,) = door.take_in(door.drops()[0])
    assert len({file.path for file in job.files}) == 2
    assert job.outcome is Outcome.REJECTED


def test_times_beyond_all_reason_are_only_numbers(door: Door):
    path = door.put("a.jsonl")
    os.utime(path, ns=(0, 2**63 - 1))
    (job,) = door.take_in(door.drops()[0])
    assert job.outcome is None
    assert door.drops() == []


def test_a_file_that_another_program_still_writes_is_known(door: Door):
    path = door.put("a.jsonl")
    with path.open("ab"):
        assert door.inbox.held_open("a.jsonl")
    assert not door.inbox.held_open("a.jsonl")
    assert not door.inbox.held_open("gone.jsonl")


def test_a_pipe_does_not_hang_the_intake(door: Door):
    os.mkfifo(door.inbox.path / "a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    assert job.outcome is Outcome.REJECTED
    assert door.drops() == []


def test_a_file_over_the_limit_is_refused_and_left_where_it_is(door: Door):
    path = door.put("a.jsonl")
    (job,) = door.take_in(door.drops()[0], max_bytes=5)
    assert job.outcome is Outcome.REJECTED
    assert path.exists()
    (key,) = door.store.unremoved()
    assert (key.path, key.kept) == (b"a.jsonl", True)


@pytest.mark.parametrize(
    "name", ["a\nb.jsonl", "-rf.jsonl", "\u202egpj.jsonl", "x" * 249 + ".jsonl", b"\xff\xfe.jsonl"]
)
def test_odd_names_are_data(door: Door, name: str | bytes):
    raw = os.fsencode(name)
    (door.inbox.path / os.fsdecode(raw)).write_text('{"text": "a"}\n')
    (job,) = door.take_in(door.drops()[0])
    assert job.outcome is None
    assert job.id.isascii()
    assert (door.dir(job).path / job.files[0].path).read_text() == '{"text": "a"}\n'
    assert door.drops() == []


def test_an_orphan_whose_sources_still_lie_in_the_inbox_never_happened(door: Door):
    path = door.put("a.jsonl")
    listing = door.inbox.listing()
    (job,) = door.take_in(door.drops()[0])
    # As a crash between the rename and the transaction leaves it: a directory without a row, the source in place.
    orphan = door.places.jobs / "0009-a"
    (door.places.jobs / job.id).rename(orphan)
    path.write_text('{"text": "a"}\n')
    entry = listing["a.jsonl"]
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
    source = replace(job.files[0], inode=path.stat().st_ino)
    JobDir(orphan).write_job(replace(job, number=9, id="0009-a", uuid="other", files=(source,)))

    assert settle_orphan(orphan, present=door.inbox.entry, store=door.store, incoming=door.places.incoming) is None
    assert not orphan.exists()


def test_an_orphan_that_was_half_removed_when_the_daemon_died_is_removed(door: Door):
    orphan = door.places.jobs / "0009-a"
    (orphan / "dropped").mkdir(parents=True)
    (orphan / "dropped" / "a.jsonl").write_text("{}")
    settle_orphan(orphan, present=door.inbox.entry, store=door.store, incoming=door.places.incoming)
    assert not orphan.exists()
    assert list(door.places.incoming.iterdir()) == []


def test_an_orphan_that_is_the_only_copy_becomes_a_job(door: Door):
    door.put("a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    orphan = door.places.jobs / "0009-a"
    (door.places.jobs / job.id).rename(orphan)
    JobDir(orphan).write_job(replace(job, number=9, id="0009-a", uuid="other"))

    assert settle_orphan(orphan, present=door.inbox.entry, store=door.store, incoming=door.places.incoming) is not None
    assert door.store.job(9) is not None


def test_an_orphan_that_became_a_job_has_its_twin_refused(door: Door):
    door.put("a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    door.store.delete_job(job.number)
    orphan = door.places.jobs / job.id
    assert settle_orphan(orphan, present=door.inbox.entry, store=door.store, incoming=door.places.incoming) == job
    door.put("b.jsonl")
    (second,) = door.take_in(door.drops()[0])
    assert second.outcome is Outcome.REJECTED
    assert job.id in door.dir(second).problems(Stage.CHECK)[0].message


def test_a_missing_sentinel_is_written_again_in_the_same_directory_only(door: Door, tmp_path: Path):
    inbox = door.inbox
    assert inbox.availability() is Availability.AVAILABLE
    (inbox.path / ".appliance").unlink()
    assert inbox.availability() is Availability.AVAILABLE

    inbox.path.rename(tmp_path / "away")
    assert inbox.availability() is Availability.UNAVAILABLE
    inbox.path.mkdir()
    assert inbox.availability() is Availability.UNAVAILABLE
    inbox.path.rmdir()
    (tmp_path / "away").rename(inbox.path)
    assert inbox.availability() is Availability.AVAILABLE


def test_an_inbox_of_another_appliance_is_foreign_until_it_is_taken_over(door: Door):
    door.put(".appliance", "somebody-else\n")
    assert door.inbox.availability() is Availability.FOREIGN
    door.inbox.take_over()
    assert door.inbox.availability() is Availability.AVAILABLE


@pytest.mark.parametrize(
    ("name", "content", "ending"),
    [
        ("a.jsonl", b'{"a": 1}\n', Ending.CLOSED),
        ("a.jsonl", b'{"a": 1}', Ending.CLOSED),
        ("a.jsonl", b'{"a": 1}\n{"a": ', Ending.OPEN_LINE),
        ("a.jsonl", b'{"a": 1}\n\0\0\0', Ending.NUL_BYTES),
        # Their ordinary end, as long as they do not end in many.
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), Ending.CLOSED),
        ("a.csv", "\ufeffa,b\n".encode("utf-16-be"), Ending.CLOSED),
        ("a.jsonl", b"PK\x03\x04" + b"x" * 99 + b"\0\0", Ending.CLOSED),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16") + b"\0" * 64, Ending.NUL_BYTES),
        ("a.jsonl", b"", Ending.OPEN_LINE),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0), Ending.CLOSED),
        ("a.jsonl.gz", b"\x1f\x8b" + b"\0" * 200, Ending.NUL_BYTES),
        ("a.csv", b"a,b\n1,2\n", Ending.CLOSED),
        ("a.csv", b"a,b\n1,", Ending.OPEN_LINE),
        ("a.parquet", b"PAR1 and so on PAR1", Ending.CLOSED),
        ("a.parquet", b"PAR1 and so", Ending.OPEN_LINE),
        ("a.parquet", b"PAR1 and so" + b"\0" * 99, Ending.NUL_BYTES),
        ("a.json", b'[{"a": 1}', Ending.OPEN_LINE),
        ("a.json", b'[{"a": 1}]\n', Ending.CLOSED),
        ("a.yaml", b"base_model: de", Ending.CLOSED),
    ],
)
def test_the_end_of_a_file_tells_whether_it_is_whole(door: Door, name: str, content: bytes, ending: Ending):
    door.put(name, content)
    assert door.inbox.ending(name) is ending


def test_a_ready_drop_is_ready(door: Door):
    door.put("a.jsonl")
    assert [drop.state for drop in door.drops()] == [DropState.READY]
