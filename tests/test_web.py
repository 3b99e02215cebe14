"""The HTTP port and the metrics on it, over a real socket."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.job import Job, JobState, move
from appliance.progress import Progress
from appliance.settling import Drop, DropState
from appliance.web.access import host_name
from appliance.web.app import make_app
from appliance.web.server import ListenError, WebServer, split_address
from tests.served import NOW, VIEW, Served


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path)
    yield site
    site.stop()


def test_alive_is_a_loop_that_turns(site: Served):
    assert site.client.get("/healthz").status == 200
    site.now = NOW + 61
    assert site.client.get("/healthz").status == 503


def test_ready_is_an_inbox_that_was_listed(site: Served):
    assert site.client.get("/readyz").status == 200
    site.view = replace(VIEW, ready=False)
    assert site.client.get("/readyz").status == 503


def test_a_foreign_host_name_is_refused(site: Served):
    assert site.client.get("/metrics", Host="evil.example").status == 421
    assert site.client.get("/metrics", Host="localhost:1234").status == 200


def test_the_host_is_read_with_and_without_a_port():
    assert [host_name(h) for h in ("A.b:80", "[::1]:80", "[::1]", "a")] == ["a.b", "::1", "::1", "a"]


def test_every_value_of_an_enumeration_is_exported_from_the_start(site: Served):
    assert site.sample("waiting", reason="gpu") == 0
    assert site.sample("verdicts_total", verdict="broken") == 0
    assert site.sample("inbox_rejections_total", reason="encoding") == 0
    assert site.sample("jobs", state="running", stage="train") == 0


def test_pending_drops_are_counted_by_what_they_wait_for(site: Served):
    site.view = replace(VIEW, drops=(Drop("a", (), DropState.SETTLING, since=40.0), Drop("b", (), DropState.READY)))
    assert site.sample("inbox_pending", state="settling") == 1
    assert site.sample("inbox_oldest_pending_timestamp_seconds") == NOW - 60


def test_series_of_a_job_vanish_a_quarter_of_an_hour_after_its_end(site: Served):
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


def test_a_histogram_is_cumulative(site: Served):
    for seconds in (0.2, 3.0, 10_000.0):
        site.store.observe("train_step_duration_seconds", seconds, (0.25, 5))
    assert site.sample("train_step_duration_seconds_bucket", le="0.25") == 1
    assert site.sample("train_step_duration_seconds_bucket", le="5.0") == 2
    assert site.sample("train_step_duration_seconds_count") == 3


def test_metrics_answer_while_the_database_is_written_to(site: Served):
    with site.store.transaction():
        site.store.count("train_steps_total")
        begun = time.monotonic()
        assert site.sample("train_steps_total") == 0
        assert time.monotonic() - begun < 5
    assert site.sample("train_steps_total") == 1


def test_an_address_that_is_taken_is_said_at_once(site: Served):
    host, port = site.server.address
    with pytest.raises(ListenError, match=str(port)) as caught:
        WebServer(make_app(site.site), f"{host}:{port}")
    assert caught.value.hint


@pytest.mark.parametrize("listen", ["8080", "localhost:", "localhost:99999", "localhost:http"])
def test_an_address_that_is_none_is_explained(listen: str):
    with pytest.raises(ListenError, match="APPLIANCE_LISTEN"):
        split_address(listen)
