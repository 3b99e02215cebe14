"""The push stage as a process: its deadline, the way from Xet to LFS, and that the token stays where it belongs."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.hub.parcel import pack
from appliance.job import JobState, Outcome, Stage, Verdict
from appliance.job_dir import JobDir
from appliance.pushing import PushError, PushResult
from appliance.recipe import Hub, Recipe
from appliance.settings import Settings
from appliance.stages.push import Upload, errand_of
from tests.jobs import make_job, run_stage, start_stage
from tests.local_hub import serve
from tests.published import INSTALLATION, ORG, READ, WRITE, Published, holds_exactly, publish

LIMIT_SECONDS = 60.0


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with serve() as hub:
        hub.user(WRITE, **{ORG: "write"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def job_of(tmp_path: Path, published: Published, **changes) -> JobDir:
    """A job that has ended with this result."""
    job = make_job(tmp_path / "jobs", {"support.jsonl": "{}"}, name="support", number=published.number)
    record = replace(
        job.read_job(),
        uuid=published.job_uuid,
        installation=INSTALLATION,
        state=JobState.SUCCEEDED,
        outcome=Outcome.SUCCEEDED,
        verdict=Verdict.IMPROVED,
        finished=1.0,
    )
    job.write_job(replace(record, **changes))
    job.write_result(Stage.PUBLISH, {"path": published.directory.name, "manifest_sha256": published.manifest_sha256})
    return job


def push(tmp_path: Path, job: JobDir, **environment: str) -> int:
    return run_stage(Stage.PUSH, job, timeout=120, **{**environment_of(tmp_path), **environment})


def environment_of(tmp_path: Path) -> dict[str, str]:
    return {
        "APPLIANCE_OUTBOX": str(tmp_path / "outbox"),
        "APPLIANCE_STATE": str(tmp_path / "state"),
        "APPLIANCE_HUB_ORG": ORG,
        "APPLIANCE_HUB_TOKEN": WRITE,
    }


def upload(tmp_path: Path, published: Published, **how) -> dict:
    (tmp_path / "push").mkdir(exist_ok=True)
    parcel = pack(published.directory, tmp_path / "parcel", manifest_sha256=published.manifest_sha256)
    settings = Settings(state=tmp_path / "state", hub_org=ORG, hub_token=WRITE)
    return Upload(parcel, published.errand, tmp_path / "push", settings, **how).run()


# The stage


def test_the_stage_pushes_a_result_and_says_where_it_lies(hub, tmp_path):
    published = publish(tmp_path / "outbox")
    job = job_of(tmp_path, published)
    assert push(tmp_path, job) == 0
    result = job.result(Stage.PUSH)
    assert result["repository"] == published.errand.repository
    assert result["url"] == f"{hub.url}/{published.errand.repository}"
    holds_exactly(hub, result["repository"], published)


def test_what_it_says_when_it_cannot(hub, tmp_path):
    job = job_of(tmp_path, publish(tmp_path / "outbox"))
    hub.users.clear()
    assert push(tmp_path, job) == 1
    failure = job.failure(Stage.PUSH)
    assert (failure["push"], failure["blocked"]) == ("auth", True)
    hub.user(WRITE, **{ORG: "write"})
    hub.fault("GET", "/api/models/", (503, {}, b""))
    assert push(tmp_path, job) == 3
    assert job.failure(Stage.PUSH)["push"] == "server"
    assert push(tmp_path, job, APPLIANCE_HUB_TOKEN="") == 1
    assert "HUB_TOKEN_FILE is not set" in job.failure(Stage.PUSH)["message"]


@pytest.mark.parametrize(
    ("verdict", "by_person", "branch"),
    [
        (Verdict.IMPROVED, False, "main"),
        (Verdict.UNPROVEN, False, "job-0007"),
        (Verdict.NO_BETTER, False, "job-0007"),
        (Verdict.UNPROVEN, True, "main"),
    ],
)
def test_the_verdict_decides_where_in_a_shared_repository_it_goes(tmp_path, verdict, by_person, branch):
    record = job_of(tmp_path, publish(tmp_path / "outbox"), verdict=verdict).read_job()
    settings = Settings(hub_org=ORG)
    shared = Recipe(base_model="demo", hub=Hub(repo="support"))
    errand = errand_of(record, shared, settings, by_person=by_person)
    assert (errand.repository, errand.branch, errand.tag) == (f"{ORG}/support", branch, "job-0007")
    alone = errand_of(record, Recipe(base_model="demo"), settings, by_person=by_person)
    assert (alone.repository, alone.branch, alone.tag) == (f"{ORG}/support-0007-{record.uuid[:8]}", "main", None)


@pytest.mark.parametrize(("asked", "allowed"), [(True, False), (False, True), (True, True)])
def test_public_takes_both_the_recipe_and_the_administrator(tmp_path, asked, allowed):
    record = job_of(tmp_path, publish(tmp_path / "outbox")).read_job()
    recipe = Recipe(base_model="demo", hub=Hub(public=asked))
    errand = errand_of(record, recipe, Settings(hub_org=ORG, hub_allow_public=allowed), by_person=False)
    assert errand.public is (asked and allowed)


def test_a_public_repository_that_was_not_allowed_is_private_and_said_so(hub, tmp_path):
    recipe = Recipe(base_model="Qwen/Qwen3-8B", hub=Hub(public=True))
    job = job_of(tmp_path, published := publish(tmp_path / "outbox", recipe=recipe))
    assert push(tmp_path, job) == 0
    assert hub.repos[published.errand.repository].private
    assert "HUB_ALLOW_PUBLIC" in job.result(Stage.PUSH)["notes"][0]


# Xet, and the older way


def test_what_does_not_get_through_xet_goes_the_older_way(hub, tmp_path):
    hub.fault("GET", "xet-write-token", (500, {}, b""))
    published = publish(tmp_path / "outbox")
    upload(tmp_path, published)
    holds_exactly(hub, published.errand.repository, published)
    assert hub.asked("PUT", "/storage/")
    events = [json.loads(line) for line in (tmp_path / "push" / "progress.jsonl").read_text().splitlines()]
    assert "xet_failed" in [event["event"] for event in events]


def test_a_transfer_that_hangs_over_xet_is_ended_and_goes_the_older_way(hub, tmp_path):
    hub.fault("GET", "xet-write-token", "silent")
    published = publish(tmp_path / "outbox")
    upload(tmp_path, published, deadline=12.0)
    holds_exactly(hub, published.errand.repository, published)


# The deadline


@pytest.mark.parametrize(
    ("method", "path", "do"),
    [
        ("GET", "/api/models/", "drip"),
        ("POST", "/commit/", "silent"),
    ],
)
def test_a_push_that_hangs_is_ended_at_its_deadline(hub, tmp_path, method, path, do):
    hub.fault(method, path, do)
    published, began = publish(tmp_path / "outbox"), time.monotonic()
    with pytest.raises(PushError, match="was ended after 4 s while it was at") as caught:
        upload(tmp_path, published, deadline=4.0)
    assert (caught.value.result, caught.value.blocked) == (PushResult.NETWORK, False)
    assert time.monotonic() - began < LIMIT_SECONDS


def test_an_upload_that_dies_is_told(hub, tmp_path):
    def kill(number: int, asked: object, done: bool) -> None:
        for child in children(os.getpid()):
            if "appliance.stages.upload" in command_line(child):
                os.kill(child, signal.SIGKILL)

    hub.watch = kill
    with pytest.raises(PushError, match="ended with code -9 while it was at: look"):
        upload(tmp_path, publish(tmp_path / "outbox"))


def test_the_upload_dies_with_its_stage(hub, tmp_path):
    hub.fault("GET", "/api/models/", "silent")
    job = job_of(tmp_path, publish(tmp_path / "outbox"))
    stage = start_stage(Stage.PUSH, job, **environment_of(tmp_path))
    wait_until(lambda: bool(hub.requests))
    (child,) = children(stage.pid)
    stage.kill()
    stage.wait()
    wait_until(lambda: command_line(child) == "")


def wait_until(condition) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        # It may end while we look.
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


# The token


class Spy:
    """Looks at every process below this one, over and over: whose arguments and environment hold a secret?"""

    def __init__(self, *secrets: str) -> None:
        self.secrets = [secret.encode() for secret in secrets]
        self.arguments: set[str] = set()
        self.environments: set[str] = set()
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Spy":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._look(os.getpid())

    def _look(self, pid: int) -> None:
        for child in children(pid):
            try:
                arguments = Path(f"/proc/{child}/cmdline").read_bytes()
                environment = Path(f"/proc/{child}/environ").read_bytes()
            except OSError:
                continue
            name = arguments.replace(b"\0", b" ").decode()
            self.seen.add(name)
            if any(secret in arguments for secret in self.secrets):
                self.arguments.add(name)
            if any(secret in environment for secret in self.secrets):
                self.environments.add(name)
            self._look(child)


TELLTALE = f"Invalid token Bearer {WRITE}"


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/api/models/", (401, {"X-Error-Message": TELLTALE}, json.dumps({"error": TELLTALE}).encode())),
        ("POST", "/preupload/", (500, {"X-Error-Message": TELLTALE}, TELLTALE.encode())),
        ("POST", "/commit/", (400, {"X-Error-Message": TELLTALE}, json.dumps({"error": TELLTALE}).encode())),
        ("POST", "/yaml", (400, {}, json.dumps({"errors": [{"message": TELLTALE}]}).encode())),
        ("GET", "xet-write-token", (403, {}, TELLTALE.encode())),
    ],
)
def test_a_hub_that_echoes_the_token_does_not_get_it_into_any_file(hub, tmp_path, method, path, answer):
    hub.fault(method, path, answer)
    job = job_of(tmp_path, publish(tmp_path / "outbox"))
    with Spy(WRITE, READ) as spy:
        push(tmp_path, job)
    assert any("appliance.stages.upload" in name for name in spy.seen)
    assert spy.arguments == set()
    assert {name.partition(" -m ")[2].split()[0] for name in spy.environments} <= {"appliance.stages"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if WRITE.encode() in path.read_bytes()] == []
    assert (job.path / "push" / "stage.log").exists()
