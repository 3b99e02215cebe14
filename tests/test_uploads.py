"""Uploads become drops like any other, whole or not at all, and cost no memory."""

import hashlib
import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.job import JobState
from appliance.web.uploads import MOST_FILES, remove_unfinished
from tests.served import API_TOKEN, Answer, Served, file_part, form_part
from tests.waiting import until
from tests.whole import Whole

BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
ROWS = b'{"text": "a"}\n' * 1000
SECONDS = 60


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path, api_token=API_TOKEN, max_drop_gb=0.001)
    yield site
    site.stop()


def names(folder: Path) -> list[str]:
    """Everything that lies in a folder, hidden or not."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_lie_in_the_inbox_under_their_names(site):
    answer = site.client.upload({"a.jsonl": ROWS, "a.yaml": b"base_model: demo\n"}, **BEARER)
    assert (answer.status, answer.json()) == (201, {"dropped": ["a.jsonl", "a.yaml"]})
    assert (site.inbox / "a.jsonl").read_bytes() == ROWS
    assert names(site.inbox) == ["a.jsonl", "a.yaml"]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"recipe": "demo"}, "demo/a.jsonl"),
        ({"check": "yes"}, "check/a.jsonl"),
        ({"recipe": "demo", "check": "yes"}, "check/demo/a.jsonl"),
        ({"recipe": ""}, "a.jsonl"),
    ],
)
def test_a_recipe_and_a_dry_run_are_folders_of_the_inbox(site, fields, place):
    assert site.client.upload({"a.jsonl": ROWS}, fields, **BEARER).json() == {"dropped": [place]}
    assert names(site.inbox) == [place]


def send(site: Served, *parts: tuple[str, str | bytes]) -> Answer:
    """A form of these parts in this order: fields are text, files are bytes."""
    body = b"".join(
        file_part("b", name, value) if isinstance(value, bytes) else form_part("b", name, value)
        for name, value in parts
    )
    kind = "multipart/form-data; boundary=b"
    return site.client.ask("POST", "/api/v1/drops", body + b"--b--\r\n", Content_Type=kind, **BEARER)


def test_fields_that_follow_the_files_hold_for_them_too(site):
    (site.inbox / "a.jsonl").write_text("somebody else's, and not in the way")
    answer = send(site, ("a.jsonl", ROWS), ("recipe", "demo"), ("b.jsonl", ROWS), ("check", "1"))
    assert answer.json() == {"dropped": ["check/demo/a.jsonl", "check/demo/b.jsonl"]}
    assert names(site.inbox) == ["a.jsonl", "check/demo/a.jsonl", "check/demo/b.jsonl"]


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([("a.jsonl", ROWS), ("recipe", "unknown")], 422),
        ([("a.jsonl", ROWS), ("recipes", "demo")], 400),
        ([("recipe", "demo"), ("a.jsonl", ROWS), ("recipe", "default"), ("b.jsonl", ROWS)], 400),
        ([("a.jsonl", ROWS), ("a.jsonl", ROWS)], 409),
    ],
)
def test_a_form_of_which_something_would_be_passed_over_is_refused_whole(site, parts, status):
    answer = send(site, *parts)
    assert (answer.status, names(site.inbox)) == (status, [])
    assert answer.json()["detail"]


@pytest.mark.parametrize("sent", ["C:\\Users\\me\\a.jsonl", "folder/a.jsonl", "../../a.jsonl", "/etc/a.jsonl"])
def test_only_the_last_part_of_a_name_counts(site, sent):
    assert site.client.upload({sent: ROWS}, **BEARER).json() == {"dropped": ["a.jsonl"]}


@pytest.mark.parametrize(
    ("files", "fields", "status"),
    [
        ({"..": ROWS}, {}, 422),
        ({".hidden.jsonl": ROWS}, {}, 422),
        ({"a.part": ROWS}, {}, 422),
        ({"x" * 250 + ".jsonl": ROWS}, {}, 422),
        ({"a.jsonl": ROWS}, {"recipe": "../.."}, 422),
        ({"a.jsonl": ROWS}, {"recipe": "x" * 5000}, 413),
        ({"a.jsonl": b"x" * 1_000_001}, {}, 413),
        ({f"{n}.jsonl": b"{}" for n in range(MOST_FILES + 1)}, {}, 413),
        ({}, {"recipe": "demo"}, 400),
    ],
)
def test_what_cannot_be_taken_is_explained_and_leaves_nothing(site, files, fields, status):
    answer = site.client.upload(files, fields, **BEARER)
    assert answer.status == status
    assert answer.json()["detail"]
    assert names(site.inbox) == []


def test_a_name_that_lies_there_already_is_not_replaced(site):
    (site.inbox / "a.jsonl").write_text("mine")
    assert site.client.upload({"b.jsonl": ROWS, "a.jsonl": ROWS}, **BEARER).status == 409
    assert names(site.inbox) == ["a.jsonl"]
    assert (site.inbox / "a.jsonl").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_replaced_either(site):
    (site.inbox / "a.jsonl").symlink_to(site.inbox / "nowhere")
    assert site.client.upload({"a.jsonl": ROWS}, **BEARER).status == 409
    assert (site.inbox / "a.jsonl").is_symlink()
    assert names(site.inbox) == []


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 415),
        ("multipart/form-data; boundary=b", b"nonsense", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data", 400),
        ("multipart/form-data; boundary=b", file_part("b", "a.jsonl", ROWS), 400),
    ],
)
def test_what_is_no_whole_form_is_refused(site, kind, body, status):
    assert site.client.ask("POST", "/api/v1/drops", body, Content_Type=kind, **BEARER).status == status
    assert names(site.inbox) == []


def test_a_person_uploads_with_the_proof_of_the_session(site):
    browser = site.browser(Accept="text/html")
    browser.log_in()
    assert browser.upload({"a.jsonl": ROWS}).status == 403
    assert browser.upload({"a.jsonl": ROWS}, {"csrf": "wrong"}).status == 403
    assert names(site.inbox) == []
    answer = browser.upload({"a.jsonl": ROWS}, {"csrf": browser.csrf("/inbox")})
    assert (answer.status, answer.headers["location"]) == (303, "/inbox")
    assert names(site.inbox) == ["a.jsonl"]


def test_the_form_on_the_page_sends_its_proof_before_its_files(site):
    browser = site.browser(Accept="text/html")
    browser.log_in()
    html = browser.get("/inbox").text
    assert html.index('name="csrf"', html.index('id="upload"')) < html.index('type="file"')


def test_an_upload_that_breaks_off_leaves_nothing(site):
    connection = http.client.HTTPConnection(*site.server.address, timeout=SECONDS)
    connection.putrequest("POST", "/api/v1/drops")
    for name, value in {**BEARER, "Content-Type": "multipart/form-data; boundary=b", "Content-Length": "90000"}.items():
        connection.putheader(name, value)
    connection.endheaders(file_part("b", "a.jsonl", ROWS))
    until(lambda: names(site.inbox) != [])
    assert "a.jsonl" not in names(site.inbox)
    connection.close()
    until(lambda: names(site.inbox) == [])


def test_what_the_end_of_the_daemon_cut_short_is_removed_at_the_next_start(site):
    (site.inbox / ".upload-0.partial").touch()
    (site.inbox / ".partial").touch()
    remove_unfinished(site.inbox)
    assert names(site.inbox) == [".partial"]


def test_an_inbox_that_cannot_be_written_is_said(site):
    site.inbox.rmdir()
    answer = site.client.upload({"a.jsonl": ROWS}, **BEARER)
    assert answer.status == 503
    assert "inbox cannot be written" in answer.json()["detail"]


def test_an_uploaded_file_goes_all_the_way(tmp_path):
    whole = Whole(tmp_path)
    assert whole.client.upload({"support.jsonl": b'{"train": ""}\n'}, **BEARER).status == 201
    assert whole.box.ended().state is JobState.SUCCEEDED
    assert names(whole.box.outbox / "0001-support" / "dropped") == ["support.jsonl"]
    whole.stop()


def send_large(address: tuple[str, int], size: int) -> tuple[int, str]:
    """Upload `size` bytes piece by piece. Returns the status and the file's SHA-256."""
    piece, digest = os.urandom(1 << 20).hex().encode()[: 1 << 20], hashlib.sha256()
    head, tail = form_part("b", "check", "") + file_part("b", "big.jsonl", b"")[:-2], b"\r\n--b--\r\n"
    connection = http.client.HTTPConnection(*address, timeout=600)
    connection.putrequest("POST", "/api/v1/drops")
    length = str(len(head) + size + len(tail))
    for name, value in {**BEARER, "Content-Type": "multipart/form-data; boundary=b", "Content-Length": length}.items():
        connection.putheader(name, value)
    connection.endheaders(head)
    for _ in range(size >> 20):
        connection.send(piece)
        digest.update(piece)
    connection.send(tail)
    status = connection.getresponse().status
    connection.close()
    return status, digest.hexdigest()


@pytest.mark.parametrize("megabytes", [64, pytest.param(1024, marks=pytest.mark.soak)])
def test_a_large_upload_keeps_memory_flat(tmp_path, megabytes):
    site = Served(tmp_path, api_token=API_TOKEN)
    send_large(site.server.address, 1 << 20)
    (site.inbox / "big.jsonl").unlink()
    process, highest, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def measure() -> None:
        while not done.wait(0.01):
            highest[0] = max(highest[0], process.memory_info().rss)

    thread = threading.Thread(target=measure)
    thread.start()
    status, sha256 = send_large(site.server.address, megabytes << 20)
    done.set()
    thread.join()
    assert status == 201
    with (site.inbox / "big.jsonl").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
    # The client's piece is in this process too.
    assert highest[0] - before < 16 << 20
    site.stop()
