"""The API over a real socket: what it tells, what it lets be asked for, and whom it refuses."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.job import DroppedFile, Job, JobState, Outcome, Push, Role, Stage, Waiting
from appliance.progress import Progress
from appliance.running import Running
from tests.served import API_TOKEN, NOW, READ_TOKEN, VIEW, Client, Served

JOB = Job(7, "0007-support", "u", "support", JobState.RUNNING, NOW - 60, stage=Stage.TRAIN, base_model="demo")
BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
READER = {"Authorization": f"Bearer {READ_TOKEN}"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path, api_token=API_TOKEN, read_token=READ_TOKEN, allowed_hosts=("spark.test",))
    site.add(JOB)
    yield site
    site.stop()


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Served]:
    """Without any token."""
    site = Served(tmp_path, allowed_hosts=("spark.test",))
    site.add(JOB)
    yield site
    site.stop()


def away(site: Served) -> Client:
    """Somebody on another machine: the name that they ask for is not loopback."""
    return site.browser(Host="spark.test")


def test_jobs_are_told_with_their_progress(site):
    progress = Progress(step=30, total_steps=90, loss=1.25, last_event=NOW)
    running = Running(JOB, Stage.TRAIN, None, began=40.0, progress=progress)  # type: ignore[arg-type]
    site.view = replace(VIEW, running=(running,))
    [told] = site.client.get("/api/v1/jobs").json()
    assert (told["id"], told["state"], told["stage"]) == ("0007-support", "running", "train")
    assert (told["progress"]["step"], told["progress"]["how_far"]) == (30, "step 30 of 90")
    assert told["progress"]["fraction"] == pytest.approx(1 / 3)
    assert told["actions"] == ["cancel"]
    for name in ("7", "0007", "0007-support"):
        assert site.client.get(f"/api/v1/jobs/{name}").json() == told


def test_jobs_can_be_chosen_by_state(site):
    site.add(replace(JOB, number=8, id="0008-a", uuid="v", state=JobState.QUEUED))
    assert [job["number"] for job in site.client.get("/api/v1/jobs").json()] == [8, 7]
    assert [job["number"] for job in site.client.get("/api/v1/jobs?state=running").json()] == [7]
    assert [job["number"] for job in site.client.get("/api/v1/jobs?limit=1").json()] == [8]
    for number in range(9, 20):
        site.add(replace(JOB, number=number, id=f"{number:04d}-a", uuid=str(number), state=JobState.QUEUED))
    assert [job["number"] for job in site.client.get("/api/v1/jobs?limit=1&state=running").json()] == [7]
    assert site.client.get("/api/v1/jobs?limit=0").status == 422


@pytest.mark.parametrize("name", ["8", "nonsense", "9" * 25, f"{'9' * 25}-support", "9" * 400, "..%2f..", "%00"])
def test_a_job_that_is_not_there(site, name):
    assert site.client.get(f"/api/v1/jobs/{name}").status in (404, 405)


def test_history_and_curves_are_told(site):
    site.store.note(7, "stage_started", now=NOW, stage="train")
    write_steps(site, 3)
    assert site.client.get("/api/v1/jobs/7/history").json()[0]["event"] == "stage_started"
    assert site.client.get("/api/v1/jobs/7/curves").json()["loss"] == [1.0, 0.5, pytest.approx(1 / 3)]


def write_steps(site: Served, count: int) -> None:
    folder = site.jobs / JOB.id / "train"
    folder.mkdir(exist_ok=True)
    events = [
        {"time": NOW, "event": "step", "step": n, "loss": 1 / n, "seconds": 1.0, "content_tokens": 100 * n}
        for n in range(1, count + 1)
    ]
    (folder / "progress.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.parametrize("action", ["cancel", "retry", "approve", "push"])
def test_an_action_is_written_down_for_the_loop(site, action):
    states = {
        "cancel": JOB,
        "retry": replace(JOB, state=JobState.FAILED, outcome=Outcome.FAILED),
        "approve": replace(JOB, state=JobState.QUEUED, waiting=Waiting.APPROVAL),
        "push": replace(JOB, state=JobState.SUCCEEDED, outcome=Outcome.SUCCEEDED, push=Push.BLOCKED),
    }
    site.store.save(states[action])
    site.site.settings.__dict__["hub_org"] = "acme"
    answer = site.client.post(f"/api/v1/jobs/7/{action}", **BEARER)
    assert (answer.status, answer.json()) == (202, {"asked": action, "target": "0007-support"})
    assert site.asked() == [(action, "7")]


ROWS = DroppedFile("a.jsonl", Role.DATASET, "dropped/a.jsonl", 2, "0" * 64, "", 0, 0, 0)


def test_a_job_is_trained_again_with_a_recipe_of_the_library(site):
    site.store.save(replace(JOB, state=JobState.SUCCEEDED, outcome=Outcome.SUCCEEDED, files=(ROWS,)))
    assert site.client.post("/api/v1/jobs/7/retry", **BEARER).status == 409
    assert site.client.post("/api/v1/jobs/7/retry?recipe=demo", **BEARER).status == 202
    (request,) = site.store.requests()
    assert (request.action, request.target, request.arguments) == ("retry", "7", {"library_recipe": "demo"})


@pytest.mark.parametrize(
    ("action", "recipe", "files", "status", "says"),
    [
        ("retry", "fast", (ROWS,), 422, "there is no recipe fast; known: default, demo"),
        ("retry", "../demo", (ROWS,), 422, "there is no recipe ../demo"),
        ("push", "demo", (ROWS,), 422, "push takes no recipe"),
        ("retry", "demo", (), 409, "has no rows of its own"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(site, action, recipe, files, status, says):
    site.store.save(replace(JOB, state=JobState.FAILED, outcome=Outcome.FAILED, files=files))
    answer = site.client.post(f"/api/v1/jobs/7/{action}?recipe={recipe}", **BEARER)
    assert (answer.status, says in answer.json()["detail"]) == (status, True), answer.text
    assert site.asked() == []


def test_the_page_of_an_ended_job_offers_the_recipes_and_its_form_acts(site):
    site.store.save(replace(JOB, state=JobState.SUCCEEDED, outcome=Outcome.SUCCEEDED, finished=NOW, files=(ROWS,)))
    assert "Train again" not in site.client.get("/jobs/7").text
    site.client.log_in()
    page = site.client.get("/jobs/7").text
    assert "<option>default</option>" in page
    form = {"csrf": site.client.csrf("/jobs/7"), "recipe": "demo"}
    assert site.client.post("/api/v1/jobs/7/retry", form | {"csrf": "0" * 64}, Accept="text/html").status == 403
    answer = site.client.post("/api/v1/jobs/7/retry", form, Accept="text/html")
    assert (answer.status, answer.headers["location"]) == (303, "/jobs/7")
    assert [request.arguments for request in site.store.requests()] == [{"library_recipe": "demo"}]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_the_queue_is_paused_and_resumed(site, action):
    assert site.client.post(f"/api/v1/queue/{action}", **BEARER).status == 202
    assert site.asked() == [(action, "queue")]


def test_what_makes_no_sense_is_refused(site):
    answer = site.client.post("/api/v1/jobs/7/retry", **BEARER)
    assert (answer.status, answer.json()) == (409, {"detail": "job 0007-support has not ended yet"})
    assert site.client.post("/api/v1/jobs/8/cancel", **BEARER).status == 404
    assert site.client.post("/api/v1/jobs/7/explode", **BEARER).status == 422
    assert site.asked() == []


@pytest.mark.parametrize("path", ["/api/v1/jobs/7/cancel", "/api/v1/queue/pause", "/api/v1/drops"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        (READER, 401),
        ({"Authorization": f"Basic {API_TOKEN}"}, 401),
        (BEARER | {"Origin": "http://evil.example"}, 403),
        (BEARER | {"Sec-Fetch-Site": "cross-site"}, 403),
        (BEARER | {"Host": "evil.example"}, 421),
    ],
)
def test_nobody_else_acts(site, path, headers, status):
    assert site.client.post(path, **headers).status == status
    assert site.asked() == []


def test_a_program_is_told_how_to_show_its_token(site):
    assert site.client.post("/api/v1/queue/pause").headers["www-authenticate"] == "Bearer"


def test_without_a_token_configured_every_action_is_refused(open_site):
    answer = open_site.client.post("/api/v1/queue/pause", Authorization="Bearer ")
    assert answer.status == 403
    assert "APPLIANCE_API_TOKEN_FILE" in answer.json()["detail"]


READABLE = ("/", "/jobs/7", "/inbox", "/system", "/docs", "/openapi.json", "/api/v1/jobs", "/api/v1/jobs/7")
READABLE += ("/api/v1/jobs/7/curves", "/api/v1/jobs/7/history", "/api/v1/jobs/7/events", "/live/board", "/live/jobs/7")
READABLE += ("/jobs/7/files/report.html", "/jobs/7/adapter.zip")


@pytest.mark.parametrize("path", READABLE)
def test_beyond_loopback_reading_needs_a_token(site, path):
    assert away(site).get(path).status == 401
    assert away(site).get(path, Accept="text/html").headers["location"].startswith("/login?next=/")


@pytest.mark.parametrize("path", [*READABLE, "/login", "/static/live.js"])
def test_beyond_loopback_nothing_is_there_without_a_read_token(open_site, path):
    assert away(open_site).get(path).status == 403
    assert away(open_site).get(path, Accept="text/html").text.startswith("beyond this machine nothing can be read")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_and_metrics_answer_everybody(open_site, path):
    assert away(open_site).get(path).status == 200


@pytest.mark.parametrize("headers", [BEARER, READER])
def test_a_token_opens_it(site, headers):
    assert away(site).get("/api/v1/jobs", **headers).status == 200


def test_on_loopback_reading_is_open(open_site):
    for path in ("/", "/jobs/7", "/inbox", "/system", "/docs", "/openapi.json", "/api/v1/jobs"):
        assert open_site.client.get(path).status == 200, path


def test_a_forwarded_request_is_not_from_this_machine(site):
    assert site.client.get("/api/v1/jobs", X_Forwarded_For="192.0.2.7").status == 401


def test_every_answer_forbids_what_the_pages_do_not_need(site):
    for path in ("/", "/api/v1/jobs", "/metrics", "/nothing", "/static/live.js"):
        headers = site.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_every_operation_is_documented(site):
    document = site.client.get("/openapi.json").json()
    page = site.client.get("/docs").text
    assert {path for path in document["paths"]} == {
        "/api/v1/jobs",
        "/api/v1/jobs/{id}",
        "/api/v1/jobs/{id}/history",
        "/api/v1/jobs/{id}/curves",
        "/api/v1/jobs/{id}/events",
        "/api/v1/jobs/{id}/{action}",
        "/api/v1/queue/{action}",
        "/api/v1/drops",
    }
    for path in document["paths"]:
        assert path in page
    assert "JobAnswer" in page
