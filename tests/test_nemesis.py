"""Somebody does everything wrong with the inbox at once, and somebody kills the intake: what was promised holds."""

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from appliance.job import Job, Outcome
from appliance.reception import SURVEYS_ABSENT, Reception
from appliance.settling import Rules
from tests.door import RECIPE, Door
from tests.test_crash import reopened, restart

SECRET = "the token nobody may see"
DEADLINE_SECONDS = 120.0
LONGEST_TURN_SECONDS = 1.0
RULES = Rules(quiet_seconds=0.3, pair_seconds=0.3, max_bytes=10**6)


class Nemesis(threading.Thread):
    """Writes, swaps, links and takes away. `whole` are contents that were finished, `sure` those that nobody undid."""

    def __init__(self, inbox: Path, rng: random.Random, *, seconds: float, flood: int) -> None:
        super().__init__(name="nemesis")
        self._inbox = inbox
        self._rng = rng
        self._end = time.monotonic() + seconds
        self._flood = flood
        self._count = 0
        self.whole: set[str] = set()
        self.sure: set[str] = set()
        self.errors: list[BaseException] = []

    def run(self) -> None:
        deeds = [
            self.write, self.write_slowly, self.write_zeros_first, self.replace, self.delete, self.rename, self.pipe,
            self.swap_for_a_link, self.forbid, self.touch, self.grow, self.link_twice, self.folder,
        ]  # fmt: skip
        try:
            self.flood()
            while time.monotonic() < self._end:
                self._rng.choice(deeds)()
                if self._rng.random() < 0.05:
                    self.take_the_inbox_away()
                time.sleep(self._rng.uniform(0, 0.05))
        except BaseException as error:
            self.errors.append(error)

    def content(self) -> str:
        self._count += 1
        rows = [json.dumps({"text": f"{self._count}-{row} {'x' * self._rng.randrange(200)}"}) for row in range(9)]
        return "\n".join(rows) + "\n"

    def name(self) -> Path:
        return self._inbox / f"{self._count}-{self._rng.randrange(10**9)}.jsonl"

    def put(self, path: Path, *, sure: bool = True) -> None:
        content = self.content()
        hidden = path.with_name(f".{path.name}")
        hidden.write_text(content)
        self.whole.add(content)
        if sure:
            self.sure.add(content)
        hidden.rename(path)

    def write(self) -> None:
        self.put(self.name())

    def flood(self) -> None:
        for _ in range(self._flood):
            self.put(self.name())

    def write_slowly(self) -> None:
        content = self.content()
        self.whole.add(content)
        self.sure.add(content)
        with self.name().open("w", buffering=1) as file:
            # Never a whole line: the intake must not take a part that looks whole.
            for start in range(0, len(content), 97):
                file.write(content[start : start + 97])
                file.flush()
                if self._rng.random() < 0.2:
                    time.sleep(0.05)

    def write_zeros_first(self) -> None:
        content = self.content()
        self.whole.add(content)
        self.sure.add(content)
        with self.name().open("wb") as file:
            file.truncate(len(content))
            time.sleep(self._rng.uniform(0, 0.8))
            file.write(content.encode())

    def replace(self) -> None:
        path = self.name()
        self.put(path, sure=False)
        time.sleep(self._rng.uniform(0.2, 0.6))
        self.put(path)

    def delete(self) -> None:
        path = self.name()
        self.put(path, sure=False)
        time.sleep(self._rng.uniform(0.2, 0.6))
        path.unlink(missing_ok=True)

    def rename(self) -> None:
        path = self.name()
        self.put(path)
        time.sleep(self._rng.uniform(0.2, 0.6))
        if path.exists():
            try:
                path.rename(path.with_name(f"renamed-{path.name}"))
            except FileNotFoundError:
                return

    def pipe(self) -> None:
        os.mkfifo(self.name().with_suffix(".csv"))

    def swap_for_a_link(self) -> None:
        path = self.name()
        self.put(path, sure=False)
        time.sleep(self._rng.uniform(0.2, 0.5))
        link = path.with_name(f".link-{path.name}")
        link.symlink_to(self._inbox.parent / "secret")
        link.rename(path)

    def forbid(self) -> None:
        path = self.name()
        self.put(path)
        for mode in (0o000, 0o644):
            if path.exists():
                try:
                    path.chmod(mode)
                except FileNotFoundError:
                    return
            time.sleep(0.05)

    def touch(self) -> None:
        path = self.name()
        self.put(path)
        for _ in range(5):
            try:
                os.utime(path)
            except FileNotFoundError:
                return
            time.sleep(0.02)

    def grow(self) -> None:
        with self.name().with_suffix(".json").open("wb") as file:
            file.truncate(10**12)

    def link_twice(self) -> None:
        path = self.name()
        hidden = path.with_name(f".{path.name}")
        hidden.write_text(self.content())
        path.hardlink_to(hidden)

    def folder(self) -> None:
        folder = self.name().with_suffix("")
        hidden = folder.with_name(f".{folder.name}")
        hidden.mkdir()
        self.put(hidden / "train.jsonl")
        (hidden / "recipe.yaml").write_text(RECIPE)
        hidden.rename(folder)

    def take_the_inbox_away(self) -> None:
        away = self._inbox.with_name("away")
        self._inbox.rename(away)
        time.sleep(self._rng.uniform(0, 0.4))
        away.rename(self._inbox)


def besiege(root: Path, rng: random.Random, *, seconds: float, flood: int) -> None:
    door = Door(root)
    (root / "secret").write_text(SECRET)
    nemesis = Nemesis(door.inbox.path, rng, seconds=seconds, flood=flood)
    reception = Reception(door.inbox, door.store, door.places, RULES, scan_seconds=0.05)
    turns: list[float] = []

    def turn() -> bool:
        began = time.thread_time()
        news = reception.look(time.monotonic())
        reception.take_in(time.monotonic(), wall=time.time())
        turns.append(time.thread_time() - began)
        time.sleep(0.01)
        return news

    turn()
    while reception.last_scan is None:
        turn()
    nemesis.start()
    while nemesis.is_alive():
        turn()
    assert nemesis.errors == []
    quiet, taken = 0, -1
    while quiet < SURVEYS_ABSENT + 1 or not nemesis.sure <= accepted(door):
        # How long thousands of files take is the disk's to say, whether it goes on is ours.
        if door.store.highest_number() > taken:
            taken, end = door.store.highest_number(), time.monotonic() + DEADLINE_SECONDS
        assert time.monotonic() < end, ([drop.why for drop in reception.drops][:5], len(reception.drops))
        news = turn()
        quiet = 0 if reception.busy or reception.drops else quiet + news
    reception.close()
    assert max(turns) < LONGEST_TURN_SECONDS
    hold_the_promises(door, nemesis)


def jobs_of(door: Door) -> list[Job]:
    return door.store.recent_jobs(10**6)


def contents(door: Door, job: Job) -> list[str]:
    paths = [door.dir(job).path / file.path for file in job.files if file.name.endswith("jsonl")]
    return [path.read_text() for path in paths]


def accepted(door: Door) -> set[str]:
    return {text for job in jobs_of(door) if job.outcome is None for text in contents(door, job)}


def hold_the_promises(door: Door, nemesis: Nemesis) -> None:
    jobs = jobs_of(door)
    taken = [text for job in jobs if job.outcome is None for text in contents(door, job)]
    assert len(taken) == len(set(taken)), "a drop became two jobs"
    assert set(taken) <= nemesis.whole, "half a file was taken"
    assert nemesis.sure <= set(taken), "a drop was lost"
    assert sorted(path.name for path in door.places.jobs.iterdir()) == sorted(job.id for job in jobs)
    assert list(door.places.incoming.iterdir()) == []
    kept = {os.fsdecode(key.path) for key in door.store.unremoved() if key.kept}
    left = set(door.inbox.listing())
    assert kept <= left
    # The inbox may be taken away between the last file of a folder and the folder: the board lists what is empty.
    assert all(os.listdir(door.inbox.path / path) == [] for path in left - kept), left - kept
    assert all(path.endswith(".json") for path in kept), "only what is too large stays"
    assert not any(SECRET.encode() in path.read_bytes() for path in door.places.state.rglob("*") if path.is_file()), (
        "a link was opened"
    )
    refused = [job for job in jobs if job.outcome is Outcome.REJECTED]
    assert len({job.files for job in refused if job.files}) == len([job for job in refused if job.files])


@pytest.mark.timeout(400)
def test_a_nemesis_breaks_no_promise(tmp_path: Path, rng: random.Random):
    besiege(tmp_path, rng, seconds=20.0, flood=100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_nemesis_breaks_no_promise_in_two_minutes_and_five_thousand_files(tmp_path: Path, rng: random.Random):
    besiege(tmp_path, rng, seconds=120.0, flood=5000)


# Kills under a stream of drops


def drop_something(inbox: Path, rng: random.Random, number: int) -> None:
    """A single file, a pair or a folder, each file whole from the moment it is visible."""
    row = json.dumps({"text": f"drop {number}"}) + "\n"
    kind = rng.choice(["single", "pair", "folder"])
    if kind == "folder":
        hidden = inbox / f".f{number}"
        hidden.mkdir()
        (hidden / "train.jsonl").write_text(row)
        (hidden / "recipe.yaml").write_text(RECIPE)
        hidden.rename(inbox / f"f{number}")
        return
    if kind == "pair":
        (inbox / f"p{number}.yaml").write_text(RECIPE)
    hidden = inbox / f".{number}.jsonl"
    hidden.write_text(row)
    hidden.rename(inbox / f"{kind[0]}{number}.jsonl")


def serve_until_killed(root: Path) -> None:
    """The intake of a start, for ever, in this process."""
    door = reopened(root)
    for unfinished in door.places.incoming.iterdir():
        shutil.rmtree(unfinished)
    rules = Rules(quiet_seconds=0, pair_seconds=0)
    reception = Reception(door.inbox, door.store, door.places, rules, scan_seconds=0.005)
    while True:
        reception.look(1000.0 + time.monotonic())
        reception.take_in(1000.0 + time.monotonic(), wall=time.time())
        time.sleep(0.001)


def kill_again_and_again(root: Path, rng: random.Random, *, kills: int) -> None:
    Door(root).store.close()
    number = 0
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            try:
                serve_until_killed(root)
            finally:
                os._exit(70)
        for _ in range(rng.randrange(4)):
            number += 1
            drop_something(root / "inbox", rng, number)
            time.sleep(rng.uniform(0, 0.02))
        time.sleep(rng.uniform(0.02, 0.15))
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, "the intake failed by itself"
    door = restart(root)
    jobs = jobs_of(door)
    assert sorted(text for job in jobs for text in contents(door, job)) == sorted(
        json.dumps({"text": f"drop {n}"}) + "\n" for n in range(1, number + 1)
    )
    assert all(job.outcome is None for job in jobs)
    for job in jobs:
        assert (job.library_recipe is None) == (job.name[0] in "pf")
    assert sorted(path.name for path in door.places.jobs.iterdir()) == sorted(job.id for job in jobs)
    assert [path for path in door.inbox.listing() if "/" in path or "." in path] == []


def test_fifty_kills_under_a_stream_of_drops_lose_and_double_nothing(tmp_path: Path, rng: random.Random):
    kill_again_and_again(tmp_path, rng, kills=50)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_five_hundred_kills_under_a_stream_of_drops_lose_and_double_nothing(tmp_path: Path, rng: random.Random):
    kill_again_and_again(tmp_path, rng, kills=500)
