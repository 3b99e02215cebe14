"""`appliance demo`, the first thing that anybody runs: it ends well, and says why where it cannot go on."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.commands.demo import newest_job
from appliance.commands.follow import Follower
from appliance.job import Job, JobState, Outcome, Waiting
from appliance.stages.training.make_demo_dataset import ANSWER_FORM
from appliance.store import DATABASE, Store
from tests.jobs import make_job
from tests.small_disk import small_disk


def demo(folder: Path, *, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", "demo", "--keep", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.train
@pytest.mark.timeout(900)
def test_the_demo_ends_with_an_adapter_that_has_learnt_its_task(tmp_path):
    # The folder was used before: what ended there is not shown again.
    (tmp_path / "state").mkdir()
    store = Store(tmp_path / "state" / DATABASE)
    store.add_job(Job(1, "0001-old", "u", "old", JobState.REJECTED, 0.0, outcome=Outcome.REJECTED, finished=1.0))
    store.close()
    done = demo(tmp_path, seconds=800)
    assert done.returncode == 0, done.stderr
    result = tmp_path / "outbox" / "0002-support-tickets"
    found = json.loads((result / "eval.json").read_text())
    assert found["verdict"] == "improved"
    assert found["tuned_loss"] <= found["base_loss"] / 2
    samples = [json.loads(line) for line in (result / "samples.jsonl").read_text().splitlines()]
    formed = {who: sum(bool(ANSWER_FORM.fullmatch(sample[who])) for sample in samples) for who in ("base", "tuned")}
    assert formed["base"] == 0
    assert formed["tuned"] >= 0.9 * len(samples) > 0
    for line in (f"tuned {found['tuned_loss']:.3f}", "tokens/s", str(result / "adapter"), "The same questions"):
        assert line in done.stdout
    shown = [line.removesuffix(" …") for line in done.stderr.splitlines() if line.endswith(" …")]
    # The others may be over between two looks.
    assert [stage for stage in shown if stage in ("prepare", "train", "verify")] == ["prepare", "train", "verify"]


def test_a_database_that_is_being_made_has_no_job_yet(tmp_path):
    (tmp_path / "state").mkdir()
    assert newest_job(tmp_path) is None
    (tmp_path / "state" / DATABASE).touch()
    assert newest_job(tmp_path) is None


def test_a_disk_without_room_is_named_before_anything_starts(tmp_path):
    with small_disk(tmp_path, 10**7):
        done = demo(tmp_path, seconds=60)
        assert not (tmp_path / "daemon.log").exists()
    said = " ".join(done.stderr.split())
    assert (done.returncode, f"{tmp_path} has 10.0 MB free, and the demo needs 500 MB" in said) == (1, True), said
    assert "--keep" in said


def test_a_job_that_waits_says_for_what_once_for_each_reason(tmp_path, capsys):
    job = make_job(tmp_path, {"a.jsonl": "{}"}).read_job()
    held = replace(job, waiting=Waiting.MEMORY, waiting_detail="needs 2.0 GB [of 24]")
    with Follower(tmp_path) as follower:
        for seen in (job, held, held, replace(held, waiting=Waiting.DISK, waiting_detail="full"), job):
            follower.show(seen)
    assert capsys.readouterr().err.splitlines() == [
        "waits for memory: needs 2.0 GB [of 24]",
        "waits for the disk: full",
    ]
