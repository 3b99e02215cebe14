"""The served pages without scripts: what they show, logging in, and forms that only our own pages can send."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from appliance import outbox
from appliance.errors import Problem
from appliance.job import Job, JobState, Outcome, Stage, Verdict, Waiting, outbox_name
from appliance.job_dir import JobDir
from appliance.progress import Progress
from appliance.running import Running
from appliance.settling import Drop, DropState
from tests.page_reader import read_page
from tests.served import API_TOKEN, NOW, READ_TOKEN, VIEW, Served

JOB = Job(7, "0007-support", "u", "support", JobState.RUNNING, NOW - 60, stage=Stage.TRAIN, base_model="demo")
DONE = replace(
    JOB, state=JobState.SUCCEEDED, stage=None, outcome=Outcome.SUCCEEDED, finished=NOW, verdict=Verdict.IMPROVED
)
REJECTED = replace(JOB, state=JobState.REJECTED, stage=None, outcome=Outcome.REJECTED, finished=NOW)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp"
PAGES = ("/", "/jobs/7", "/inbox", "/system", "/docs", "/login")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path, api_token=API_TOKEN, read_token=READ_TOKEN, allowed_hosts=("spark.test",))
    site.add(JOB)
    yield site
    site.stop()


def publish(site: Served, job: Job, files: dict[str, str]) -> None:
    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)

    assert job.outcome is not None
    outbox.publish(site.outbox, outbox_name(job.id, job.outcome), job_uuid=job.uuid, fill=fill, facts=dict)
    site.store.save(job)


def log_of(site: Served, text: str) -> None:
    (site.jobs / JOB.id / "train").mkdir(exist_ok=True)
    (site.jobs / JOB.id / "train" / "stage.log").write_text(text)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_well_formed_and_fetches_only_from_here(site, path):
    page = read_page(site.client.get(path).text)
    assert page.unclosed == []
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    for element in page.elements:
        for name in ("src", "href", "action"):
            address = element.attributes.get(name) or "/"
            assert address.startswith(("/", "#")), (element.tag, address)
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
    assert all(script.attributes.get("src") for script in page.all("script"))


def test_the_board_shows_what_runs_waits_and_lies_in_the_inbox(site):
    running = Running(JOB, Stage.TRAIN, None, began=40.0, progress=Progress(step=30, total_steps=90, loss=1.25))  # type: ignore[arg-type]
    site.view = replace(
        VIEW, running=(running,), drops=(Drop("new", (), DropState.SETTLING, "is still being written"),)
    )
    waiting = {"waiting": Waiting.MEMORY, "waiting_detail": "needs 44 GB, 31 GB are free"}
    site.add(replace(JOB, number=8, id="0008-b", uuid="v", state=JobState.QUEUED, stage=None, **waiting))
    text = " ".join(read_page(site.client.get("/").text).text.split())
    for fact in ("0007-support is training", "Step 30 of 90", "needs 44 GB, 31 GB are free", "Is still being written"):
        assert fact in text


def test_pages_refresh_by_themselves_where_scripts_are_off(site):
    html = site.client.get("/").text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html
    assert 'data-stream="/live/board"' in html


def test_a_job_page_shows_curves_log_and_memory(site):
    events = [
        {"time": NOW, "event": "step", "step": n, "loss": 3 - n / 10, "seconds": 1.0, "content_tokens": 100 * n}
        for n in range(1, 11)
    ]
    log_of(site, "loaded the model\nstep 10\n")
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (site.jobs / JOB.id / "train" / "progress.jsonl").write_text(lines)
    site.view = replace(VIEW, running=(Running(JOB, Stage.TRAIN, None, began=40.0, progress=Progress(step=10)),))  # type: ignore[arg-type]
    page = read_page(site.client.get("/jobs/0007-support").text)
    text = " ".join(page.text.split())
    assert "Training loss: 2.900 at step 1 to 2.000 at step 10." in text
    assert "loaded the model step 10" in text
    assert re.search(r"are free; below [\d.]+ GB a training saves and stops", text)
    assert (page.all("polyline")[0].attributes["points"] or "").startswith("60.0,6.0")


def test_a_finished_job_offers_its_files_and_its_adapter_as_one(site):
    files = {"adapter/adapter_config.json": "{}", "adapter/README.md": "# card", "report.html": "<p>report</p>"}
    publish(site, DONE, files)
    page = read_page(site.client.get("/jobs/7").text)
    assert "/jobs/7/files/adapter/adapter_config.json" in page.links()
    assert "It fits your held-out rows better than the base does." in page.text
    report = site.client.get("/jobs/7/files/report.html")
    assert (report.text, report.headers["content-type"]) == ("<p>report</p>", "text/html; charset=utf-8")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "script" not in report.headers["content-security-policy"]
    archive = zipfile.ZipFile(BytesIO(site.client.get("/jobs/7/adapter.zip").body))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == {
        "0007-support/adapter_config.json": b"{}",
        "0007-support/README.md": b"# card",
    }


@pytest.mark.parametrize(
    "path",
    ["../../../etc/passwd", "..%2f..%2fsecret", "/etc/passwd", "adapter", "", "secret", "link", "report.html/", "%00"],
)
def test_only_what_the_manifest_names_is_given_out(site, path):
    publish(site, DONE, {"report.html": "x"})
    (site.outbox / "secret").write_text("secret")
    (site.outbox / DONE.id / "secret").write_text("secret")
    (site.outbox / DONE.id / "link").symlink_to("/etc/passwd")
    answer = site.client.get(f"/jobs/7/files/{path}")
    assert answer.status in (404, 307)
    assert b"secret" not in answer.body


def test_a_file_that_became_a_link_is_not_followed(site):
    publish(site, DONE, {"report.html": "x", "adapter/model": "y"})
    secret = site.outbox.parent / "secret"
    secret.write_text("secret")
    for name in ("report.html", "adapter/model"):
        (site.outbox / DONE.id / name).unlink()
        (site.outbox / DONE.id / name).symlink_to(secret)
        assert site.client.get(f"/jobs/7/files/{name}").status == 404


def test_what_was_dropped_is_given_back_and_never_shown(site):
    publish(site, DONE, {"dropped/page.html": "<script>alert(1)</script>", "dropped/Ä b.jsonl": "{}"})
    for path, name in (("page.html", "page.html"), ("%C3%84%20b.jsonl", "%C3%84%20b.jsonl")):
        headers = site.client.get(f"/jobs/7/files/dropped/{path}").headers
        assert headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"


def test_the_inbox_page_says_why_drops_were_rejected(site):
    problem = Problem(code="bad_json", message=f"this is no JSON: {HOSTILE}", file="a.jsonl", line=3)
    publish(site, REJECTED, {"problems.json": json.dumps([problem.as_json()] * 7), "WHY.html": "<p>why</p>"})
    page = read_page(site.client.get("/inbox").text)
    assert page.text.count("a.jsonl:3: this is no JSON: <script>alert(1)</script>") == 5
    assert "2 more problems" in page.text
    assert "/jobs/7/files/WHY.html" in page.links()


def test_the_page_of_a_rejected_job_shows_the_first_problems_and_urges_nobody_to_try_again(site):
    problem = Problem(code="bad_json", message="this is no JSON: <b>", file="a.jsonl", line=3)
    others = [replace(problem, line=line) for line in range(4, 10)]
    files = {"problems.json": json.dumps([one.as_json() for one in [problem, *others]]), "WHY.html": "<p>why</p>"}
    publish(site, replace(REJECTED, message="a.jsonl:3: this is no JSON (and 6 more)"), files)
    site.client.log_in()
    page = read_page(site.client.get("/jobs/7").text)
    assert page.texts("li")[:5] == [str(one) for one in [problem, *others[:4]]]
    assert "and 2 more problems" in page.text
    assert "/jobs/7/files/WHY.html" in page.links()[: page.links().index("/jobs/7/files/problems.json")]
    [again] = [button for button in page.all("button") if button.text == "Try again"]
    assert again.attributes["class"] == "quiet"


@pytest.mark.parametrize(
    ("outcome", "file", "words"),
    [
        (Outcome.SUCCEEDED, "report.html", "Open the report"),
        (Outcome.CHECKED, "report.html", "What was checked"),
        (Outcome.REJECTED, "WHY.html", "Why it was rejected"),
        (Outcome.FAILED, "WHY.html", "Why it failed"),
        (Outcome.CANCELLED, "WHY.html", "Why it was cancelled"),
    ],
)
def test_what_to_open_first_stands_at_the_top_of_a_job(site, outcome, file, words):
    publish(site, replace(DONE, outcome=outcome, verdict=None), {file: "<p>page</p>", "worker.log": "x"})
    [state] = re.findall(r'<section data-live="state".*?</section>', site.client.get("/jobs/7").text, re.DOTALL)
    [link] = read_page(state).all("a")
    assert (link.attributes["href"], link.text.startswith(words)) == (f"/jobs/7/files/{file}", True)


def test_a_dry_run_is_told_from_a_training_on_board_and_job_page(site):
    site.store.save(replace(JOB, state=JobState.QUEUED, stage=None, dry_run=True))
    JobDir(site.jobs / JOB.id).write_result(Stage.PREPARE, {})
    for path in ("/", "/jobs/7"):
        assert "Waits for its turn; it is only checked, not trained." in site.client.get(path).text
    publish(site, replace(DONE, outcome=Outcome.CHECKED, verdict=None, dry_run=True), {"report.html": "x"})
    text = " ".join(read_page(site.client.get("/jobs/7").text).text.split())
    assert "Checked: it can be trained on." in text
    assert "purposeonly checked, not trained" in text


def test_no_page_is_offered_that_is_not_there(site):
    publish(site, DONE, {"adapter/adapter_config.json": "{}"})
    assert "Open the report" not in site.client.get("/jobs/7").text


def test_a_job_that_runs_again_leads_to_the_new_one(site):
    publish(site, REJECTED, {"WHY.html": "<p>why</p>"})
    site.store.note(7, "run_again", now=NOW, job="0012-support")
    page = read_page(site.client.get("/jobs/7").text)
    assert "/jobs/0012-support" in page.links()
    assert "runs again as0012-support" in " ".join(page.text.split())


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/jobs/99", 404, "There is no such job."),
        ("GET", "/jbos", 404, "No page has this address; it may be mistyped."),
        ("GET", "/jobs/7/files/secret", 404, "This job has no such file."),
        ("POST", "/api/v1/queue/pause", 403, "The form is not of this session; load the page again."),
        ("GET", "/api/v1/jobs?limit=0", 422, "query.limit: Input should be greater than or equal to 1."),
    ],
)
def test_a_refusal_is_a_page_for_people_and_json_for_programs(site, method, path, status, said):
    browser = site.browser(Accept="text/html,*/*;q=0.8")
    browser.log_in()
    answer = browser.ask(method, path)
    page = read_page(answer.text)
    assert (answer.status, page.unclosed, len(page.all("h1"))) == (status, [], 1)
    assert said in page.text
    assert {"/", "/inbox", "/system"} <= set(page.links())
    program = site.browser(Authorization=f"Bearer {API_TOKEN}" if method == "GET" else "", Cookie=browser.cookie)
    assert program.ask(method, path).headers["content-type"] == "application/json"


def test_hostile_text_in_a_refusal_is_text(site):
    browser = site.browser(Accept="text/html")
    browser.log_in()
    form = {"csrf": browser.csrf(), "recipe": HOSTILE}
    site.store.save(DONE)
    answer = browser.post("/api/v1/jobs/7/retry", form)
    assert answer.status == 422
    assert "<script>alert" not in answer.text
    assert "alert(1)" in read_page(answer.text).text


def test_the_system_page_shows_memory_and_what_cannot_be_read(site):
    text = " ".join(read_page(site.client.get("/system").text).text.split())
    assert "are free" in text
    assert "does not answer" in text


def test_hostile_text_is_text_on_every_page(site):
    hostile = replace(JOB, base_model=HOSTILE, name=HOSTILE, waiting_detail=HOSTILE, message=HOSTILE)
    site.store.save(hostile)
    log_of(site, HOSTILE)
    site.view = replace(
        VIEW,
        running=(Running(hostile, Stage.TRAIN, None, began=40.0, progress=Progress(done=1, unit=HOSTILE)),),  # type: ignore[arg-type]
        drops=(Drop(HOSTILE, (), DropState.SETTLING, HOSTILE),),
        trouble=HOSTILE,
    )
    (site.jobs / JOB.id / "verify").mkdir()
    sample = {"messages": [{"role": "user", "content": HOSTILE}], "base": HOSTILE, "tuned": HOSTILE}
    (site.jobs / JOB.id / "verify" / "samples.jsonl").write_text(json.dumps(sample))
    for path, times in (("/", 5), ("/jobs/7", 6), ("/inbox", 2)):
        page = read_page(site.client.get(path).text)
        assert page.text.count("<script>alert(1)</script>") >= times, path
        assert all(script.attributes.get("src") for script in page.all("script"))
        assert not page.all("img")
        assert "\u202e" not in page.text


@pytest.mark.parametrize(("row", "held_out", "said"), [(1, 0, True), (1, 20, False), (None, 0, False)])
def test_samples_of_rows_that_it_was_trained_on_are_said_to_be_such(site, row, held_out, said):
    verify = site.jobs / JOB.id / "verify"
    verify.mkdir()
    sample = {
        "row": row,
        "messages": [{"role": "user", "content": "Where is it?"}],
        "base": "Dear",
        "tuned": "On its way",
    }
    (verify / "samples.jsonl").write_text(json.dumps(sample))
    (verify / "result.json").write_text(json.dumps({"verdict": "unproven", "held_out_rows": held_out}))
    assert ("No rows were held out" in read_page(site.client.get("/jobs/7").text).text) is said


def test_who_reads_sees_no_form_and_is_told_how_to_act(site):
    html = site.client.get("/jobs/7").text
    assert "/api/v1/jobs/7/cancel" not in html
    assert "Log in with the API token to do more than read." in html


def test_logging_in_lets_a_person_act_without_scripts(site):
    browser = site.browser(Accept="text/html")
    answer = browser.log_in(next="/jobs/7")
    assert (answer.status, answer.headers["location"]) == (303, "/jobs/7")
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/"))
    assert API_TOKEN not in cookie
    answer = browser.post("/api/v1/jobs/7/cancel", {"csrf": browser.csrf("/jobs/7")})
    assert (answer.status, answer.headers["location"]) == (303, "/jobs/7")
    assert site.asked() == [("cancel", "7")]


def test_a_form_without_the_proof_of_its_session_is_refused(site):
    browser, other = site.browser(Accept="text/html"), site.browser(Accept="text/html")
    browser.log_in()
    other.log_in()
    for proof in ("", "x", other.csrf()):
        assert browser.post("/api/v1/jobs/7/cancel", {"csrf": proof}).status == 403
    # A wrong token beside a good session does not stand in for the proof.
    assert browser.post("/api/v1/jobs/7/cancel", Authorization="Bearer wrong").status == 403
    assert site.asked() == []


def test_a_form_of_another_origin_is_refused_even_with_the_proof(site):
    browser = site.browser(Accept="text/html")
    browser.log_in()
    proof = {"csrf": browser.csrf()}
    assert browser.post("/api/v1/jobs/7/cancel", proof, Origin="http://evil.example").status == 403
    assert browser.post("/api/v1/jobs/7/cancel", proof, Host="evil.example").status == 421
    assert site.asked() == []


def test_the_read_token_lets_a_person_look_and_no_more(site):
    browser = site.browser(Accept="text/html", Host="spark.test")
    assert browser.get("/jobs/7").headers["location"] == "/login?next=/jobs/7"
    browser.log_in(READ_TOKEN)
    html = browser.get("/jobs/7").text
    assert "0007-support" in html
    assert "/api/v1/jobs/7/cancel" not in html
    assert browser.post("/api/v1/jobs/7/cancel", {"csrf": browser.csrf()}).status == 303
    assert site.asked() == []


def test_a_wrong_token_logs_nobody_in(site):
    browser = site.browser()
    answer = browser.log_in("wrong")
    assert answer.status == 401
    assert "none of the tokens" in answer.text
    assert browser.cookie == ""


@pytest.mark.parametrize("path", ["/login", "/logout", "/api/v1/jobs/7/cancel", "/api/v1/queue/pause"])
def test_nobody_fills_the_memory_with_a_form(site, path):
    """Before a login, too."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.client.ask("POST", path, b"token=" + b"x" * 100_000, **form).status == 413
    assert site.client.ask("POST", path, b"", Transfer_Encoding="chunked", **form).status == 413


def test_logging_out_ends_the_session_of_the_browser(site):
    browser = site.browser(Accept="text/html")
    browser.log_in()
    assert browser.post("/logout", {"csrf": "wrong"}).status == 403
    answer = browser.post("/logout", {"csrf": browser.csrf()})
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert "Log in" in browser.get("/").text


def test_a_page_of_another_site_is_not_led_to_after_a_login(site):
    assert site.browser().log_in(next="//evil.example").headers["location"] == "/"
