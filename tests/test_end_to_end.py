"""The whole way with everything real: `appliance serve` as a process, files dropped in, results collected."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.outbox import read_manifest
from appliance.store import DATABASE, Store
from tests.leftovers import hold

DEADLINE_SECONDS = 240.0
ROW = {
    "messages": [{"role": "user", "content": "Where is my parcel {n}?"}, {"role": "assistant", "content": "At {n}."}]
}
RECIPE = "base_model: demo\nmax_steps: {steps}\nper_device_train_batch_size: 2\neffective_batch_size: 2\n"
SUCCESS = {
    *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/tokenizer.json"),
    *("adapter/chat_template.jinja", "adapter/README.md", "adapter/appliance.json", "report.html", "loss.png"),
    *("metrics.jsonl", "eval.json", "samples.jsonl", "labels.txt", "labels.json", "recipe.yaml", "plan.json"),
    "manifest.json",
}


def rows(count: int, *, first: int = 0) -> str:
    lines = (json.dumps(ROW).replace("{n}", str(number)) for number in range(first, first + count))
    return "".join(line + "\n" for line in lines)


class Served:
    """A served appliance on folders of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.inbox, self.outbox = root, root / "inbox", root / "outbox"
        (root / "recipes").mkdir()
        (root / "recipes" / "default.yaml").write_text(RECIPE.format(steps=2))
        self.start()

    def start(self) -> None:
        folders = {
            f"APPLIANCE_{name.upper()}": str(self.root / name) for name in ("inbox", "outbox", "recipes", "state")
        }
        quick = {"APPLIANCE_QUIET_SECONDS": "0.3", "APPLIANCE_PAIR_SECONDS": "0.6", "APPLIANCE_SCAN_SECONDS": "0.2"}
        environment = {
            **os.environ,
            **folders,
            **quick,
            "APPLIANCE_LISTEN": "127.0.0.1:0",
            "APPLIANCE_MODELS": "models",
        }
        self.log = (self.root / "daemon.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "serve"],
            cwd=self.root,
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        # One of the tests that share it starts it again.
        hold(self.process.pid)

    def put(self, name: str, content: str | bytes) -> None:
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def wait_for(self, condition: Callable[[], object], *, seconds: float = DEADLINE_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, (self.root / "daemon.log").read_text()[-3000:]
            assert time.monotonic() < end, self.state()
            time.sleep(0.1)

    def state(self) -> str:
        return (self.outbox / "STATUS.md").read_text() + (self.root / "daemon.log").read_text()[-3000:]

    def result(self, name: str) -> Path:
        self.wait_for((self.outbox / name).is_dir)
        return self.outbox / name

    def ending_in(self, pattern: str) -> Path:
        """The one result whose name matches, once it is there."""
        self.wait_for(lambda: list(self.outbox.glob(pattern)))
        (result,) = self.outbox.glob(pattern)
        return result

    def works_on(self, job_dir: Path) -> list[int]:
        """The processes that have the job directory among their arguments."""
        found = psutil.process_iter(["cmdline"])
        return [process.pid for process in found if str(job_dir) in (process.info["cmdline"] or ())]

    def events(self, number: int) -> list[dict]:
        store = Store(self.root / "state" / DATABASE, readonly=True)
        events = store.events(number)
        store.close()
        return events

    def metric(self, name: str, **labels: str) -> float | None:
        (address,) = [
            line.rpartition("http://")[2]
            for line in (self.root / "daemon.log").read_text().splitlines()
            if "http://" in line
        ][-1:]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [s for family in families for s in family.samples if s.name == f"appliance_{name}"]
        return next((sample.value for sample in samples if sample.labels == labels), None)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        self.log.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        self.log.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    served.wait_for((served.inbox / "READ ME FIRST.txt").exists)
    yield served
    if served.process.poll() is None:
        served.kill()


def test_an_idle_daemon_is_small_and_quiet(served: Served):
    served.wait_for(lambda: "http://" in (served.root / "daemon.log").read_text())
    served.wait_for(lambda: served.metric("ready") == 1)
    process = psutil.Process(served.process.pid)
    before = process.cpu_times()
    began = time.monotonic()
    # Long enough for several surveys of the inbox; what is waited for is the time itself.
    served.wait_for(lambda: time.monotonic() - began > 6)
    after = process.cpu_times()
    share = (after.user + after.system - before.user - before.system) / (time.monotonic() - began)
    assert process.memory_info().rss < 120e6
    # Surveying ten times as often as the default does.
    assert share < 0.1


@pytest.mark.train
def test_a_dataset_with_a_recipe_comes_back_as_an_adapter_with_everything_beside_it(served: Served):
    served.put("parcels.yaml", RECIPE.format(steps=6))
    served.put("parcels.jsonl", rows(60))
    # Copies of what is ready at once end in any order.
    served.wait_for(lambda: not (served.inbox / "parcels.jsonl").exists())
    served.put("second.yaml", RECIPE.format(steps=2))
    served.put("second.jsonl", rows(40, first=500))
    result = served.result("0001-parcels")

    manifest = read_manifest(result)
    files = {entry["path"] for entry in manifest["files"]} | {"manifest.json"}
    assert files >= SUCCESS | {"dropped/parcels.jsonl", "dropped/parcels.yaml"}
    assert (manifest["base_model"], manifest["rows"], manifest["attempts"]) == ("demo", 60, 1)
    assert manifest["installation"] == (served.inbox / ".appliance").read_text().strip()
    assert json.loads((result / "eval.json").read_text())["held_out_rows"] == 12
    steps = [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in steps if event["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert (result / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.train
def test_one_job_trains_at_a_time_and_the_other_is_made_ready_meanwhile(served: Served):
    served.result("0001-parcels")
    served.result("0002-second")
    histories = [{(e["event"], e.get("stage")): e["time"] for e in served.events(number)} for number in (1, 2)]
    first, then = sorted(histories, key=lambda history: history["stage_started", "train"])
    assert then["stage_ended", "prepare"] < first["stage_ended", "train"]
    assert then["stage_started", "train"] >= first["stage_ended", "verify"]


@pytest.mark.train
def test_what_was_trained_is_counted(served: Served):
    labels = json.loads((served.outbox / "0001-parcels" / "labels.json").read_text())
    assert labels["rows_in"] == 60
    served.wait_for(lambda: served.metric("jobs_finished_total", outcome="succeeded") == 2)
    assert served.metric("train_steps_total") == 8
    assert served.metric("inbox_drops_total", outcome="accepted") == 2


def test_three_mistakes_in_a_recipe_and_three_in_the_rows_come_back_all_at_once(served: Served):
    served.put("broken.yaml", "base_model: demo\nlearning_rat: 1\nlora:\n  r: 0\nmax_steps: many\n")
    served.put("broken.jsonl", '{"messages": []}\n' + rows(1) + "not json\n" + rows(1) + '{"text": 5}\n')
    result = served.ending_in("*-broken.rejected")
    why = (result / "WHY.md").read_text()
    for place in (
        "broken.yaml:2",
        "broken.yaml:4",
        "broken.yaml:5",
        "broken.jsonl:1",
        "broken.jsonl:3",
        "broken.jsonl:5",
    ):
        assert place in why, why
    assert "learning\\_rate" in why or "learning_rate" in why
    assert sorted(path.name for path in (result / "dropped").iterdir()) == ["broken.jsonl", "broken.yaml"]
    assert (result / "WHY.html").exists()
    assert {"code", "file", "line", "message"} <= set(json.loads((result / "problems.json").read_text())[0])


def test_bytes_that_are_no_text_come_back_with_the_reason(served: Served):
    served.put("noise.jsonl", bytes(range(128, 256)) * 50 + b"\n")
    result = served.ending_in("*-noise.rejected")
    assert "noise.jsonl" in (result / "WHY.md").read_text()
    assert (result / "dropped" / "noise.jsonl").read_bytes() == bytes(range(128, 256)) * 50 + b"\n"


def test_a_dry_run_comes_back_without_an_adapter(served: Served):
    served.put("check/parcels.jsonl", rows(30, first=900))
    result = served.ending_in("*-parcels.checked")
    names = {path.name for path in result.iterdir()}
    assert {"report.html", "labels.txt", "labels.json", "plan.json", "problems.json", "manifest.json"} <= names
    assert "adapter" not in names


@pytest.mark.train
def test_a_killed_daemon_goes_on_where_it_was(served: Served):
    served.put("again.yaml", RECIPE.format(steps=40))
    served.put("again.jsonl", rows(50, first=2000))
    served.wait_for(lambda: list(served.root.glob("state/jobs/*-again/train/progress.jsonl")))
    served.kill()
    job_dir = next(served.root.glob("state/jobs/*-again"))
    served.start()
    # The kernel ends a stage with its daemon: two of them never work on one directory.
    assert len(served.works_on(job_dir)) <= 1
    assert read_manifest(served.ending_in("*-again"))["attempts"] == 2


@pytest.mark.train
def test_the_container_engines_stop_ends_it_well(served: Served):
    assert served.stop() == 0
