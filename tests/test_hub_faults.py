"""Every fault that the Hub, the network or this machine can have while a push is under way: state, class, and an end.

Each row is one fault and how an attempt ends under it: `pushed`, `pending` (tried again by itself) or `blocked` (needs
a person), with its class. Afterwards the fault is over, and the next push ends in one repository with the right files.
"""

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from appliance.hub import parcel as parcels
from appliance.hub.connection import NotTheHub
from appliance.hub.faults import explain
from appliance.hub.push import XetBroken
from appliance.pushing import PushError
from tests.local_hub import Asked, LocalHub
from tests.published import WRITE, Published, Pusher, holds_exactly

pytest_plugins = "tests.hub_fixtures"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

# Nobody waits longer than this for an answer of a Hub that is silent; the whole attempt must end within LIMIT_SECONDS.
PATIENCE_SECONDS = 1.0
# Of one that answers: only this machine may be slow.
MUCH_PATIENCE_SECONDS = 30.0
LIMIT_SECONDS = 60.0

JSON = {"Content-Type": "application/json"}
HOUR = 3600


def status(code: int, text: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = b'{"error": "%s"}' % text.encode()
    return code, {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}, body


CREATE, INFO, PREUPLOAD, COMMIT, TREE = "/repos/create", "/api/models/", "/preupload/", "/commit/", "/tree/"
BATCH, STORAGE, VERIFY, XET, WHO, CARD = "/objects/batch", "/storage/", "/verify/", "xet-write-token", "whoami", "yaml"
IN_PROGRESS = status(409, "Cannot create repo: another conflicting operation is in progress")


@dataclass(frozen=True)
class Row:
    """One fault: what breaks, and how the attempt ends."""

    name: str
    ends: str
    method: str = "POST"
    path: str = COMMIT
    do: object = "drop"
    first: int = 1
    times: int = 10**9
    xet: bool = False
    tries: int = 1


ROWS = (
    # Replies that are lost, and answers that do not come.
    Row("commit applied, reply lost", "pushed", do="apply, drop", times=1),
    Row("commit applied, reply lost, over xet", "pushed", do="apply, drop", times=1, xet=True),
    Row("commit applied, reply is a proxy's 502", "pending server", do=status(502), times=1),
    Row("create applied, reply lost", "pending network", path=CREATE, do="apply, drop", times=1),
    Row("upload applied, reply lost", "pending network", "PUT", STORAGE, "apply, drop"),
    Row("connection reset at the first look", "pending network", "GET", INFO),
    Row("connection reset at the commit", "pending network"),
    Row("connection reset in mid-upload", "pending network", "PUT", STORAGE),
    Row("connection reset in mid-upload once", "pushed", "PUT", STORAGE, times=1, tries=2),
    Row("connection reset at the comparison", "pending network", "GET", TREE, first=2),
    Row("silent at the first look", "pending network", "GET", INFO, "silent"),
    Row("silent at the second look", "pending network", "GET", INFO, "silent", first=2),
    Row("silent at the comparison", "pending network", "GET", TREE, "silent"),
    Row("silent at whoami", "pending network", "GET", WHO, "silent"),
    Row("silent at create", "pending network", path=CREATE, do="silent"),
    Row("silent at preupload", "pending network", path=PREUPLOAD, do="silent"),
    Row("silent at the storage", "pending network", "PUT", STORAGE, "silent"),
    Row("silent at the commit", "pending network", do="silent"),
    # Answers that are not the Hub's.
    Row("a captive portal everywhere", "pending network", "GET", INFO, "html"),
    Row("a captive portal at the commit", "pending network", do="html"),
    Row("a captive portal at the storage", "pending network", "PUT", STORAGE, "html"),
    Row("200 with rubbish at the first look", "pending server", "GET", INFO, (200, JSON, b"<html>")),
    Row("200 with rubbish at the commit", "pending server", do=(200, JSON, b"rubbish")),
    Row("200 with half an answer at preupload", "pending other", path=PREUPLOAD, do=(200, JSON, b'{"files": []}')),
    # The Hub says no.
    Row("400 at the commit", "blocked other", do=status(400, "bad")),
    Row("401 at the first look", "blocked auth", "GET", INFO, status(401, "Invalid credentials")),
    Row("401 in mid-push: token revoked", "blocked auth", do=status(401, "Invalid credentials")),
    Row("401 at the storage's batch", "blocked auth", path=BATCH, do=status(401)),
    Row("402 at create", "blocked quota", path=CREATE, do=status(402, "Payment required")),
    Row("403 at create", "blocked auth", path=CREATE, do=status(403, "You don't have the rights")),
    Row("403 at the commit", "blocked auth", do=status(403, "Forbidden")),
    Row("403 because the storage is full", "blocked quota", do=status(403, "Private repository storage limit reached")),
    Row("413 at the commit", "blocked other", do=status(413, "too large")),
    Row("413 at the storage", "blocked other", "PUT", STORAGE, status(413)),
    Row("422 at preupload", "blocked other", path=PREUPLOAD, do=status(422)),
    Row(
        "400 to the card",
        "blocked other",
        path=CARD,
        do=(400, JSON, b'{"errors": [{"message": "no"}], "warnings": []}'),
    ),
    # Somebody else is there.
    Row("409 at create, for ever", "pending conflict", path=CREATE, do=IN_PROGRESS),
    Row("409 at the commit", "pending conflict", do=status(409, "conflict")),
    Row("412 for ever", "pending conflict", do=status(412, "A commit has happened since")),
    Row("412 once", "pushed", do=status(412, "A commit has happened since"), times=1),
    Row("404 at the commit: deleted meanwhile", "pending conflict", do=status(404, X_Error_Code="RepoNotFound")),
    # The Hub is overloaded or broken.
    Row("429 with a huge Retry-After", "pending rate_limited", path=PREUPLOAD, do=status(429, Retry_After="864000")),
    Row("429 at the first look", "pending rate_limited", "GET", INFO, status(429)),
    Row("429 with a date", "pending rate_limited", do=status(429, Retry_After="Fri, 27 Nov 2099 10:00:00 GMT")),
    Row("500 at the first look", "pending server", "GET", INFO, status(500)),
    Row("500 at preupload twice", "pushed", path=PREUPLOAD, do=status(500), times=2, tries=3),
    Row("500 at preupload for ever", "pending server", path=PREUPLOAD, do=status(500)),
    Row("500 at the commit once", "pending server", do=status(500), times=1),
    Row(
        "503 with Retry-After at the storage",
        "pending server",
        "PUT",
        STORAGE,
        status(503, Retry_After="9999"),
        tries=3,
    ),
    Row("502 at whoami", "pending server", "GET", WHO, status(502)),
    Row("500 at verify", "pending server", path=VERIFY, do=status(500)),
    Row("504 at the tree", "pending server", "GET", TREE, status(504)),
    # Xet.
    Row("xet token 500", "xet", "GET", XET, status(500), xet=True),
    Row("xet token 401", "xet", "GET", XET, status(401), xet=True),
    Row("xet store away", "xet", "GET", XET, status(200), xet=True),
)


def outcome(push: Callable[[], object]) -> tuple[str, PushError | None]:
    """How an attempt ends, in the words of the table."""
    try:
        push()
    except XetBroken:
        return "xet", None
    except Exception as error:
        told = explain(error)
        assert WRITE not in told.message
        return f"{'blocked' if told.blocked else 'pending'} {told.result}", told
    return "pushed", None


def ends_well(hub: LocalHub, pusher: Pusher, published: Published) -> None:
    """With the fault gone, the next push ends in the one repository with the right files."""
    hub.faults.clear()
    hub.released.set()
    pusher.push(published, xet=False)
    assert list(hub.repos) == [published.errand.repository]
    holds_exactly(hub, published.errand.repository, published)
    assert len(hub.repos[published.errand.repository].log) == 2, "one commit of the Hub's and one of ours"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_fault_ends_as_the_table_says(hub, pusher, published, row):
    hub.fault(row.method, row.path, row.do, first=row.first, times=row.times)
    began = time.monotonic()
    patience = PATIENCE_SECONDS if row.do == "silent" else MUCH_PATIENCE_SECONDS
    found, error = outcome(lambda: pusher.push(published, xet=row.xet, seconds=patience, tries=row.tries))
    assert found == row.ends, error and error.message
    assert time.monotonic() - began < LIMIT_SECONDS
    assert hub.faults[0].seen >= row.first, "the fault was never met"
    if error is not None and error.blocked:
        assert error.hint
    ends_well(hub, pusher, published)


def test_there_are_enough_rows_with_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 40


def test_a_creation_in_progress_is_not_asked_about_in_a_loop(hub, pusher, published):
    hub.fault("POST", CREATE, IN_PROGRESS)
    outcome(lambda: pusher.push(published, tries=3))
    assert len(hub.asked("POST", CREATE)) == 1


def test_a_wait_that_the_hub_asks_for_is_told_and_not_slept(hub, pusher, published):
    hub.fault("POST", PREUPLOAD, status(429, Retry_After="120"))
    _, error = outcome(lambda: pusher.push(published, tries=3))
    assert error.retry_after == 120
    assert len(hub.asked("POST", PREUPLOAD)) == 1


# Where no Hub answers at all


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://no-such-host.invalid", "cannot be reached: its name was not found"),
        ("http://127.0.0.1:1", "cannot be reached: it refused the connection"),
        ("TLS", "no secure connection to the Hub: "),
    ],
)
def test_no_name_no_port_no_tls(hub, pusher, published, monkeypatch, endpoint, says):
    url = hub.url.replace("http:", "https:") if endpoint == "TLS" else endpoint
    monkeypatch.setattr(LocalHub, "url", url)
    found, error = outcome(lambda: pusher.push(published, seconds=10.0))
    assert (found, says in error.message) == ("pending network", True)


def test_an_error_among_its_own_causes_is_explained_all_the_same():
    error, cause = httpx.ConnectError("[Errno 5] odd"), ValueError()
    error.__cause__, cause.__context__ = cause, error
    assert explain(error).message == "the Hub cannot be reached: odd"


# The repository goes away between two calls


def test_a_repository_deleted_between_any_two_calls_is_made_anew(hub, pusher, published):
    pusher.push(published, xet=False)
    calls = len(hub.requests)
    for number in range(1, calls):
        hub.repos.clear()
        hub.requests.clear()
        gone = []

        def delete(at: int, asked: Asked, done: bool, number: int = number, gone: list[int] = gone) -> None:
            if done and at >= number and not gone and hub.repos:
                hub.repos.clear()
                gone.append(at)

        hub.watch = delete
        found, _ = outcome(lambda: pusher.push(published, xet=False))
        assert found in ("pending conflict", "pushed"), number
        hub.watch = lambda number, asked, done: None
        if found != "pushed" or gone:
            ends_well(hub, pusher, published)


# This machine


@contextlib.contextmanager
def failing_copies(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The copies of the parcel fail with `number`, as on a full disk."""

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(parcels.shutil, "rmtree", lambda *args, **kwargs: None)
        patch.setattr(parcels.Path, "open", fail)
        yield


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "the push met a fault")])
def test_a_disk_that_is_full_or_broken_is_told_and_passes(hub, pusher, published, monkeypatch, number, says):
    with failing_copies(number, monkeypatch):
        found, error = outcome(lambda: pusher.push(published))
    assert (found, says in error.message) == ("pending other", True)
    assert hub.requests == []
    ends_well(hub, pusher, published)


# What is told


def test_what_the_hub_said_is_quoted_short_and_on_one_line(hub, pusher, published):
    hub.fault("POST", COMMIT, status(403, "No." + " really" * 100))
    _, error = outcome(lambda: pusher.push(published, xet=False))
    assert re.fullmatch(r"the token may not write there \(403\): No\. really .{100,190}…", error.message)


def test_an_answer_that_is_not_the_hubs_is_told_as_such():
    error = explain(NotTheHub("portal.hotel answered with a web page"))
    assert "this is not the Hub: portal.hotel" in error.message
    assert "Sign in" in (error.hint or "")
