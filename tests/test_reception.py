"""The reception: nothing that the inbox's file system does holds up the loop, and nothing is taken twice or never."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.copying import ChangedWhileCopying
from appliance.drops import find_drops
from appliance.inbox import Availability, Inbox
from appliance.intake import record
from appliance.job import JobState, Outcome, Stage
from appliance.job_dir import JobDir
from appliance.processes import stage_command
from appliance.reception import HUNG_SECONDS, SURVEYS_ABSENT, Reception
from appliance.settling import DropState, Rules
from appliance.sightings import Ending, Entry, Kind, Sighting
from appliance.survey import Surveyor
from tests.box import Box, fake_command
from tests.door import Door

DEADLINE_SECONDS = 60.0
FILE = Entry(Kind.FILE, size=10, mtime_ns=1, device=1, inode=1)


class HangingInbox(Inbox):
    """An inbox on a share that stops answering: the named calls block until `answers` is set, but never the loop."""

    def __init__(self, path: Path, installation: str, *hanging: str) -> None:
        super().__init__(path, installation)
        self.answers = threading.Event()
        self.answers.set()
        self.hangs = threading.Event()
        self._hanging = hanging

    def listing(self) -> dict[str, Entry]:
        self._wait("listing")
        return super().listing()

    def entry(self, path: str) -> Entry | None:
        self._wait("entry")
        return super().entry(path)

    def remove(self, path: str, entry: Entry) -> bool:
        self._wait("remove")
        return super().remove(path, entry)

    def open(self, path: str) -> int:
        self._wait("open")
        return super().open(path)

    def _wait(self, call: str) -> None:
        if call in self._hanging and not self.answers.is_set():
            assert threading.current_thread() is not threading.main_thread(), "the loop waits for the share"
            self.hangs.set()
            self.answers.wait(DEADLINE_SECONDS)


def on_a_share(box: Box, *hanging: str) -> HangingInbox:
    """Put the box's reception on a share that can hang."""
    appliance, old = box.appliance, box.appliance.reception
    inbox = HangingInbox(appliance.inbox.path, appliance.inbox.installation, *hanging)
    old.close()
    appliance.reception = Reception(inbox, appliance.store, appliance.places, old._rules, scan_seconds=0.02)
    return inbox


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop()


@pytest.mark.parametrize("call", ["listing", "open", "entry", "remove"])
def test_a_share_that_hangs_stops_neither_the_loop_nor_a_running_job(box: Box, call: str):
    inbox = on_a_share(box, call)
    box.drop("first.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    inbox.answers.clear()
    box.drop("second.jsonl")
    box.turn_until(inbox.hangs.is_set)
    for _ in range(50):
        box.tick()
        time.sleep(0.01)
    assert box.runs(Stage.TRAIN)
    box.appliance.store.ask("cancel", "1", now=time.time())
    assert box.ended(1).state is JobState.CANCELLED

    inbox.answers.set()
    assert box.ended(2).state is JobState.SUCCEEDED
    assert box.job(3) is None


def test_a_drop_is_asked_room_for_beside_those_that_are_being_copied(box: Box):
    inbox = on_a_share(box, "entry")
    asked: list[tuple[int, int]] = []
    box.appliance.reception._lacks_room_for = lambda size, copying: asked.append((size, copying))
    inbox.answers.clear()
    for name in ("a.jsonl", "b.jsonl"):
        (box.inbox / name).write_text('{"text": "row"}\n')
    box.turn_until(lambda: len(asked) == 2)
    inbox.answers.set()
    assert asked == [(16, 0), (16, 16)]


def test_a_hanging_listing_is_said_after_a_while_and_forgotten_when_it_answers(box: Box):
    inbox = on_a_share(box, "listing")
    box.turn_until(lambda: box.appliance.view.availability is Availability.AVAILABLE)
    inbox.answers.clear()
    box.turn_until(lambda: box.appliance.reception._survey is not None)
    box.shift += HUNG_SECONDS + 1
    box.turn_until(lambda: box.appliance.view.availability is Availability.UNAVAILABLE)
    inbox.answers.set()
    box.turn_until(lambda: box.appliance.view.availability is Availability.AVAILABLE)


def test_an_inbox_that_is_replaced_while_it_is_served_is_noticed(box: Box, tmp_path: Path):
    box.turn_until(lambda: box.appliance.reception.last_scan is not None)
    box.inbox.rename(tmp_path / "away")
    box.inbox.mkdir()
    (box.inbox / "stranger.jsonl").write_text('{"text": "of another inbox"}\n')
    box.turn_until(lambda: box.appliance.view.availability is Availability.UNAVAILABLE)
    for _ in range(20):
        box.tick()
    assert box.job(1) is None
    (tmp_path / "away" / "mine.jsonl").write_text('{"text": "a"}\n')
    box.inbox.rename(tmp_path / "other")
    (tmp_path / "away").rename(box.inbox)
    assert box.ended(1).files[0].name == "mine.jsonl"
    assert (tmp_path / "other" / "stranger.jsonl").exists()


def test_no_event_is_needed(box: Box):
    """As on a network mount: only the listing tells."""
    (box.inbox / "a.jsonl").write_text('{"text": "a"}\n')
    assert box.ended(1).state is JobState.SUCCEEDED


# What was taken, and what was not


class Turner:
    """A reception on a door, turned until something is so."""

    def __init__(self, root: Path, **rules: float) -> None:
        self.door = Door(root)
        self.rules = Rules(**{"quiet_seconds": 0, "pair_seconds": 0, **rules})  # type: ignore[arg-type]
        self.reception = Reception(self.door.inbox, self.door.store, self.door.places, self.rules, scan_seconds=0)
        self.shift = 0.0

    def turn(self, *, surveys: int = 1, until: Callable[[], bool] | None = None) -> None:
        """Turn until that many surveys were seen and it is so; by itself, until nothing is in hand."""
        end, seen = time.monotonic() + DEADLINE_SECONDS, 0
        while seen < surveys or not (until() if until else not self.reception.busy):
            assert time.monotonic() < end
            seen += self.reception.look(time.monotonic() + self.shift)
            self.reception.take_in(time.monotonic() + self.shift, wall=time.time())
            time.sleep(0.001)

    def jobs(self) -> list:
        return self.door.store.recent_jobs()[::-1]


def test_a_source_that_was_renamed_before_it_could_be_removed_is_no_second_job(tmp_path: Path):
    turner = Turner(tmp_path)
    turner.door.put("a.jsonl")
    (drop,) = turner.door.drops()
    copied = turner.door.copy(drop)
    record(copied, installation="x", store=turner.door.store, places=turner.door.places, now=1.0)
    (turner.door.inbox.path / "a.jsonl").rename(turner.door.inbox.path / "b.jsonl")
    turner.turn(surveys=4)
    assert [job.name for job in turner.jobs()] == ["a"]
    assert turner.door.drops() == []
    assert turner.door.store.unremoved() == []


def test_a_source_that_somebody_else_took_away_is_forgotten(tmp_path: Path):
    turner = Turner(tmp_path)
    path = turner.door.put("a.jsonl")
    (drop,) = turner.door.drops()
    copied = turner.door.copy(drop)
    record(copied, installation="x", store=turner.door.store, places=turner.door.places, now=1.0)
    path.unlink()
    turner.turn(surveys=SURVEYS_ABSENT + 1)
    assert turner.door.store.unremoved() == []


def test_a_source_that_somebody_takes_away_while_its_removal_hangs_is_forgotten(tmp_path: Path):
    turner = Turner(tmp_path)
    inbox = HangingInbox(turner.door.inbox.path, "x", "remove")
    inbox.answers.clear()
    turner.reception.inbox = inbox
    path = turner.door.put("a.jsonl")
    turner.turn(until=inbox.hangs.is_set)
    path.unlink()
    turner.turn(surveys=SURVEYS_ABSENT + 1, until=lambda: True)
    inbox.answers.set()
    turner.turn(surveys=SURVEYS_ABSENT + 1)
    assert turner.door.store.unremoved() == []


def test_a_file_that_grows_for_ever_is_refused_once(tmp_path: Path):
    turner = Turner(tmp_path, quiet_seconds=1000, max_bytes=1000)
    path = turner.door.inbox.path / "a.jsonl"
    for size in range(500, 5000, 500):
        with path.open("ab") as file:
            file.truncate(size)
        turner.turn(surveys=2)
    (job,) = turner.jobs()
    assert job.outcome is Outcome.REJECTED
    assert path.exists()


def test_what_could_not_be_read_is_taken_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    turner = Turner(tmp_path)
    turner.door.put("a.jsonl")
    right = Inbox.open

    def forbidden(self: Inbox, path: str) -> int:
        # Tests run as root, who may read everything.
        if path == "a.jsonl":
            raise PermissionError(13, "Permission denied")
        return right(self, path)

    monkeypatch.setattr(Inbox, "open", forbidden)
    turner.turn(surveys=4)
    assert [job.outcome for job in turner.jobs()] == [Outcome.REJECTED]
    monkeypatch.undo()
    turner.turn(surveys=4)
    assert [job.outcome for job in turner.jobs()] == [Outcome.REJECTED, None]
    assert turner.door.drops() == []


def test_a_file_that_cannot_be_deleted_is_one_job_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    turner = Turner(tmp_path)
    turner.door.put("a.jsonl")

    def refused(self: Inbox, path: str, entry: Entry) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Inbox, "remove", refused)
    for _ in range(5):
        turner.turn(surveys=2)
        turner.shift += 100.0
    assert len(turner.jobs()) == 1
    assert len([record for record in caplog.records if "cannot be removed" in record.message]) == 1
    monkeypatch.undo()
    turner.shift += 100.0
    turner.turn(surveys=3)
    assert not (turner.door.inbox.path / "a.jsonl").exists()


def test_a_folder_whose_files_could_not_be_removed_at_first_goes_with_them(tmp_path: Path, monkeypatch):
    turner = Turner(tmp_path, recipe_folders=frozenset({"chat"}))  # type: ignore[arg-type]
    inbox = turner.door.inbox.path
    for folder in ("together", "chat", "check/chat", "check/two"):
        (inbox / folder).mkdir(parents=True)
        (inbox / folder / "train.jsonl").write_text(f'{{"text": "{folder}"}}\n')

    def refused(self: Inbox, path: str, entry: Entry) -> bool:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "remove", refused)
        turner.turn(surveys=2, until=lambda: len(turner.jobs()) == 4)
        turner.turn(surveys=2)
    turner.shift += 100.0
    turner.turn(surveys=3)
    assert sorted(str(path.relative_to(inbox)) for path in inbox.rglob("[a-z]*")) == ["chat", "check", "check/chat"]


def test_one_busy_file_does_not_hold_up_another(tmp_path: Path):
    turner = Turner(tmp_path, quiet_seconds=0.2)
    with (turner.door.inbox.path / "busy.jsonl").open("ab") as busy:
        turner.door.put("calm.jsonl")
        end = time.monotonic() + DEADLINE_SECONDS
        while not turner.jobs():
            assert time.monotonic() < end
            busy.write(b"x")
            busy.flush()
            turner.turn()
    assert [job.name for job in turner.jobs()] == ["calm"]


def test_what_is_unfinished_and_still_open_is_waited_for(tmp_path: Path):
    turner = Turner(tmp_path)
    path = turner.door.inbox.path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": ')
        file.flush()
        turner.turn(surveys=2)
        turner.shift += 20 * 60.0
        turner.turn(surveys=3)
        assert turner.jobs() == []
        assert "still writes it" in turner.reception.drops[0].why
        file.write(b'"b"}\n')
    turner.turn(surveys=3)
    assert [job.files[0].bytes for job in turner.jobs()] == [path.stat().st_size if path.exists() else 28]


def test_a_placeholder_of_no_bytes_becomes_one_job_when_it_is_filled(tmp_path: Path):
    turner = Turner(tmp_path)
    path = turner.door.put("a.jsonl", b"")
    turner.turn(surveys=3)
    assert [drop.why for drop in turner.reception.drops] == ["it is empty so far; waits for the rest"]
    path.write_text('{"text": "a"}\n')
    turner.turn(surveys=3)
    assert [job.outcome for job in turner.jobs()] == [None]


def test_a_look_at_very_many_names_looks_into_few_at_a_time(tmp_path: Path):
    for number in range(1200):
        (tmp_path / f"{number}.jsonl").write_text('{"text": "a"}\n')
    surveyor = Surveyor(Inbox(tmp_path, "x"), Rules(quiet_seconds=0, pair_seconds=0))
    ready = []
    for look in range(3):
        drops = surveyor.look(1000.0 + 100 * look, []).drops
        ready.append(sum(drop.state is DropState.READY for drop in drops))
    assert ready == [500, 1000, 1200]


# What belongs together


def drops_of(*paths: str, wanted: dict[str, str | None] | None = None) -> list:
    sightings = {path: Sighting(FILE, since=0.0) for path in paths}
    rules = Rules(quiet_seconds=5, pair_seconds=10)
    endings = dict.fromkeys(paths, Ending.CLOSED)
    return find_drops(sightings, now=1000.0, rules=rules, endings=endings, wanted=wanted or {})


@pytest.mark.parametrize(
    ("dataset", "recipe"),
    [("Support.JSONL", "support.yaml"), ("u\u0308ber.jsonl", "\u00fcber.yaml"), ("STRASSE.jsonl", "straße.yaml")],
)
def test_names_that_differ_in_case_or_normal_form_find_each_other(dataset: str, recipe: str):
    (drop,) = drops_of(dataset, recipe)
    assert {path for path, _ in drop.files} == {dataset, recipe}


def test_a_name_that_could_mean_two_datasets_means_none():
    assert len(drops_of("A.jsonl", "a.jsonl", "ä.yaml")) == 3
    assert len(drops_of("SUPPORT.jsonl", "Support.jsonl", "support.yaml")) == 3


def test_a_recipe_names_its_dataset_in_any_normal_form():
    (drop,) = drops_of("u\u0308ber.jsonl", "r.yaml", wanted={"r.yaml": "\u00fcber.jsonl"})
    assert len(drop.files) == 2


def test_a_recipe_names_its_dataset_with_any_mark_in_it():
    (drop,) = drops_of("2026-11-27 12:30.jsonl", "r.yaml", wanted={"r.yaml": "2026-11-27 12:30.jsonl"})
    assert len(drop.files) == 2


def test_two_datasets_of_one_name_need_a_recipe_that_says_which():
    (both,) = drops_of("a.jsonl", "a.csv", "a.yaml")
    assert [problem.code for problem in both.problems] == ["several_datasets"]
    assert len(drops_of("a.jsonl", "a.csv")) == 2
    first, second = drops_of("a.jsonl", "a.csv", "a.yaml", wanted={"a.yaml": "a.csv"})
    assert sorted([len(first.files), len(second.files)]) == [1, 2]
    assert next(drop for drop in (first, second) if len(drop.files) == 2).files[0][0] == "a.csv"


def test_the_note_and_the_folders_are_no_reason_not_to_start(tmp_path: Path):
    box = Box(tmp_path)
    box.stop()
    (box.inbox / "default").rmdir()
    (box.inbox / "default").write_text("somebody's file")
    (box.inbox / "READ ME FIRST.txt").unlink()
    os.mkfifo(box.inbox / "READ ME FIRST.txt")
    box.start()
    box.drop("a.jsonl")
    box.turn_until(lambda: len([j for j in box.appliance.store.recent_jobs() if j.name == "a"]) == 1)
    box.stop()


# The library of recipes changes


def add_recipe(box: Box, name: str, text: str = "base_model: demo\nseed: 7\n") -> Path:
    path = box.settings.recipes / f"{name}.yaml"
    path.write_text(text)
    return path


def test_a_recipe_that_is_added_while_the_appliance_runs_has_its_folder_and_trains_what_is_dropped_there(box: Box):
    box.turn_until(lambda: box.appliance.reception.last_scan is not None)
    add_recipe(box, "mine")
    box.turn_until((box.inbox / "mine").is_dir)
    assert "     mine" in (box.inbox / "READ ME FIRST.txt").read_text().splitlines()
    for name in ("a", "b"):
        (box.inbox / "mine" / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    assert [box.ended(number).library_recipe for number in (1, 2)] == ["mine", "mine"]


def test_a_file_in_a_folder_made_by_hand_goes_with_the_recipe_that_was_there_before_it(box: Box):
    """Before the appliance has looked at the library again, too."""
    box.turn_until(lambda: box.appliance.reception.last_scan is not None)
    add_recipe(box, "mine")
    (box.inbox / "mine").mkdir(exist_ok=True)
    (box.inbox / "mine" / "a.jsonl").write_text('{"text": "a"}\n')
    assert box.ended().library_recipe == "mine"


def test_a_folder_that_becomes_that_of_a_recipe_while_it_is_copied_is_no_folder_drop(tmp_path: Path):
    turner = Turner(tmp_path)
    turner.door.put("mine/a.jsonl")
    (drop,) = turner.door.drops()
    with pytest.raises(ChangedWhileCopying):
        turner.door.copy(drop, is_recipe=lambda name: name == "mine")
    assert list(turner.door.places.incoming.iterdir()) == []
    (turner.door.places.recipes / "mine.yaml").write_text("base_model: demo\n")
    turner.turn(surveys=3)
    assert [job.library_recipe for job in turner.jobs()] == ["mine"]


def test_a_recipe_that_is_removed_takes_its_empty_folder_with_it_and_leaves_the_jobs_alone(box: Box):
    path = add_recipe(box, "mine")
    box.turn_until((box.inbox / "mine").is_dir)
    (box.inbox / "mine" / "a.jsonl").write_text('{"train": "sleep"}\n')
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    path.unlink()
    box.turn_until(lambda: not (box.inbox / "mine").exists())
    assert "mine" not in (box.inbox / "READ ME FIRST.txt").read_text()
    assert JobDir(box.appliance.places.jobs / "0001-a").library_recipe.read_text() == "base_model: demo\nseed: 7\n"


def test_what_is_dropped_for_a_recipe_that_went_is_not_trained_with_another(box: Box):
    path = add_recipe(box, "mine")
    box.turn_until((box.inbox / "mine").is_dir)
    # Ignored, but the folder is not empty.
    (box.inbox / "mine" / ".DS_Store").touch()
    path.unlink()
    box.turn_until(lambda: "mine" not in (box.inbox / "READ ME FIRST.txt").read_text())
    (box.inbox / "mine" / "a.jsonl").write_text('{"text": "a"}\n')
    job = box.ended()
    assert job.state is JobState.REJECTED
    assert "the library recipe mine.yaml cannot be read" in job.message


def test_a_library_that_cannot_be_seen_for_a_while_is_the_one_that_was_seen(box: Box, tmp_path: Path):
    box.turn_until(lambda: box.appliance.reception.last_scan is not None)
    box.settings.recipes.rename(tmp_path / "away")
    seen = box.appliance.reception.last_scan
    box.turn_until(lambda: box.appliance.reception.last_scan != seen)
    (tmp_path / "away").rename(box.settings.recipes)
    assert box.appliance.recipes == ("default",)
    assert (box.inbox / "default").is_dir()


# Buttons


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"  ", b"\xef\xbb\xbf"])
def test_a_button_may_hold_what_programs_put_into_empty_files(box: Box, content: bytes):
    (box.inbox / "queue.pause").write_bytes(content)
    box.turn_until(lambda: not (box.inbox / "queue.pause").exists())
    assert box.appliance.view.paused
    assert box.job(1) is None


@pytest.mark.parametrize("name", ["queue.pause", "queue.pause.txt", "QUEUE.Pause"])
def test_a_word_in_a_button_belongs_to_pressing_it(box: Box, name: str):
    (box.inbox / name).write_text("stop please\n")
    box.turn_until(lambda: not (box.inbox / name).exists())
    assert box.appliance.view.paused
    assert box.job(1) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [("0999-notes.cancel.txt", "important notes\n"), ("0003.retry", "rows" * 20), ("queue.pause", "rows" * 20)],
)
def test_a_file_with_content_is_no_button_and_comes_back(box: Box, name: str, content: str):
    (box.inbox / name).write_text(content)
    job = box.ended()
    assert (job.outcome, box.appliance.view.paused) == (Outcome.REJECTED, False)
    assert "buttons are empty" in job.message
    assert (box.outbox / f"{job.id}.rejected" / "dropped" / name).read_text() == content


def test_a_button_that_cannot_go_acts_once_whatever_the_share_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(inbox: Inbox, path: str, entry: Entry) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Inbox, "remove", refuse)
    box = Box(tmp_path, quiet_seconds=0.2)
    (box.inbox / "queue.pause").touch()
    box.turn_until(lambda: box.appliance.view.paused)
    box.appliance.store.ask("resume", "queue", now=0.0)
    box.turn_until(lambda: not box.appliance.view.paused)
    away = box.inbox.rename(box.inbox.with_name("away"))
    box.turn_until(lambda: box.appliance.reception.availability is not Availability.AVAILABLE)
    away.rename(box.inbox)
    # It has lain there for the quiet time again.
    box.turn_until(lambda: "queue.pause" in box.appliance.reception._seen.buttons)
    box.tick()
    assert not box.appliance.view.paused
    box.stop()


def test_a_library_whose_disk_is_away_stays_and_drops_are_taken(box: Box, monkeypatch: pytest.MonkeyPatch, caplog):
    def is_dir(path: Path) -> bool:
        if path == box.settings.recipes:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat.S_ISDIR(path.stat().st_mode)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    box.drop("a.jsonl")
    box.turn_until(lambda: box.job(1) is not None)
    assert box.appliance.recipes == ("default",)
    assert caplog.text.count("the library of recipes cannot be read") == 1


def test_a_button_that_is_still_being_written_does_not_act(tmp_path: Path):
    path = tmp_path / "queue.pause"
    path.touch()
    surveyor = Surveyor(Inbox(tmp_path, "x"), Rules(quiet_seconds=5, pair_seconds=10))
    assert surveyor.look(100.0, []).buttons == {}
    path.write_text("notes of a meeting" * 5)
    written = surveyor.look(106.0, [])
    assert (list(written.buttons), list(written.sightings)) == ([], ["queue.pause"])
    path.write_text("")
    assert [surveyor.look(time, []).buttons.keys() for time in (107.0, 120.0)] == [set(), {"queue.pause"}]


def test_a_link_that_is_called_like_a_button_is_rejected_like_any_link(box: Box):
    (box.inbox / "queue.pause").symlink_to("elsewhere")
    assert box.ended().outcome is Outcome.REJECTED
    assert not box.appliance.view.paused


# What is no drop


def test_a_folder_in_a_dropped_folder_is_left_where_it_is_and_that_is_said(box: Box):
    (box.inbox / ".new" / "more").mkdir(parents=True)
    (box.inbox / ".new" / "more" / "a.jsonl").write_text('{"text": "a"}\n')
    (box.inbox / ".new").rename(box.inbox / "deep")
    box.turn_until(lambda: bool(box.appliance.reception.drops))
    (problem,) = box.appliance.reception.drops[0].problems
    assert "left in the inbox with all that lies in it, as deep/more" in problem.message
    assert box.ended().outcome is Outcome.REJECTED
    assert (box.inbox / "deep" / "more" / "a.jsonl").exists()
    box.shift += 10.0
    board = box.outbox / "STATUS.md"
    box.turn_until(lambda: "`deep`: there are folders in this folder" in board.read_text())


def test_a_link_that_was_dropped_is_removed_and_that_is_said(box: Box):
    (box.inbox / "a.jsonl").symlink_to("elsewhere")
    assert "it was removed and does not come back" in box.ended().message
    box.turn_until(lambda: not (box.inbox / "a.jsonl").is_symlink())


@pytest.mark.parametrize("name", ["empty", "0004.cancel", "default/empty", "check/empty"])
def test_an_empty_folder_is_told_of_until_there_is_something_in_it(box: Box, name: str):
    (box.inbox / name).mkdir(parents=True)
    board = box.outbox / "STATUS.md"
    box.turn_until(lambda: board.exists() and f"`{name}`: this folder is empty" in board.read_text())
    box.drop(".a")
    (box.inbox / ".a").rename(box.inbox / name / "a.jsonl")
    box.ended()
    box.shift += 10.0
    box.turn_until(lambda: f"`{name}`" not in board.read_text())


def test_folders_of_recipes_and_of_dry_runs_are_no_matter(box: Box):
    (box.inbox / "check" / "default").mkdir(parents=True)
    box.turn_until(lambda: "check/default" in box.appliance.reception._seen.sightings)
    assert box.appliance.reception.idle == ()


def test_a_name_that_a_file_cannot_keep_stands_beside_what_came_back(tmp_path: Path):
    def really_published(stage: Stage, job: Path) -> list[str]:
        return stage_command(stage, job) if stage is Stage.PUBLISH else fake_command(stage, job)

    box = Box(tmp_path, command=really_published)
    (box.inbox / "-rf.txt").write_text("rows")
    job = box.ended()
    box.stop()
    result = box.outbox / f"{job.id}.rejected"
    assert (result / "dropped" / "rf.txt").read_text() == "rows"
    assert "`dropped/rf.txt`: as it was dropped; it was called -rf.txt" in (result / "WHY.md").read_text()
