"""Rows that are used again: `dataset: job:0007`, `retry`, `retry --recipe`; and jobs that are deleted altogether."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.again import NewRecipe, Reruns, copy_back
from appliance.daemon import Appliance
from appliance.hub.intentions import Intentions
from appliance.intake import EarlierRows
from appliance.job import Job, JobState, Outcome, Push, Role, Stage, move
from appliance.job_dir import JobDir
from appliance.processes import StageProcess, boot_id, start_stage
from appliance.push_store import PushStore
from appliance.pushes import Pushes
from appliance.pushing import own_repository
from tests.box import DEADLINE_SECONDS, Box
from tests.door import Door
from tests.local_hub import Asked, LocalHub, serve
from tests.published import ORG, WRITE
from tests.waiting import until

pytest_plugins = "tests.hub_fixtures"

CANARY = "canary-7f3a9c"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop()


def environment(box: Box) -> dict[str, str]:
    folders = {name: getattr(box.settings, name) for name in ("inbox", "outbox", "recipes", "state", "models")}
    return {**os.environ, **{f"APPLIANCE_{name.upper()}": str(path) for name, path in folders.items()}}


def command(box: Box, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `appliance ...` beside the turning box."""
    started = subprocess.Popen(
        [sys.executable, "-m", "appliance", *words],
        env={**environment(box), **variables},
        cwd=box.outbox.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    box.turn_until(lambda: started.poll() is not None)
    out, err = started.communicate()
    return subprocess.CompletedProcess(words, started.returncode, out, err)


def put(box: Box, name: str, text: str) -> None:
    (box.inbox / f".{name}").write_text(text)
    (box.inbox / f".{name}").rename(box.inbox / name)


def dropped(box: Box, number: int) -> dict[str, bytes]:
    job = box.job(number)
    assert job is not None
    (result,) = [path for path in box.outbox.iterdir() if path.name.startswith(job.id)]
    return {path.name: path.read_bytes() for path in (result / "dropped").iterdir()}


# job:0007


def test_a_recipe_alone_takes_the_rows_of_an_earlier_job(box: Box):
    box.drop("support.jsonl")
    box.ended(1)
    put(box, "again.yaml", "base_model: demo\ndataset: job:0001\nlearning_rate: 1e-4\n")
    job = box.ended(2)

    assert (job.state, job.name) == (JobState.SUCCEEDED, "again")
    assert dropped(box, 2)["support.jsonl"] == dropped(box, 1)["support.jsonl"]
    assert list(box.inbox.glob("*.yaml")) == []


def test_two_recipes_for_one_earlier_job_are_two_jobs(box: Box):
    box.drop("support.jsonl")
    box.ended(1)
    put(box, "a.yaml", "base_model: demo\ndataset: job:1\n")
    put(box, "a.yml", "base_model: demo\ndataset: job:1\nseed: 1\n")
    assert {box.ended(2).state, box.ended(3).state} == {JobState.SUCCEEDED}


def test_the_rows_of_a_job_that_runs_can_be_used_already(box: Box):
    box.drop("support.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    put(box, "again.yaml", "base_model: demo\ndataset: job:0001\nseed: 1\n")
    box.turn_until(lambda: box.job(2) is not None)
    assert box.job(2).outcome is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("no such job", "there is no job 0009"),
        ("no such number", f"there is no job {'9' * 25}"),
        ("gone", "is not kept any more"),
        ("changed", "is not what was dropped any more"),
    ],
)
def test_rows_that_are_not_there_any_more_are_said_so(box: Box, spoil: str, says: str):
    box.drop("support.jsonl")
    job = box.ended(1)
    path = box.outbox / job.id / "dropped" / "support.jsonl"
    if spoil == "gone":
        path.unlink()
    if spoil == "changed":
        path.write_text("{}\n")
    number = {"no such job": "0009", "no such number": "9" * 25}.get(spoil, "0001")
    put(box, "again.yaml", f"base_model: demo\ndataset: job:{number}\n")
    box.turn_until(lambda: box.job(2) is not None)
    (problem,) = problems(box, 2)
    assert box.ended(2).outcome is Outcome.REJECTED
    assert says in problem.message
    assert problem.key == "dataset"


def problems(box: Box, number: int):
    job = box.job(number)
    assert job is not None
    return JobDir(box.appliance.places.jobs / job.id).problems(Stage.CHECK)


# retry


def test_a_failed_job_runs_again_as_a_new_job_with_the_same_files(box: Box):
    put(box, "support.yaml", "base_model: demo\n")
    box.drop("support.jsonl", train="fail")
    assert box.ended(1).state is JobState.FAILED
    done = command(box, "retry", "1")

    assert (done.returncode, done.stdout) == (0, "job 0001-support runs again as job 0002-support\n")
    assert box.ended(2).state is JobState.FAILED
    assert dropped(box, 2) == dropped(box, 1)
    assert (box.outbox / "0001-support.failed").is_dir()
    assert [event["job"] for event in box.history(1) if event["event"] == "run_again"] == ["0002-support"]
    assert box.appliance.store.requests() == []


def test_a_job_runs_again_with_another_recipe(box: Box, tmp_path: Path):
    put(box, "support.yaml", "base_model: demo\n")
    box.drop("support.jsonl")
    box.ended(1)
    other = tmp_path / "other.yaml"
    other.write_text("base_model: demo\nlora: {r: 8}\n")
    assert command(box, "retry", "0001-support", "--recipe", str(other)).returncode == 0

    job = box.ended(2)
    assert job.state is JobState.SUCCEEDED
    assert sorted(dropped(box, 2)) == ["other.yaml", "support.jsonl"]
    assert {file.role for file in job.files} == {Role.DATASET, Role.RECIPE}


def test_a_job_runs_again_with_a_recipe_of_the_library(box: Box, tmp_path: Path):
    (tmp_path / "recipes" / "short.yaml").write_text("base_model: demo\nmax_steps: 7\n")
    put(box, "support.yaml", "base_model: demo\nmax_steps: 60\n")
    box.drop("support.jsonl")
    box.ended(1)
    assert command(box, "retry", "1", "--recipe", "short").returncode == 0

    job = box.ended(2)
    assert (job.library_recipe, {file.role for file in job.files}) == ("short", {Role.DATASET})
    assert "max_steps: 7" in JobDir(box.appliance.places.jobs / job.id).library_recipe.read_text()
    assert dropped(box, 2).keys() == {"support.jsonl"}


def test_a_library_recipe_that_is_gone_by_then_rejects_the_new_job_and_says_so(box: Box):
    box.drop("support.jsonl")
    box.ended(1)
    box.appliance.store.ask("retry", "1", now=time.time(), library_recipe="gone")
    box.turn_until(lambda: box.job(2) is not None)
    (problem,) = problems(box, 2)
    assert box.ended(2).outcome is Outcome.REJECTED
    assert "gone.yaml cannot be read" in problem.message


def test_what_cannot_be_run_again_is_refused_with_a_reason(box: Box, tmp_path: Path):
    box.drop("support.jsonl")
    box.ended(1)
    bad = tmp_path / "bad.yaml"
    bad.write_text("base_model: demo\nepochs: 3\n")
    for words, says in (
        (("retry", "1"), "has succeeded"),
        (("retry", "9"), "there is no job 9"),
        (("retry", "1", "--recipe", str(bad)), "did you mean num_train_epochs?"),
        (("retry", "1", "--recipe", str(tmp_path / "none.yaml")), "cannot be read"),
        (("retry", "1", "--recipe", "fast"), "one of the library: default"),
    ):
        done = command(box, *words)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert box.appliance.store.requests() == []


def test_a_queue_that_is_paused_while_the_daemon_runs_is_paused_now(box: Box):
    assert command(box, "pause").stdout == "no new training starts until `appliance resume`\n"
    assert command(box, "resume").stdout == "the queue goes on\n"


def test_a_retry_survives_a_crash(box: Box):
    box.drop("support.jsonl", train="fail")
    box.ended(1)
    box.appliance.store.ask("retry", "1", now=time.time())
    box.tick()
    box.crash()
    box.start()
    box.ended(2)
    box.turn_until(lambda: box.appliance.store.requests() == [])
    assert box.job(3) is None


def test_a_retry_that_could_not_be_recorded_is_recorded_later_and_leaves_no_copy_behind(tmp_path: Path):
    door = Door(tmp_path)
    door.put("a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    door.store.save(move(move(job, JobState.RUNNING), JobState.CANCELLED, finished=1.0))
    door.store.ask("retry", "1", now=1.0)
    reruns = Reruns(door.store, door.places, "installation")
    reruns.turn(1.0)
    reruns._copying[1].exception(DEADLINE_SECONDS)
    reruns.close()
    door.store.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reruns.turn(2.0)
    door.store.connection.execute("PRAGMA query_only = OFF")
    assert [job.number for job in reruns.turn(3.0)] == [2]
    assert list(door.places.incoming.iterdir()) == []


def test_a_retry_with_a_recipe_of_any_name_keeps_the_rows(tmp_path: Path):
    """The file that `--recipe` names may be called as the dataset is, or in any other way."""
    door = Door(tmp_path)
    door.put("a.jsonl")
    (job,) = door.take_in(door.drops()[0])
    rows = EarlierRows(door.store, door.places)
    for name in ("a.jsonl", "-a.yaml", "x" * 255):
        copied = copy_back(job, NewRecipe(name, b"base_model: demo\n"), door.places, rows)
        texts = {file.role: (copied.staging / file.path).read_bytes() for file in copied.files}
        assert texts == {Role.DATASET: b'{"text": "a"}\n', Role.RECIPE: b"base_model: demo\n"}


def test_a_retry_while_the_same_is_running_is_a_duplicate(box: Box):
    box.drop("support.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.appliance.store.ask("cancel", "1", now=time.time())
    box.ended(1)
    for _ in range(2):
        box.appliance.store.ask("retry", "1", now=time.time())
    box.turn_until(lambda: box.job(3) is not None)
    (problem,) = problems(box, 3)
    assert (problem.code, problem.found) == ("duplicate", "0002-support")
    assert "the same data with the same recipe is already job 0002-support, which has not ended." in problem.message


# delete


def holding_canary(root: Path) -> list[str]:
    """Every file that holds the word or has it in its name."""
    # In a process of its own: closing the database's file here would take SQLite's locks away from this one.
    found = subprocess.run(["grep", "-rlaF", CANARY, str(root)], capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    return [*found.stdout.splitlines(), *(str(path) for path in root.rglob(f"*{CANARY}*"))]


def rows(*, good: bool) -> str:
    lines = [f'{{"prompt": "What says the {CANARY} {n}?", "completion": "It says {n}."}}\n' for n in range(60)]
    return "".join(lines) + ("" if good else f'{{"prompt": "{CANARY}", "completion": null}}\n')


def test_a_deleted_job_leaves_no_trace_of_its_rows(tmp_path: Path):
    """With the real stages: what is checked, labelled, cached, published and refused holds rows."""
    box = Box(tmp_path)
    box.appliance.crew._start = partial(start_stage, settings=box.settings)
    for name, good in (("good", True), ("bad", False)):
        (box.inbox / "check").mkdir(exist_ok=True)
        put(box, "x", rows(good=good))
        (box.inbox / "x").rename(box.inbox / "check" / f"{name}-{CANARY}.jsonl")
    states = [ended(box, number).outcome for number in (1, 2)]
    assert sorted(states) == [Outcome.CHECKED, Outcome.REJECTED]
    assert len(holding_canary(tmp_path)) > 10
    for number in ("1", "2"):
        done = command(box, "delete", number)
        assert done.returncode == 0, done.stderr
        assert "not known here: copies that people took out of the outbox" in done.stdout
    # The board is written again at the latest after a minute.
    for _ in range(5):
        box.shift += 100.0
        box.tick()
    box.stop()
    assert holding_canary(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == ["STATUS.html", "STATUS.md"]


def ended(box: Box, number: int):
    end = time.monotonic() + 6 * DEADLINE_SECONDS
    while (job := box.job(number)) is None or job.finished is None:
        assert time.monotonic() < end, job
        box.tick()
        time.sleep(0.02)
    return job


def test_a_number_that_was_deleted_is_not_given_again(box: Box):
    box.drop("a.jsonl")
    box.ended(1)
    assert command(box, "delete", "1").returncode == 0
    assert box.job(1) is None
    box.drop("b.jsonl")
    assert box.ended(2).id == "0002-b"


def test_delete_names_the_other_jobs_with_the_same_data(box: Box):
    box.drop("a.jsonl")
    box.ended(1)
    put(box, "again.yaml", "base_model: demo\ndataset: job:1\n")
    box.ended(2)
    done = command(box, "delete", "1")
    assert "the same data is part of job 0002-again" in done.stdout
    assert (box.outbox / "0002-again").is_dir()


def test_a_job_that_has_not_ended_is_not_deleted(box: Box):
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    done = command(box, "delete", "1")
    assert (done.returncode, "appliance cancel 1" in done.stderr) == (2, True)
    assert box.job(1) is not None


def pushed_job(box: Box) -> tuple[Job, str]:
    """A job of which the books say that it was pushed, and where to."""
    box.drop("a.jsonl")
    job = box.ended(1)
    repository = f"{ORG}/{own_repository(job.name, job.number, job.uuid)}"
    box.appliance.store.note(1, "pushed", now=time.time(), repository=repository, commit="0" * 40)
    return job, repository


def test_with_hub_a_job_is_also_deleted_there(box: Box, tmp_path: Path):
    job, repository = pushed_job(box)
    marker = {"installation": job.installation, "job_uuid": job.uuid}
    (tmp_path / "token").write_text(WRITE)
    Intentions.in_state(box.settings.state).note(repository)
    with serve() as hub:
        hub.user(WRITE, **{ORG: "write"})
        hub.add(repository, {"appliance.json": json.dumps(marker).encode()})
        there = {"HF_ENDPOINT": hub.url, "APPLIANCE_HUB_TOKEN_FILE": str(tmp_path / "token")}
        done = command(box, "delete", "1", "--hub", **there)
        assert done.returncode == 0, done.stderr
        assert hub.repos == {}
    assert f"taken back from {repository}" in done.stdout
    assert WRITE not in done.stdout + done.stderr
    assert (box.job(1), (box.outbox / job.id).exists()) == (None, False)
    assert list((box.settings.state / "hub").iterdir()) == []


def test_what_was_never_pushed_needs_no_hub_to_be_deleted(box: Box):
    box.drop("a.jsonl")
    box.ended(1)
    assert command(box, "delete", "1", "--hub").returncode == 0
    assert box.job(1) is None


@pytest.mark.parametrize(("token", "code", "way_out"), [(None, 3, "HUB_TOKEN_FILE"), (WRITE, 1, "tried again")])
def test_nothing_is_deleted_here_while_the_hub_keeps_it(box: Box, tmp_path: Path, token: str | None, code, way_out):
    job, repository = pushed_job(box)
    (tmp_path / "token").write_text(WRITE)
    # Nobody listens there.
    there = {"HF_ENDPOINT": "http://127.0.0.1:9"} | (
        {"APPLIANCE_HUB_TOKEN_FILE": str(tmp_path / "token")} if token else {}
    )
    done = command(box, "delete", "1", "--hub", **there)
    assert (done.returncode, repository in done.stderr) == (code, True)
    assert "nothing was deleted here either" in done.stderr
    assert way_out in done.stderr
    assert (box.outbox / job.id).is_dir()
    assert box.job(1) is not None


@pytest.mark.parametrize("shared", ["", "support"], ids=["of its own", "shared"])
def test_what_a_blocked_push_left_is_told_or_taken_back(hub: LocalHub, pushing: Box, tmp_path: Path, shared: str):
    def turn_public(_number: int, asked: Asked, done: bool) -> None:
        for repo in hub.repos.values() if done and "/commit/" in asked.path else ():
            repo.private = False

    hub.watch = turn_public
    (tmp_path / "token").write_text(WRITE)
    there = {"APPLIANCE_HUB_TOKEN_FILE": str(tmp_path / "token")}
    for number, with_hub in enumerate([(), ("--hub",)], start=1):
        pushing.drop(adapter=shared)
        pushing.turn_until(lambda number=number: push_of(pushing, number) is Push.BLOCKED, seconds=90)
        ((repository, repo),) = hub.repos.items()
        assert "adapter_model.safetensors" in repo.files()
        done = command(pushing, "delete", str(number), *with_hub, **there)
        assert done.returncode == 0, done.stderr
        assert pushing.job(number) is None
        assert (f"it may be there: {repository}" in done.stdout) == (not with_hub)
        assert (f"was taken back from {repository}" in done.stdout) == bool(with_hub)
        assert (repository in hub.repos) == (not with_hub or bool(shared))
        hub.repos.clear()


def push_of(box: Box, number: int) -> Push | None:
    job = box.job(number)
    return job.push if job else None


def test_a_job_is_not_deleted_while_its_push_runs(hub: LocalHub, pushing: Box):
    hub.fault("GET", "/api/models/", "silent")
    pushing.drop(adapter="")
    pushing.turn_until(lambda: bool(hub.requests), seconds=90)
    done = command(pushing, "delete", "1")
    assert (done.returncode, "job 0001-support is being pushed" in done.stderr) == (2, True)
    assert pushing.job(1) is not None
    hub.faults.clear()
    pushing.stop()
    pushing.start()
    pushing.turn_until(lambda: push_of(pushing, 1) is Push.PUSHED, seconds=90)
    assert command(pushing, "delete", "1").returncode == 0


def test_nothing_is_deleted_while_the_outbox_is_away(box: Box):
    box.drop()
    box.ended(1)
    box.stop()
    away = box.outbox.rename(box.outbox.parent / "away")
    words = [sys.executable, "-m", "appliance", "delete", "1"]
    done = subprocess.run(words, env=environment(box), cwd=away.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "is not there, and nothing was deleted" in done.stderr) == (1, True), done.stderr
    away.rename(box.outbox)
    assert (box.appliance.places.jobs / "0001-support" / "job.json").exists()
    box.start()
    assert command(box, "delete", "1").returncode == 0


def hold(stage: Stage, job: Path) -> list[str]:
    return [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_push_that_begins_while_its_job_is_deleted_is_ended_and_leaves_nothing(tmp_path: Path):
    box = Box(tmp_path, hub_org=ORG, hub_token=WRITE)
    gone: list[subprocess.CompletedProcess[str]] = []
    started: list[StageProcess] = []

    def start(stage: Stage, job_dir: JobDir) -> StageProcess:
        # Between its start and the moment at which it can be seen.
        started.append(start_stage(stage, job_dir, box.settings, command=hold))
        words = [sys.executable, "-m", "appliance", "delete", "1"]
        gone.append(subprocess.run(words, env=environment(box), cwd=tmp_path, capture_output=True, text=True))
        return started[-1]

    box.drop(verdict="no_better")
    assert box.ended(1).push is Push.WITHHELD
    store = box.appliance.store
    pushes = Pushes(store, box.settings, job_dir=box.appliance.pipeline.dir, start=start, boot_id=boot_id())
    pushes.ask(1, wall=0.0)
    pushes.start(0.0, wall=1.0)
    assert (gone[0].returncode, box.job(1)) == (0, None), gone[0].stderr
    until(lambda: started[0].poll() is not None)
    pushes.reap(0.0, wall=1.0)
    assert (pushes.running, store.pending_pushes(), store.events(1), PushStore(store).working()) == (None, [], [], [])
    box.stop()


def test_a_push_is_as_it_was_when_its_job_could_not_be_deleted(tmp_path: Path):
    box = Box(tmp_path, hub_org=ORG, hub_token=WRITE)
    box.drop(verdict="no_better")
    box.ended(1)
    box.appliance.store.note(1, "push_started", now=0.0, repository=f"{ORG}/shared")
    assert command(box, "delete", "1", "--hub").returncode == 3
    assert push_of(box, 1) is Push.WITHHELD
    box.stop()


# KEEP_DATASETS


@pytest.mark.parametrize(("keep", "days", "stays"), [("state", 1, True), ("state", 0, False), ("delete", 1, False)])
def test_a_dataset_stays_as_long_as_the_settings_say(tmp_path: Path, keep: str, days: float, stays: bool):
    box = Box(tmp_path, keep_datasets=keep, keep_finished_days=days)
    box.drop("a.jsonl")
    job = box.ended(1)
    box.appliance.tidying.expire(float("inf"), time.time())
    assert (box.appliance.places.jobs / job.id / "dropped").exists() == stays
    box.stop()


def test_places_are_those_of_the_daemon(box: Box):
    from appliance.places import Places

    assert isinstance(box.appliance, Appliance)
    assert Places.of(box.settings) == box.appliance.places
