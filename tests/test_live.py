"""Events over a real socket: what changed comes by itself, and ends with the job."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.job import Job, JobState, Outcome, Stage
from appliance.progress import Progress
from appliance.running import Running
from appliance.web.live import MOST_WATCHERS
from tests.served import NOW, VIEW, Served

JOB = Job(7, "0007-support", "u", "support", JobState.RUNNING, NOW - 60, stage=Stage.TRAIN)
DONE = replace(JOB, state=JobState.SUCCEEDED, stage=None, outcome=Outcome.SUCCEEDED, finished=NOW)
SECONDS = 60


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path)
    site.add(JOB)
    (site.jobs / JOB.id / "train").mkdir()
    yield site
    site.stop()


class Stream:
    """A program that reads server-sent events."""

    def __init__(self, site: Served, path: str, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(*site.server.address, timeout=SECONDS)
        self._connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        self.response = self._connection.getresponse()

    def next(self) -> tuple[str, object]:
        """The next event and its data; `("", None)` once the stream has ended."""
        name, data = "", []
        while line := self.response.readline().decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif not line.strip() and name:
                return name, json.loads("\n".join(data))
        return "", None

    def close(self) -> None:
        self._connection.close()


def step(site: Served, number: int) -> None:
    event = {"time": NOW, "event": "step", "step": number, "loss": 1.0, "seconds": 1.0, "content_tokens": 9 * number}
    with (site.jobs / JOB.id / "train" / "progress.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def test_a_job_is_told_again_when_it_has_changed_and_its_steps_as_they_come(site):
    step(site, 1)
    stream = Stream(site, "/api/v1/jobs/7/events")
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    name, told = stream.next()
    assert (name, told["state"]) == ("job", "running")

    step(site, 2)
    assert stream.next()[1]["step"] == 2
    site.view = replace(VIEW, running=(Running(JOB, Stage.TRAIN, None, 0.0, Progress(step=2, total_steps=4)),))  # type: ignore[arg-type]
    assert stream.next()[1]["progress"]["step"] == 2

    site.store.save(DONE)
    assert stream.next()[1]["state"] == "succeeded"
    assert stream.next() == ("end", {})
    assert stream.next() == ("", None)
    stream.close()


def test_a_client_that_comes_back_gets_the_steps_that_it_missed(site):
    for number in (1, 2, 3):
        step(site, number)
    stream = Stream(site, "/api/v1/jobs/7/events", Last_Event_ID="1")
    assert [stream.next()[1]["step"] for _ in range(2)] == [2, 3]
    stream.close()


def test_a_page_gets_its_live_parts_anew(site):
    stream = Stream(site, "/live/board")
    name, [html] = stream.next()
    assert name == "html"
    assert "The queue is paused" not in html
    site.view = replace(VIEW, paused=True)
    assert "The queue is paused" in stream.next()[1][0]
    stream.close()


def test_more_than_there_is_room_for_are_told_to_wait(site):
    streams = [Stream(site, "/live/board") for _ in range(MOST_WATCHERS)]
    for stream in streams:
        stream.next()
    assert site.client.get("/live/board").status == 503
    for stream in streams:
        stream.close()
    deadline = time.monotonic() + SECONDS
    while True:
        again = Stream(site, "/live/board")
        if again.response.status == 200:
            break
        assert time.monotonic() < deadline, "those who left still count"
        again.close()
        time.sleep(0.05)
    again.close()


def test_a_client_that_does_not_read_holds_up_nobody(site):
    lazy = socket.create_connection(site.server.address)
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    lazy.sendall(b"GET /live/board HTTP/1.1\r\nHost: localhost\r\n\r\n")
    stream = Stream(site, "/live/board")
    stream.next()
    for paused in (True, False, True):
        site.view = replace(VIEW, paused=paused)
        assert stream.next()[0] == "html"
    lazy.close()
    stream.close()


def test_the_server_ends_while_somebody_watches(site):
    stream = Stream(site, "/live/board")
    stream.next()
    began = time.monotonic()
    site.server.stop()
    assert time.monotonic() - began < SECONDS
    stream.close()
