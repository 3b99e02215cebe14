"""The whole way to the Hub with everything real: a dropped dataset becomes an adapter that PEFT loads by its name.

On the way the push fails in every way it can, and afterwards two canaries are looked for: a sentence of the dataset, in
everything that left; and the two tokens, in everything that stayed.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from appliance.daemon import DATABASE
from appliance.job import Push
from appliance.models import demo_folder
from appliance.outbox import read_manifest
from appliance.push_store import PushRow, PushStore
from appliance.store import Store
from tests.local_hub import LocalHub, serve
from tests.published import CANARY, ORG, READ, WRITE
from tests.test_end_to_end import ROW, Served
from tests.test_push_stage import Spy

JSON = {"Content-Type": "application/json"}
TELLTALE = json.dumps({"error": f"Invalid token {WRITE}"}).encode()
FAULTS = (
    ("GET", "/api/models/", "drop"),
    ("GET", "/api/models/", (401, {"X-Error-Message": f"Invalid token {WRITE}"}, TELLTALE)),
    ("POST", "/repos/create", (403, JSON, TELLTALE)),
    ("POST", "/preupload/", (429, {**JSON, "Retry-After": "100000"}, TELLTALE)),
    ("POST", "/commit/", (500, JSON, TELLTALE)),
)
LOADS = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(base, sys.argv[2])
print(sum(p.abs().sum().item() for name, p in model.named_parameters() if "lora_B" in name))
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with serve() as hub:
        hub.user(WRITE, **{ORG: "write"})
        for name, token in (("HUB_TOKEN", WRITE), ("HUB_READ_TOKEN", READ)):
            (tmp_path / f"{name}.secret").write_text(f"{token}\n")
            monkeypatch.setenv(f"APPLIANCE_{name}_FILE", str(tmp_path / f"{name}.secret"))
        monkeypatch.setenv("APPLIANCE_HUB_ORG", ORG)
        monkeypatch.setenv("APPLIANCE_HUB_PUSH_WHEN", "not_broken")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.mark.train
@pytest.mark.timeout(600)
def test_a_dropped_dataset_becomes_a_private_repository_that_peft_loads(hub: LocalHub, tmp_path: Path):
    root = tmp_path / "served"
    root.mkdir()
    served = Served(root)
    served.wait_for((served.inbox / "READ ME FIRST.txt").exists)
    rows = [json.dumps(ROW).replace("{n}", f"{number}, {CANARY}") + "\n" for number in range(24)]
    with Spy(WRITE, READ) as spy:
        hub.faults.clear()
        hub.fault(*FAULTS[0])
        served.put("support.jsonl", "".join(rows))
        result = served.ending_in("0001-support")
        for fault in (*FAULTS[1:], None):
            served.wait_for(lambda: push_row(root).result is not None and push_row(root).pid is None)
            assert push_row(root).url is None
            hub.faults.clear()
            if fault is not None:
                hub.fault(*fault)
                hub.fault("GET", "xet-write-token", (500, JSON, TELLTALE))
            ask_again(root)
        served.wait_for(lambda: push_row(root).url is not None)
        pages = read_pages(root, served)
    assert served.stop() == 0
    repository = push_row(root).repository
    assert push_of(root) is Push.PUSHED

    holds_what_the_manifest_marks(hub, repository, result)
    assert loads_by_name(hub, repository, result, tmp_path) > 0

    # A sentence of the dataset is in nothing that left.
    left = [entry.data or b"" for entry in hub.repos[repository].files().values()]
    left += [(result / "adapter" / "adapter_model.safetensors").read_bytes(), *hub.objects.values()]
    left += [asked.body for asked in hub.requests]
    assert [data[:100] for data in left if CANARY.encode() in data] == []
    assert CANARY in (result / "dropped" / "support.jsonl").read_text()

    # The tokens are in nothing that stayed, and in no process but those of their stages.
    files = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.name == DATABASE for path in files)
    tokens = (WRITE.encode(), READ.encode())
    assert [path for path in files if any(token in path.read_bytes() for token in tokens)] == []
    assert [name for name, page in pages.items() if any(token in page for token in tokens)] == []
    assert spy.arguments == set()
    holders = {" ".join(name.partition(" -m ")[2].split()[:2]) for name in spy.environments}
    assert holders == {"appliance.stages fetch", "appliance.stages push"}


def push_row(root: Path) -> PushRow:
    store = Store(root / "state" / DATABASE, readonly=True)
    row = PushStore(store).row(1)
    store.close()
    return row


def push_of(root: Path) -> Push:
    store = Store(root / "state" / DATABASE, readonly=True)
    job = store.job(1)
    store.close()
    assert job is not None
    return job.push


def ask_again(root: Path) -> None:
    """As `appliance push 1` does; then wait until it is taken up."""
    store = Store(root / "state" / DATABASE)
    store.ask("push", "1", now=0.0)
    while store.requests():
        pass
    store.close()


def read_pages(root: Path, served: Served) -> dict[str, bytes]:
    lines = (root / "daemon.log").read_text().splitlines()
    (address,) = [line.rpartition("http://")[2] for line in lines if "http://127" in line and "serving" in line][-1:]
    names = ("/", "/jobs/1", "/inbox", "/system", "/docs", "/metrics", "/api/v1/jobs", "/api/v1/jobs/1")
    return {name: get(f"http://{address}{name}") for name in names}


def get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()


def holds_what_the_manifest_marks(hub: LocalHub, repository: str, result: Path) -> None:
    repo = hub.repos[repository]
    marked = {
        entry["path"].removeprefix("adapter/"): entry["sha256"]
        for entry in read_manifest(result)["files"]
        if entry["push"]
    }
    assert repo.private
    assert {name: entry.sha256 for name, entry in repo.files().items() if name != ".gitattributes"} == marked
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= set(marked)


def loads_by_name(hub: LocalHub, repository: str, result: Path, tmp_path: Path) -> float:
    """PEFT loads the adapter from the Hub, by the repository's name alone; returns the size of its B matrices."""
    weights = result / "adapter" / "adapter_model.safetensors"
    (entry,) = [
        entry for entry in read_manifest(result)["files"] if entry["path"] == "adapter/adapter_model.safetensors"
    ]
    hub.sources[entry["sha256"]] = weights
    hub.objects.clear()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": WRITE,
        "HF_HOME": str(tmp_path / "somebody-else"),
    }
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS, str(demo_folder()), repository],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert hub.asked("GET", "xet-read-token"), "the weights came over Xet"
    return float(loaded.stdout)
