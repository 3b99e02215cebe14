"""The HTTP port and the metrics on it, over a real socket."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.drops import Drop, DropState
from appliance.inbox import Availability
from appliance.job import Job, JobState, move
from appliance.metrics import make_registry
from appliance.progress import Progress
from appliance.store import Store
from appliance.view import View
from appliance.web.app import allowed_hosts, host_name, make_app
from appliance.web.server import ListenError, WebServer, split_address

NOW = 1_790_000_000.0
VIEW = View(NOW, 100.0, True, Availability.AVAILABLE, (), (), {}, NOW - 1, False)


class Site:
    """A served appliance without a loop: the test says how things stand."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "appliance.sqlite")
        self.view, self.now = VIEW, NOW
        registry = make_registry(self.store, lambda: self.view, lambda: self.now)
        app = make_app(lambda: self.view, registry, hosts=allowed_hosts("127.0.0.1", ()), clock=lambda: self.now)
        self.server = WebServer(app, "127.0.0.1:0")
        self.server.start()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        host, port = self.server.address
        request = urllib.request.Request(f"http://{host}:{port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def sample(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == f"appliance_{name}" and sample.labels == labels:
                    return sample.value
        return None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.server.stop()


def test_alive_is_a_loop_that_turns(site: Site):
    assert site.get("/healthz")[0] == 200
    site.now = NOW + 61
    assert site.get("/healthz")[0] == 503


def test_ready_is_an_inbox_that_was_listed(site: Site):
    assert site.get("/readyz")[0] == 200
    site.view = replace(VIEW, ready=False)
    assert site.get("/readyz")[0] == 503


def test_a_foreign_host_name_is_refused(site: Site):
    assert site.get("/metrics", Host="evil.example")[0] == 421
    assert site.get("/metrics", Host="localhost:1234")[0] == 200


def test_the_host_is_read_with_and_without_a_port():
    assert [host_name(h) for h in ("A.b:80", "[::1]:80", "[::1]", "a")] == ["a.b", "::1", "::1", "a"]


def test_every_value_of_an_enumeration_is_exported_from_the_start(site: Site):
    assert site.sample("waiting", reason="gpu") == 0
    assert site.sample("verdicts_total", verdict="broken") == 0
    assert site.sample("inbox_rejections_total", reason="encoding") == 0
    assert site.sample("jobs", state="running", stage="train") == 0


def test_pending_drops_are_counted_by_what_they_wait_for(site: Site):
    site.view = replace(VIEW, drops=(Drop("a", (), DropState.SETTLING, since=40.0), Drop("b", (), DropState.READY)))
    assert site.sample("inbox_pending", state="settling") == 1
    assert site.sample("inbox_oldest_pending_timestamp_seconds") == NOW - 60


def test_series_of_a_job_vanish_a_quarter_of_an_hour_after_its_end(site: Site):
    job = Job(7, "0007-support", "u", "support", JobState.QUEUED, NOW)
    site.store.add_job(job)
    site.view = replace(VIEW, trained={7: Progress(step=3, total_steps=9, loss=1.25)})
    assert site.sample("job_train_loss", job_id="7") == 1.25
    site.store.save(move(move(job, JobState.RUNNING), JobState.SUCCEEDED, finished=NOW))
    site.now = NOW + 15 * 60
    assert site.sample("job_state", job_id="7", state="succeeded") == 1
    site.now += 1
    assert site.sample("job_state", job_id="7", state="succeeded") is None
    assert site.sample("job_train_loss", job_id="7") is None


def test_a_histogram_is_cumulative(site: Site):
    for seconds in (0.2, 3.0, 10_000.0):
        site.store.observe("train_step_duration_seconds", seconds, (0.25, 5))
    assert site.sample("train_step_duration_seconds_bucket", le="0.25") == 1
    assert site.sample("train_step_duration_seconds_bucket", le="5.0") == 2
    assert site.sample("train_step_duration_seconds_count") == 3


def test_metrics_answer_while_the_database_is_written_to(site: Site):
    with site.store.transaction():
        site.store.count("train_steps_total")
        begun = time.monotonic()
        assert site.sample("train_steps_total") == 0
        assert time.monotonic() - begun < 5
    assert site.sample("train_steps_total") == 1


def test_an_address_that_is_taken_is_said_at_once(site: Site):
    host, port = site.server.address
    with pytest.raises(ListenError, match=str(port)) as caught:
        WebServer(
            make_app(lambda: VIEW, make_registry(site.store, lambda: VIEW, time.time), hosts=(), clock=time.time),
            f"{host}:{port}",
        )
    assert caught.value.hint


@pytest.mark.parametrize("listen", ["8080", "localhost:", "localhost:99999", "localhost:http"])
def test_an_address_that_is_none_is_explained(listen: str):
    with pytest.raises(ListenError, match="APPLIANCE_LISTEN"):
        split_address(listen)
