"""SIGKILL of a push at every line and around every request: the next one ends in one repository with the right files.

`make test` takes a seeded sample, the long tier every point, in both repository styles.
"""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import files
from appliance.hub import connection, intentions, parcel, push, repository
from appliance.hub.push import Errand
from tests.crash import count_lines, crash_at
from tests.local_hub import Asked, LocalHub, serve
from tests.published import ORG, WRITE, Published, Pusher, holds_exactly, publish

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    # Newer Pythons warn of a fork beside the Hub's threads; the child only pushes, and dies.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

TRACED = (files, connection, intentions, parcel, push, repository)
SAMPLE = 8
STYLES: dict[str, Callable[[Published], Errand]] = {
    "a repository a job": lambda published: published.errand,
    "one repository, main": lambda published: published.shared(),
    "one repository, a branch": lambda published: published.shared("job-0007"),
}


class Bench:
    """A Hub, a result, and pushes of it that die."""

    def __init__(self, root: Path, hub: LocalHub, style: str, *, xet: bool) -> None:
        self.hub, self.xet, self.root = hub, xet, root
        self.pusher = Pusher(hub, root / "state")
        self.published = publish(root / "outbox")
        self.errand = STYLES[style](self.published)

    def push(self) -> None:
        self.pusher.push(self.published, self.errand, xet=self.xet)

    def start_over(self) -> None:
        self.hub.repos.clear()
        self.hub.objects.clear()
        self.hub.requests.clear()
        shutil.rmtree(self.root / "state", ignore_errors=True)

    def ends_well(self, where: str) -> None:
        """Push again, in a process of its own, and look."""
        self.hub.watch = lambda number, asked, done: None
        crash_at(0, TRACED, self.push)
        try:
            assert list(self.hub.repos) == [self.errand.repository]
            holds_exactly(self.hub, self.errand.repository, self.published, self.errand.branch)
            repo = self.hub.repos[self.errand.repository]
            assert len(repo.log) == 2, "one commit of the Hub's and one of ours"
            tags = {self.errand.tag: repo.branches[self.errand.branch]} if self.errand.tag else {}
            assert repo.tags == tags
            assert set(repo.branches) == {"main", self.errand.branch}
        except AssertionError as error:
            raise AssertionError(f"killed {where}: {error}") from error


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest):
    style, xet = request.param
    with serve() as hub:
        hub.user(WRITE, **{ORG: "write"})
        yield Bench(tmp_path, hub, style, xet=xet)


def crash_at_lines(bench: Bench, choose: Callable[[int], list[int]]) -> None:
    total = count_lines(TRACED, bench.push)
    assert total > 150
    for line in choose(total):
        bench.start_over()
        crash_at(line, TRACED, bench.push)
        bench.ends_well(f"at line {line} of {total}")


def crash_at_requests(bench: Bench, choose: Callable[[int], list[tuple[int, bool]]]) -> None:
    bench.start_over()
    crash_at(0, TRACED, bench.push)
    total = len(bench.hub.requests)
    assert total >= 12
    for number, applied in choose(total):
        bench.start_over()
        kill_at_request(bench, number, applied=applied)
        bench.ends_well(f"{'after' if applied else 'before'} request {number} of {total} was carried out")


def kill_at_request(bench: Bench, number: int, *, applied: bool) -> None:
    """Kill the push when its request arrives (nothing is done then), or when it is done and not answered."""
    begin, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(begin, 1)
        try:
            bench.push()
        finally:
            os._exit(0)

    def kill(at: int, asked: Asked, done: bool) -> None:
        if (at, done) == (number, applied):
            os.kill(pid, signal.SIGKILL)
            if not applied:
                raise ConnectionAbortedError("killed before it was carried out")

    bench.hub.watch = kill
    os.write(told, b"!")
    _, status = os.waitpid(pid, 0)
    os.close(begin)
    os.close(told)
    assert os.WIFSIGNALED(status), "it was not killed"


def every_request(total: int) -> list[tuple[int, bool]]:
    return [(number, applied) for number in range(1, total + 1) for applied in (False, True)]


SAMPLED = [("a repository a job", False), ("one repository, a branch", False)]
EVERYWHERE = [(style, xet) for style in STYLES for xet in (False, True)]


@pytest.mark.parametrize("bench", SAMPLED, indirect=True, ids=str)
def test_a_push_killed_at_a_line_is_done_by_the_next(bench: Bench, rng: random.Random):
    crash_at_lines(bench, lambda total: sorted(rng.sample(range(1, total + 1), SAMPLE)))


@pytest.mark.parametrize("bench", SAMPLED, indirect=True, ids=str)
def test_a_push_killed_around_a_request_is_done_by_the_next(bench: Bench, rng: random.Random):
    crash_at_requests(bench, lambda total: sorted(rng.sample(every_request(total), SAMPLE)))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bench", [(style, False) for style in STYLES], indirect=True, ids=str)
def test_a_push_killed_at_any_line_is_done_by_the_next(bench: Bench):
    crash_at_lines(bench, lambda total: list(range(1, total + 1)))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bench", EVERYWHERE, indirect=True, ids=str)
def test_a_push_killed_around_any_request_is_done_by_the_next(bench: Bench):
    crash_at_requests(bench, every_request)


@pytest.mark.parametrize("bench", SAMPLED[:1], indirect=True, ids=str)
def test_the_harness_sees_a_repository_that_is_made_before_the_intention_is_written(bench: Bench, monkeypatch):
    """A planted bug: create, then note. A kill in between blocks for ever, and the same harness must find it."""
    right = repository.Repository.create

    def forget_first(self: repository.Repository, *, private: bool) -> None:
        for noted in bench.pusher.intentions.folder.glob("*"):
            noted.unlink()
        right(self, private=private)
        bench.pusher.intentions.note(self.name)

    monkeypatch.setattr(repository.Repository, "create", forget_first)
    with pytest.raises(AssertionError, match="killed"):
        crash_at_requests(bench, lambda total: [(number, True) for number in range(1, 6)])
