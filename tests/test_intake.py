"""Intake: a drop becomes one job, whatever dies in between, and nobody is led astray by links."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.copying import ChangedWhileCopying, copy_in
from appliance.drops import Drop, DropState, Kind, Rules, find_drops, observe
from appliance.inbox import Availability, Ending, Inbox
from appliance.intake import Places, record, settle_orphan
from appliance.job import Job, JobState, Outcome, Role, Stage, move
from appliance.job_dir import JobDir
from appliance.store import Store

RULES = Rules(quiet_seconds=0, pair_seconds=0, recipe_folders=frozenset({"demo"}))
RECIPE = "base_model: demo\n"


class Bench:
    """An inbox, a store and the folders between them."""

    def __init__(self, root: Path) -> None:
        for name in ("inbox", "outbox", "recipes", "state/incoming", "state/jobs"):
            (root / name).mkdir(parents=True)
        (root / "recipes" / "default.yaml").write_text(RECIPE)
        (root / "recipes" / "demo.yaml").write_text(RECIPE)
        self.inbox = Inbox(root / "inbox", "installation")
        self.store = Store(root / "state" / "appliance.sqlite")
        self.places = Places(root / "state", root / "outbox", root / "recipes")

    def put(self, name: str, content: str | bytes = '{"text": "a"}\n') -> Path:
        path = self.inbox.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def drops(self, **wanted: str) -> list[Drop]:
        listing = self.inbox.listing()
        sightings = observe({}, listing, now=0.0)
        endings = {path: self.inbox.ending(path) for path, entry in listing.items() if entry.kind is Kind.FILE}
        return find_drops(sightings, now=1000.0, rules=RULES, endings=endings, wanted=wanted)

    def take_in(self, drop: Drop, *, max_bytes: float = 1e9) -> list[Job]:
        copied = copy_in(self.inbox, drop, self.inbox.listing(), self.places.incoming, max_bytes=max_bytes)
        return record(copied, inbox=self.inbox, store=self.store, places=self.places, now=100.0)

    def dir(self, job: Job) -> JobDir:
        return JobDir(self.places.jobs / job.id)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_drop_becomes_one_job_and_leaves_the_inbox(bench: Bench):
    bench.put("support.jsonl")
    (drop,) = bench.drops()
    (job,) = bench.take_in(drop)

    assert (job.id, job.library_recipe, job.state) == ("0001-support", "default", JobState.QUEUED)
    assert (bench.dir(job).dropped / "support.jsonl").read_text() == '{"text": "a"}\n'
    assert bench.dir(job).read_job() == job == bench.store.job(1)
    assert bench.drops() == []
    assert list(bench.places.incoming.iterdir()) == []


def test_numbers_go_on_above_what_stands_in_the_outbox(bench: Bench):
    (bench.places.outbox / "0041-old.failed").mkdir()
    bench.put("a.jsonl")
    (job,) = bench.take_in(bench.drops()[0])
    assert job.number == 42


def test_two_recipes_for_one_dataset_become_two_jobs(bench: Bench):
    bench.put("a.jsonl")
    bench.put("a.yaml", RECIPE)
    bench.put("b.yaml", "base_model: demo\nlora: {r: 8}\n")
    (drop,) = bench.drops(**{"b.yaml": "a.jsonl"})
    first, second = bench.take_in(drop)

    assert [job.id for job in (first, second)] == ["0001-a", "0002-b"]
    assert [file.name for file in second.files] == ["a.jsonl", "b.yaml"]
    assert bench.drops() == []


def test_a_drop_in_a_recipe_folder_freezes_that_recipe(bench: Bench):
    bench.put("demo/a.jsonl")
    (job,) = bench.take_in(bench.drops()[0])
    (bench.places.recipes / "demo.yaml").write_text("base_model: other\n")
    assert bench.dir(job).library_recipe.read_text() == RECIPE


def test_a_folder_drop_takes_the_empty_folder_away(bench: Bench):
    bench.put("support/train.jsonl")
    bench.put("support/eval.jsonl")
    (job,) = bench.take_in(bench.drops()[0])
    assert {file.role for file in job.files} == {Role.DATASET, Role.EVAL}
    assert not (bench.inbox.path / "support").exists()


def test_the_same_bytes_are_refused_while_the_first_job_waits_and_welcome_after_it_ended(bench: Bench):
    bench.put("a.jsonl")
    (first,) = bench.take_in(bench.drops()[0])
    bench.put("b.jsonl")
    (second,) = bench.take_in(bench.drops()[0])
    assert second.outcome is Outcome.REJECTED
    assert "0001-a" in bench.dir(second).problems(Stage.CHECK)[0].message

    bench.store.save(move(move(first, JobState.RUNNING), JobState.FAILED, finished=1.0))
    bench.put("c.jsonl")
    (third,) = bench.take_in(bench.drops()[0])
    assert third.outcome is None


def test_a_file_that_changes_after_it_was_listed_is_not_taken(bench: Bench):
    path = bench.put("a.jsonl")
    (drop,) = bench.drops()
    listing = bench.inbox.listing()
    path.write_text('{"text": "longer than before"}\n')
    with pytest.raises(ChangedWhileCopying):
        copy_in(bench.inbox, drop, listing, bench.places.incoming, max_bytes=1e9)
    assert list(bench.places.incoming.iterdir()) == []
    assert path.exists()


def test_a_file_that_was_replaced_while_it_was_copied_stays_in_the_inbox(bench: Bench):
    bench.put("a.jsonl")
    (drop,) = bench.drops()
    copied = copy_in(bench.inbox, drop, bench.inbox.listing(), bench.places.incoming, max_bytes=1e9)
    bench.put("new", '{"text": "new"}\n').rename(bench.inbox.path / "a.jsonl")
    record(copied, inbox=bench.inbox, store=bench.store, places=bench.places, now=1.0)
    assert (bench.inbox.path / "a.jsonl").read_text() == '{"text": "new"}\n'


def test_a_link_is_never_opened_through(bench: Bench, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("the token")
    (bench.inbox.path / "a.jsonl").symlink_to(secret)
    (job,) = bench.take_in(bench.drops()[0])

    assert job.outcome is Outcome.REJECTED
    assert job.files == ()
    assert secret.read_text() == "the token"
    assert bench.drops() == []
    assert b"the token" not in b"".join(p.read_bytes() for p in bench.places.jobs.rglob("*") if p.is_file())


def test_a_folder_swapped_for_a_link_is_not_followed(bench: Bench, tmp_path: Path):
    bench.put("support/a.jsonl")
    (drop,) = bench.drops()
    listing = bench.inbox.listing()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(bench.inbox.path / "support", elsewhere)
    (bench.inbox.path / "support").symlink_to(elsewhere)
    copied = copy_in(bench.inbox, drop, listing, bench.places.incoming, max_bytes=1e9)
    assert copied.files == ()
    assert [problem.code for problem in copied.problems] == ["unreadable"]


def test_a_pipe_does_not_hang_the_intake(bench: Bench):
    os.mkfifo(bench.inbox.path / "a.jsonl")
    (job,) = bench.take_in(bench.drops()[0])
    assert job.outcome is Outcome.REJECTED
    assert bench.drops() == []


def test_a_file_over_the_limit_is_refused_and_left_where_it_is(bench: Bench):
    path = bench.put("a.jsonl")
    (job,) = bench.take_in(bench.drops()[0], max_bytes=5)
    assert job.outcome is Outcome.REJECTED
    assert path.exists()
    (key,) = bench.store.unremoved()[os.fsencode("a.jsonl")]
    assert key.kept


@pytest.mark.parametrize(
    "name", ["a\nb.jsonl", "-rf.jsonl", "\u202egpj.jsonl", "x" * 249 + ".jsonl", b"\xff\xfe.jsonl"]
)
def test_odd_names_are_data(bench: Bench, name: str | bytes):
    raw = os.fsencode(name)
    (bench.inbox.path / os.fsdecode(raw)).write_text('{"text": "a"}\n')
    (job,) = bench.take_in(bench.drops()[0])
    assert job.outcome is None
    assert job.id.isascii()
    assert (bench.dir(job).path / job.files[0].path).read_text() == '{"text": "a"}\n'
    assert bench.drops() == []


def test_an_orphan_whose_sources_still_lie_in_the_inbox_never_happened(bench: Bench):
    path = bench.put("a.jsonl")
    listing = bench.inbox.listing()
    (job,) = bench.take_in(bench.drops()[0])
    # As a crash between the rename and the transaction leaves it: a directory without a row, the source in place.
    orphan = bench.places.jobs / "0009-a"
    (bench.places.jobs / job.id).rename(orphan)
    path.write_text('{"text": "a"}\n')
    entry = listing["a.jsonl"]
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
    source = replace(job.files[0], inode=path.stat().st_ino)
    JobDir(orphan).write_job(replace(job, number=9, id="0009-a", uuid="other", files=(source,)))

    assert settle_orphan(orphan, inbox=bench.inbox, store=bench.store) is None
    assert not orphan.exists()


def test_an_orphan_that_is_the_only_copy_becomes_a_job(bench: Bench):
    bench.put("a.jsonl")
    (job,) = bench.take_in(bench.drops()[0])
    orphan = bench.places.jobs / "0009-a"
    (bench.places.jobs / job.id).rename(orphan)
    JobDir(orphan).write_job(replace(job, number=9, id="0009-a", uuid="other"))

    assert settle_orphan(orphan, inbox=bench.inbox, store=bench.store) is not None
    assert bench.store.job(9) is not None


def test_a_missing_sentinel_is_written_again_in_the_same_directory_only(bench: Bench, tmp_path: Path):
    inbox = bench.inbox
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


def test_an_inbox_of_another_appliance_is_foreign_until_it_is_taken_over(bench: Bench):
    bench.put(".appliance", "somebody-else\n")
    assert bench.inbox.availability() is Availability.FOREIGN
    bench.inbox.take_over()
    assert bench.inbox.availability() is Availability.AVAILABLE


@pytest.mark.parametrize(
    ("name", "content", "ending"),
    [
        ("a.jsonl", b'{"a": 1}\n', Ending.CLOSED),
        ("a.jsonl", b'{"a": 1}', Ending.CLOSED),
        ("a.jsonl", b'{"a": 1}\n{"a": ', Ending.OPEN_LINE),
        ("a.jsonl", b'{"a": 1}\n\0\0\0', Ending.NUL_BYTES),
        ("a.jsonl", b"", Ending.CLOSED),
        ("a.json", b'[{"a": 1}', Ending.OPEN_LINE),
        ("a.json", b'[{"a": 1}]\n', Ending.CLOSED),
        ("a.yaml", b"base_model: de", Ending.CLOSED),
    ],
)
def test_the_end_of_a_file_tells_whether_it_is_whole(bench: Bench, name: str, content: bytes, ending: Ending):
    bench.put(name, content)
    assert bench.inbox.ending(name) is ending


def test_a_ready_drop_is_ready(bench: Bench):
    bench.put("a.jsonl")
    assert [drop.state for drop in bench.drops()] == [DropState.READY]
