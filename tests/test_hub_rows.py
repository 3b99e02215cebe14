"""`dataset: hub:org/name`: rows from the Hub, with the token for reading, as if they had been dropped."""

import json
from pathlib import Path

import pytest

from appliance.hub_rows import dataset_to_fetch
from appliance.job import Outcome, Role, Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.hub_dataset import UnusableDataset, choose_data_file
from tests.box import Box, fake_but_fetch
from tests.jobs import make_job, run_stage
from tests.local_hub import LocalHub, serve
from tests.published import READ

ROWS = b'{"prompt": "Where is it?", "completion": "Here."}\n' * 3
RECIPE = "base_model: demo\ndataset: hub:acme/tickets\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with serve() as hub:
        hub.user(READ, role="read", acme="read")
        hub.add(
            "datasets/acme/tickets", {"README.md": b"# Tickets", "data/train.jsonl": ROWS, "data/test.jsonl": b"{}"}
        )
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("APPLIANCE_HUB_READ_TOKEN", READ)
        monkeypatch.setenv("APPLIANCE_ALLOWED_DATASETS", "acme/*")
        yield hub


def job_with(tmp_path: Path, recipe: str = RECIPE) -> JobDir:
    return make_job(tmp_path / "jobs", {"tickets.yaml": recipe})


def fetch(tmp_path: Path, job: JobDir, **environment: str) -> int:
    return run_stage(Stage.FETCH, job, timeout=60, APPLIANCE_STATE=str(tmp_path / "state"), **environment)


def test_the_rows_lie_with_the_job_and_say_where_they_are_from(hub: LocalHub, tmp_path: Path):
    job = job_with(tmp_path)
    assert dataset_to_fetch(job.read_job(), job) == "acme/tickets"
    assert fetch(tmp_path, job) == 0
    result = job.result(Stage.FETCH)
    assert (job.dropped / "train.jsonl").read_bytes() == ROWS
    repo = hub.repos["datasets/acme/tickets"]
    assert result["dataset"] == {"repository": "acme/tickets", "commit": repo.branches["main"]}
    assert (result["rows"]["name"], result["rows"]["role"], result["rows"]["source"]) == ("train.jsonl", "dataset", "")
    assert {asked.token for asked in hub.requests} == {READ}
    assert all(READ not in path.read_text() for path in tmp_path.rglob("*") if path.is_file() and "jobs" in path.parts)


def test_a_dataset_that_nobody_allowed_is_refused_without_asking_the_hub(hub: LocalHub, tmp_path: Path):
    job = job_with(tmp_path)
    assert fetch(tmp_path, job, APPLIANCE_ALLOWED_DATASETS="other/*") == 2
    (problem,) = job.problems(Stage.FETCH)
    assert (problem.code, problem.key) == ("dataset_not_allowed", "dataset")
    assert "other/* (APPLIANCE_ALLOWED_DATASETS)" in problem.message
    assert hub.requests == []


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("acme/typo", "the Hub knows no dataset acme/typo"),
        ("acme/words", "it has no file of rows"),
        ("acme/shards", "it is not clear which file holds the rows: train-0.jsonl, train-1.jsonl"),
    ],
)
def test_a_dataset_that_cannot_be_used_says_why(hub: LocalHub, tmp_path: Path, dataset, says):
    hub.add("datasets/acme/words", {"README.md": b"# Words"})
    hub.add("datasets/acme/shards", {"train-0.jsonl": ROWS, "train-1.jsonl": ROWS})
    job = job_with(tmp_path, f"base_model: demo\ndataset: hub:{dataset}\n")
    assert fetch(tmp_path, job) == 2
    (problem,) = job.problems(Stage.FETCH)
    assert problem.code == "dataset_unavailable"
    assert says in problem.message


def test_a_dataset_that_is_too_large_is_refused_before_it_is_fetched(hub: LocalHub, tmp_path: Path):
    job = job_with(tmp_path)
    assert fetch(tmp_path, job, APPLIANCE_MAX_DROP_GB="0.0000001") == 2
    assert "the limit is" in job.problems(Stage.FETCH)[0].message
    assert hub.asked("GET", "/resolve/") == []


def test_while_the_hub_is_away_the_job_waits(hub: LocalHub, tmp_path: Path):
    hub.fault("GET", "", "drop")
    job = job_with(tmp_path)
    assert fetch(tmp_path, job) == 3
    assert job.failure(Stage.FETCH)["waiting"] == "network"


def test_a_job_with_rows_of_its_own_or_a_broken_recipe_asks_for_none(tmp_path: Path):
    for number, files in enumerate(
        ({"a.jsonl": "{}", "a.yaml": RECIPE}, {"a.yaml": "dataset: [1"}, {"a.yaml": "base_model: demo\n"}, {})
    ):
        job = make_job(tmp_path, files, number=number + 1)
        assert dataset_to_fetch(job.read_job(), job) is None


def test_in_the_daemon_the_rows_come_first_and_then_the_model(hub: LocalHub, tmp_path: Path):
    """Fetch runs twice: for the rows, before they can be checked, and for the base model, which check allows."""
    box = Box(tmp_path, command=fake_but_fetch, allowed_datasets=("acme/*",), hub_read_token=READ)
    (box.inbox / "tickets.yaml").write_text(RECIPE)
    job = box.ended()
    box.stop()
    assert job.outcome is Outcome.SUCCEEDED, job.message
    assert [(file.name, file.role) for file in job.files] == [
        ("tickets.yaml", Role.RECIPE),
        ("train.jsonl", Role.DATASET),
    ]
    stages = [event["stage"] for event in box.history() if event["event"] == "stage_started"]
    assert stages == ["fetch", "check", "fetch", "prepare", "train", "verify", "publish"]
    assert (box.outbox / "0001-tickets" / "dropped" / "train.jsonl").read_bytes() == ROWS
    facts = json.loads((tmp_path / "state" / "jobs" / "0001-tickets" / "fetch" / "result.json").read_text())
    assert facts["dataset"]["repository"] == "acme/tickets"
    assert facts["base_model_loaded"] == "demo"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["README.md", "rows.jsonl"], "rows.jsonl"),
        (["train.csv", "test.csv", "validation.csv"], "train.csv"),
        (
            ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
            "data/train-00000-of-00001.parquet",
        ),
        (["dataset_infos.json", "rows.json.gz", "all.jsonl.gz"], "all.jsonl.gz"),
        ([".cache/train.jsonl", "tickets.json", "eval.json"], "tickets.json"),
    ],
)
def test_the_one_file_of_rows_is_found(names, chosen):
    assert choose_data_file(names) == chosen


@pytest.mark.parametrize("names", [[], ["README.md"], ["a.jsonl", "b.jsonl"], ["test.jsonl", "eval.jsonl"]])
def test_no_file_or_several_are_refused(names):
    with pytest.raises(UnusableDataset) as caught:
        choose_data_file(names)
    assert caught.value.hint


def test_no_dataset_is_allowed_by_default():
    assert Settings().allowed_datasets == ()
