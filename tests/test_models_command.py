"""The base models on the shelf: listed by last use, imported whole, removed unless a job needs them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.job import Stage
from appliance.model_shelf import mark_used, room_hint, shelf
from appliance.models import cache_folder, local_folder
from appliance.settings import Settings
from appliance.store import DATABASE, Store
from tests.jobs import make_job, run_stage
from tests.local_hub import serve_models
from tests.shapes import QWEN3_8B
from tests.small_disk import small_disk
from tests.test_fetch_stage import MODEL, write_model
from tests.training_jobs import DEMO


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "default.yaml").write_text("base_model: org/tiny\n")
    folders = {name: tmp_path / name for name in ("state", "models", "recipes", "inbox", "outbox")}
    for name, folder in folders.items():
        monkeypatch.setenv(f"APPLIANCE_{name.upper()}", str(folder))
    return Settings.load()


def appliance(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "appliance", "models", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


def test_an_import_is_listed_used_by_a_job_and_removed(tmp_path, settings):
    usb = tmp_path / "usb" / "org--tiny"
    shutil.copytree(DEMO, usb)
    done = appliance("import", usb)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("org/tiny is here: ")
    assert local_folder("org/tiny", settings.models) == (settings.models / "org--tiny").resolve()

    job = make_job(tmp_path / "jobs", {"data.jsonl": "{}"})
    (job.stage(Stage.CHECK) / "recipe.json").write_text('{"base_model": "org/tiny"}')
    assert run_stage(Stage.FETCH, job) == 0
    (listed,) = json.loads(appliance("list", "--json").stdout)
    assert (listed["name"], listed["place"], listed["complete"]) == ("org/tiny", "models folder", True)
    assert listed["bytes"] == sum(path.stat().st_size for path in usb.iterdir())
    assert "org/tiny" in appliance("list").stdout

    assert "there is no model org/other" in appliance("remove", "org/other").stderr
    gone = appliance("remove", "org/tiny")
    assert (gone.returncode, shelf(settings)) == (0, [])
    assert "org/tiny is gone from the models folder" in gone.stdout


@pytest.mark.parametrize(
    ("arguments", "spoil", "says"),
    [
        (("tiny",), lambda usb: None, "does not say which model it is"),
        (("org--tiny",), lambda usb: (usb / "config.json").unlink(), "has no config.json"),
        (("org--tiny",), lambda usb: (usb / "model.safetensors").unlink(), "no safetensors"),
        (("org--tiny",), lambda usb: (usb / "config.json").write_text('{"auto_map": {}}'), "code of its own"),
        (("nothing",), lambda usb: shutil.rmtree(usb), "has no config.json"),
    ],
)
def test_what_is_no_usable_model_is_refused_and_leaves_nothing(tmp_path, settings, arguments, spoil, says):
    usb = tmp_path / "usb" / arguments[0]
    write_model(usb)
    spoil(usb)
    done = appliance("import", usb)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert not settings.models.exists() or list(settings.models.iterdir()) == []


def test_an_import_whose_weights_are_not_all_there_is_refused(tmp_path, settings):
    usb = tmp_path / "org--tiny"
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    write_model(usb, **{"model.safetensors.index.json": json.dumps(index).encode()})
    assert "not complete" in appliance("import", usb).stderr


def test_a_snapshot_of_the_cache_says_its_own_name(tmp_path, settings):
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "0123"
    write_model(snapshot)
    assert appliance("import", snapshot).stdout.startswith("org/tiny is here")
    again = appliance("import", snapshot)
    assert (again.returncode, "on the shelf already" in again.stderr) == (2, True)


def test_a_model_is_fetched_as_a_job_would_fetch_it(tmp_path, settings):
    tiny = MODEL | {"config.json": json.dumps(QWEN3_8B | {"num_hidden_layers": 1}).encode()}
    with serve_models({"org/tiny": tiny}) as hub:
        done = appliance("fetch", "org/tiny", HF_ENDPOINT=hub.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("org/tiny is here: ")
        refused = appliance("fetch", "org/other", HF_ENDPOINT=hub.url)
        missing = appliance("fetch", "org/missing", HF_ENDPOINT=hub.url, APPLIANCE_ALLOWED_BASE_MODELS="org/*")
    assert (refused.returncode, "org/other is not allowed here" in refused.stderr) == (2, True)
    assert (missing.returncode, "knows no base model org/missing" in missing.stderr) == (2, True)
    (model,) = shelf(settings)
    assert (model.name, model.place, model.complete) == ("org/tiny", "cache", True)
    assert list(settings.state.glob("fetch-*")) == []
    # A job finds it without a network.
    job = make_job(tmp_path / "jobs", {"data.jsonl": "{}"})
    (job.stage(Stage.CHECK) / "recipe.json").write_text('{"base_model": "org/tiny"}')
    assert run_stage(Stage.FETCH, job, HF_ENDPOINT=hub.url, timeout=60) == 0


def test_without_the_hub_nobody_is_told_that_it_is_tried_again(settings):
    done = appliance("fetch", "org/tiny", HF_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 3
    assert "the Hub cannot be reached: it refused the connection" in done.stderr
    assert "Try again when the network is back" in done.stderr
    assert "by itself" not in done.stderr


def test_the_least_recently_used_is_offered_first(settings):
    for number, name in enumerate(["org--young", "org--old", "org--oldest"]):
        write_model(settings.models / name)
        mark_used(name.replace("--", "/"), settings)
        mark = settings.state / "cache" / "models used" / name
        os.utime(mark, (1.7e9 - number, 1.7e9 - number))
    assert [model.name for model in shelf(settings)] == ["org/oldest", "org/old", "org/young"]
    assert room_hint(settings).index("org/oldest") < room_hint(settings).index("org/young")


def test_a_model_that_a_job_needs_stays(tmp_path, settings):
    write_model(settings.models / "org--tiny")
    job = make_job(tmp_path / "jobs", {"data.jsonl": "{}"}).read_job()
    settings.state.mkdir()
    store = Store(settings.state / DATABASE)
    store.add_job(replace(job, base_model="org--tiny"))
    kept = appliance("remove", "org/tiny")
    assert (kept.returncode, "1 job that has not ended needs org/tiny" in kept.stderr) == (2, True)
    store.add_job(replace(job, number=job.number + 1, id="0099-other", uuid="another", base_model="org/tiny"))
    store.close()
    assert "2 jobs that have not ended need org/tiny" in appliance("remove", "org/tiny").stderr
    assert (settings.models / "org--tiny" / "config.json").is_file()


def test_a_mirror_that_a_job_loads_in_place_of_its_model_stays(settings):
    mirror = settings.state / "cache" / "huggingface" / "hub" / "models--org--tiny-4bit" / "snapshots" / "0123"
    write_model(mirror)
    job = make_job(settings.state / "jobs", {"data.jsonl": "{}"})
    job.write_result(Stage.FETCH, {"base_model_loaded": "org/tiny-4bit"})
    store = Store(settings.state / DATABASE)
    store.add_job(replace(job.read_job(), base_model="org/tiny"))
    store.close()
    kept = appliance("remove", "org/tiny-4bit", HF_HOME="")
    assert (kept.returncode, "needs org/tiny-4bit" in kept.stderr) == (2, True)
    assert (mirror / "config.json").is_file()


def test_an_import_leaves_out_what_a_download_keeps_for_itself(tmp_path, settings):
    usb = tmp_path / "usb" / "org--tiny"
    write_model(usb)
    model = sorted(path.relative_to(usb) for path in usb.rglob("*"))
    hidden = (".git/lfs/objects/12", ".cache/huggingface/download/model.safetensors.incomplete", ".gitattributes")
    for name in hidden:
        (usb / name).parent.mkdir(parents=True, exist_ok=True)
        (usb / name).write_bytes(b"x")
    assert appliance("import", usb).returncode == 0
    shelved = settings.models / "org--tiny"
    assert sorted(path.relative_to(shelved) for path in shelved.rglob("*")) == model


def test_of_a_linked_model_only_the_link_is_removed(tmp_path, settings):
    elsewhere = tmp_path / "elsewhere"
    write_model(elsewhere)
    settings.models.mkdir()
    (settings.models / "org--tiny").symlink_to(elsewhere)
    gone = appliance("remove", "org/tiny")
    assert (gone.returncode, gone.stderr) == (0, "")
    assert "0 bytes are free again" in gone.stdout
    assert list(settings.models.iterdir()) == []
    assert (elsewhere / "model.safetensors").is_file()


def test_what_a_power_cut_left_half_there_is_swept_after_a_day(tmp_path, settings):
    write_model(settings.models / "org--tiny")
    left = [settings.models / ".partial-left", cache_folder(settings) / "hub" / ".partial-left"]
    running = settings.models / ".partial-running"
    for folder in (*left, running):
        write_model(folder)
    for path in [path for folder in left for path in (*folder.rglob("*"), folder)] + [running]:
        os.utime(path, (1.7e9, 1.7e9))
    assert appliance("remove", "org/tiny").returncode == 0
    assert [folder.exists() for folder in (*left, running)] == [False, False, True]


def test_a_small_disk_keeps_only_a_share_of_itself_from_models(tmp_path, settings, monkeypatch):
    monkeypatch.delenv("APPLIANCE_DISK_RESERVE_GB")
    usb = tmp_path / "org--tiny"
    write_model(usb)
    settings.models.mkdir()
    with small_disk(settings.models, 64 * 10**6):
        assert appliance("import", usb).returncode == 0
        assert "less than the reserve" not in appliance("list").stdout


def test_a_model_larger_than_the_disk_is_not_begun(tmp_path, settings):
    usb = tmp_path / "org--tiny"
    write_model(usb)
    full = appliance("import", usb, APPLIANCE_DISK_RESERVE_GB="1e9")
    assert (full.returncode, "are free beside the reserve" in full.stderr) == (3, True)
    assert not any(Path(settings.models).iterdir())
