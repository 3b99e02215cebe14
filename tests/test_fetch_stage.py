import errno
import json
import os
from pathlib import Path

import pytest

from appliance.disk import space_of
from appliance.errors import NotReadyError
from appliance.files import write_json
from appliance.job import Stage
from appliance.job_dir import PROMISED, JobDir
from appliance.memory import read_memory
from appliance.models import canonical_id, find_config, is_whole, local_folder, read_license
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.stages import download
from appliance.stages.download import is_wanted
from appliance.stages.fetch import Download
from tests.jobs import make_job, run_stage
from tests.local_hub import COMMIT, serve_models
from tests.shapes import LLAMA_33_70B, QWEN3_8B, TINY
from tests.small_disk import small_disk

WEIGHTS = b"\x08\0\0\0\0\0\0\0{}      "
MODEL = {
    "config.json": json.dumps(TINY["granite"]).encode(),
    "model.safetensors": WEIGHTS * 1000,
    "tokenizer.json": b"{}",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "original/consolidated.safetensors": WEIGHTS,
}


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    for name in ("HF_HOME", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "models").mkdir()
    return Settings(state=tmp_path / "state", models=tmp_path / "models", disk_reserve_gb=0)


def job_for(tmp_path: Path, **keys: object) -> JobDir:
    job = make_job(tmp_path / "jobs", {"data.jsonl": "{}"})
    recipe = Recipe(**keys)
    (job.path / "check").mkdir()
    (job.path / "check" / "recipe.json").write_text(recipe.model_dump_json())
    return job


def fetch(job: JobDir, settings: Settings, **environment: str) -> int:
    folders = {"APPLIANCE_STATE": str(settings.state), "APPLIANCE_MODELS": str(settings.models)}
    return run_stage(Stage.FETCH, job, timeout=60, **folders, APPLIANCE_DISK_RESERVE_GB="0", **environment)


def write_model(folder: Path, **files: bytes) -> None:
    folder.mkdir(parents=True)
    for name, data in {**MODEL, **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def test_the_demo_model_is_in_the_package(tmp_path, settings):
    job = job_for(tmp_path, base_model="demo")
    assert fetch(job, settings) == 0
    result = job.result(Stage.FETCH)
    assert (result["base_model"], result["base_model_loaded"], result["base_model_commit"]) == ("demo", "demo", None)
    assert (Path(result["path"]) / "model.safetensors").is_file()
    assert result["bytes"] > 1_000_000


@pytest.mark.parametrize("asked", ["org/tiny", "org--tiny"])
def test_a_directory_of_the_models_folder_is_found_by_either_name(tmp_path, settings, asked):
    write_model(settings.models / "org--tiny")
    assert local_folder(asked, settings.models) == (settings.models / "org--tiny").resolve()
    assert canonical_id(asked) == "org/tiny"
    assert find_config(asked, None, settings) == TINY["granite"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"config.json": b'{"auto_map": {"AutoModel": "x.Y"}}'}, "code of its own"),
        ({"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["x", null]}}'}, "code of its own"),
        ({"config.json": b"{"}, "config.json cannot be read"),
    ],
)
def test_a_model_that_needs_its_own_code_is_refused(tmp_path, settings, files, why):
    write_model(settings.models / "org--tiny", **files)
    job = job_for(tmp_path, base_model="org/tiny")
    assert fetch(job, settings) == 1
    assert job.failure(Stage.FETCH)["failure"] == "model_unavailable"
    assert why in job.failure(Stage.FETCH)["message"]


def test_a_model_without_safetensors_is_refused(tmp_path, settings):
    write_model(settings.models / "org--tiny")
    (settings.models / "org--tiny" / "model.safetensors").unlink()
    job = job_for(tmp_path, base_model="org/tiny")
    assert fetch(job, settings) == 1
    assert "no safetensors" in job.failure(Stage.FETCH)["message"]


def test_a_repository_is_downloaded_once_pinned_and_without_anything_that_holds_code(tmp_path, settings):
    with serve_models({"org/tiny": MODEL}) as hub:
        hub.user("hf_reading", role="read")
        job = job_for(tmp_path, base_model="org/tiny")
        assert fetch(job, settings, HF_ENDPOINT=hub.url, APPLIANCE_HUB_READ_TOKEN="hf_reading") == 0
        assert {asked.token for asked in hub.requests} == {"hf_reading"}
    result = job.result(Stage.FETCH)
    names = sorted(path.name for path in Path(result["path"]).iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    assert result["base_model_commit"] == COMMIT
    assert result["bytes"] == sum(len(MODEL[name]) for name in names)
    assert "hf_reading" not in "".join(path.read_text() for path in job.path.rglob("*") if path.is_file())

    # The Hub is gone, and the next job with the same model does not notice.
    again = job_for(tmp_path / "again", base_model="org/tiny")
    assert fetch(again, settings, HF_ENDPOINT=hub.url) == 0
    assert again.result(Stage.FETCH) == result
    assert find_config("org/tiny", None, settings) == TINY["granite"]


def test_in_4_bits_the_mirror_is_fetched_and_both_names_are_recorded(tmp_path, settings):
    """Unless a revision is pinned, 16 bits are asked for, the administrator left it out, or the Hub has none."""
    model, mirror = "Qwen/Qwen3-8B", "unsloth/Qwen3-8B-unsloth-bnb-4bit"
    tiny = MODEL | {"config.json": json.dumps(QWEN3_8B).encode()}

    def loaded(name: str, hub_has: dict, allowed: str, **keys: object) -> str:
        job = job_for(tmp_path / name, base_model=model, **keys)
        with serve_models(hub_has) as hub:
            environment = {"HF_ENDPOINT": hub.url, "APPLIANCE_ALLOWED_BASE_MODELS": allowed}
            environment |= {"HF_HOME": str(tmp_path / name / "cache"), "APPLIANCE_MEMORY_RESERVE_GB": "0"}
            code = fetch(job, settings, **environment)
        assert code == 0, job.failure(Stage.FETCH) or job.problems(Stage.FETCH)
        result = job.result(Stage.FETCH)
        assert result["base_model"] == model
        return result["base_model_loaded"]

    both = {model: tiny, mirror: tiny}
    assert loaded("plain", both, "*") == mirror
    assert loaded("pinned", both, "*", revision=COMMIT) == model
    assert loaded("not allowed", both, "Qwen/*") == model
    assert loaded("no mirror", {model: tiny}, "*") == model


def test_a_model_that_never_fits_is_refused_before_its_weights_are_fetched(tmp_path, settings):
    """With figures that ship, without asking the Hub at all; for another model, from its config.json alone."""
    with serve_models({"org/huge": MODEL | {"config.json": json.dumps(LLAMA_33_70B).encode()}}) as hub:
        for number, base_model in enumerate(["meta-llama/Llama-3.3-70B-Instruct", "org/huge"]):
            job = job_for(tmp_path / str(number), base_model=base_model, load_in_4bit=False)
            assert fetch(job, settings, HF_ENDPOINT=hub.url, APPLIANCE_ALLOWED_BASE_MODELS="*") == 2
            (problem,) = job.problems(Stage.FETCH)
            assert problem.code == "does_not_fit"
            assert problem.reason == "would_not_fit"
        fetched = {asked.path.rpartition("/")[2] for asked in hub.requests}
    assert fetched == {"config.json"}


def test_a_model_that_is_trained_in_16_bits_only_is_refused_in_4(tmp_path, settings):
    job = job_for(tmp_path, base_model="openai/gpt-oss-20b")
    assert fetch(job, settings, APPLIANCE_ALLOWED_BASE_MODELS="openai/*") == 2
    assert job.problems(Stage.FETCH)[0].code == "in_16_bits_only"


def test_a_download_that_was_cut_short_is_not_taken_for_a_model(tmp_path, settings, monkeypatch):
    """Complete is what was marked, or, without a network to ask, what has every file that its index names."""
    with serve_models({"org/tiny": MODEL}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        snapshot = attempt(settings, tmp_path, "org/tiny").run()
        (mark,) = snapshot.parents[1].glob("complete-*")
        mark.unlink()
        (snapshot / "tokenizer.json").unlink()
        assert attempt(settings, tmp_path, "org/tiny").run() == snapshot
        assert (snapshot / "tokenizer.json").is_file()
    mark.unlink()
    assert attempt(settings, tmp_path, "org/tiny").run() == snapshot
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(NotReadyError, match="cannot be reached"):
        attempt(settings, tmp_path, "org/tiny").run()


@pytest.mark.parametrize("removed", ["blobs/*", "snapshots/*/model.safetensors"])
def test_what_somebody_took_out_of_the_cache_is_downloaded_again(tmp_path, settings, monkeypatch, removed):
    with serve_models({"org/tiny": MODEL}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        snapshot = attempt(settings, tmp_path, "org/tiny").run()
        for path in snapshot.parents[1].glob(removed):
            path.unlink()
        assert not is_whole(snapshot)
        assert attempt(settings, tmp_path, "org/tiny", COMMIT).run() == snapshot
    assert is_whole(snapshot)


def test_weights_that_are_not_complete_are_said_before_anything_is_trained(tmp_path, settings):
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    write_model(settings.models / "org--tiny", **{"model.safetensors.index.json": index})
    (settings.models / "org--tiny" / "model.safetensors").rename(
        settings.models / "org--tiny" / "model-00001-of-00002.safetensors"
    )
    job = job_for(tmp_path, base_model="org/tiny")
    assert fetch(job, settings) == 1
    assert job.failure(Stage.FETCH)["failure"] == "model_unavailable"
    assert "not complete" in job.failure(Stage.FETCH)["message"]


def test_without_network_the_job_waits(tmp_path, settings):
    with serve_models({}) as hub:
        url = hub.url
    job = job_for(tmp_path, base_model="org/tiny")
    assert fetch(job, settings, HF_ENDPOINT=url) == 3
    failure = job.failure(Stage.FETCH)
    assert failure["waiting"] == "network"
    assert failure["message"] == "the Hub cannot be reached: it refused the connection"
    assert "Connection refused" in (job.stage(Stage.FETCH) / "stage.log").read_text()


@pytest.fixture(scope="module")
def hub():
    plain = {name: data for name, data in MODEL.items() if name != "model.safetensors"}
    remote_code = {**MODEL, "config.json": b'{"auto_map": {"AutoModel": "x.Y"}}'}
    with serve_models({"org/gated": MODEL, "org/tiny": MODEL, "org/pickled": plain, "org/code": remote_code}) as hub:
        for method in ("GET", "HEAD"):
            hub.fault(method, "org/gated", (403, {"X-Error-Code": "GatedRepo"}, b"{}"))
        yield hub


def attempt(settings: Settings, tmp_path: Path, repository: str, revision: str | None = None, **keys) -> Download:
    folder = tmp_path / "fetch"
    folder.mkdir(exist_ok=True)
    return Download(repository, revision, folder, settings, **keys)


@pytest.mark.parametrize(
    ("repository", "revision", "says", "hint"),
    [
        ("org/missing", None, "knows no base model org/missing", "typing mistake"),
        ("org/gated", None, "org/gated is gated", "https://huggingface.co/org/gated"),
        ("org/tiny", "v9", "no such revision", "revision"),
        ("org/pickled", None, "no safetensors", "Choose"),
        ("org/code", None, "code of its own", "Choose"),
    ],
)
def test_what_will_never_work_fails_with_what_to_do(
    tmp_path, settings, hub, monkeypatch, repository, revision, says, hint
):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with pytest.raises(Exception, match=says) as caught:
        attempt(settings, tmp_path, repository, revision).run()
    assert getattr(caught.value, "failure", "model_unavailable") == "model_unavailable"
    assert hint in caught.value.hint
    assert hub.asked("GET", f"/{repository}/resolve/{COMMIT}/model.safetensors") == []


def test_a_captive_portal_is_not_the_hub(tmp_path, settings, monkeypatch):
    with serve_models({"org/tiny": MODEL}) as hub:
        for method in ("GET", "HEAD"):
            hub.fault(method, "", "html")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(NotReadyError) as caught:
            attempt(settings, tmp_path, "org/tiny").run()
    assert caught.value.waiting == "network"


def test_a_download_that_hangs_is_killed_and_waits(tmp_path, settings, monkeypatch):
    with serve_models({"org/tiny": MODEL}) as hub:
        for method in ("GET", "HEAD"):
            hub.fault(method, "", "silent")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(NotReadyError, match="nothing arrived"):
            attempt(settings, tmp_path, "org/tiny", stuck_seconds=1.0).run()


def test_a_model_larger_than_the_disk_allows_waits_for_room(tmp_path, settings, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    greedy = settings.model_copy(update={"disk_reserve_gb": 1e9})
    with pytest.raises(NotReadyError) as caught:
        attempt(greedy, tmp_path, "org/tiny").run()
    assert caught.value.waiting == "disk"


def test_two_downloads_are_not_promised_the_same_room(tmp_path, monkeypatch):
    """The first claims it for as long as it takes, or its process lives."""
    most = cache_in(tmp_path, monkeypatch)
    with download.keep_room("org/one", most, 0):
        assert refuses_room("org/two", most)
        # The same model once more, for another job, brings nothing twice.
        with download.keep_room("org/one", most, 0):
            pass
        assert refuses_room("org/two", most)
    assert not refuses_room("org/two", most)
    assert list((tmp_path / "downloads").glob("*.json")) == []
    assert refuses_room("org/two", most, keep_free=most)


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make the cache there. Returns more than half of what is free on its disk."""
    monkeypatch.setattr(download, "HF_HUB_CACHE", str(folder / "hub"))
    (folder / "hub").mkdir()
    return int(0.6 * space_of(folder).free_bytes)


def refuses_room(repository: str, total: int, *, keep_free: int = 0) -> bool:
    try:
        with download.keep_room(repository, total, keep_free):
            return False
    except download.NoRoomError as error:
        said = str(error)
    return f"downloading {repository} needs" in said and "free beside the reserve and what is under way" in said


def test_a_claim_that_a_crash_left_or_that_cannot_be_used_costs_no_download(tmp_path, monkeypatch):
    most = cache_in(tmp_path, monkeypatch)
    claims = tmp_path / "downloads"
    claims.mkdir()
    (claims / "left.json").write_text(json.dumps({"blobs": "/elsewhere", "total": most}))
    (claims / "odd.json").mkdir()
    assert not refuses_room("org/one", most)
    assert not (claims / "left.json").exists()

    def no_locks(*_: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(download.fcntl, "flock", no_locks)
    (claims / "left.json").write_text("{")
    assert not refuses_room("org/one", most)
    assert refuses_room("org/one", most, keep_free=most)


def test_a_download_leaves_the_room_that_running_stages_were_promised(tmp_path, settings):
    assert attempt(settings, tmp_path, "org/tiny").wanted.keep_free_bytes == 0
    write_json(tmp_path / "fetch" / PROMISED, {"bytes": 12})
    assert attempt(settings, tmp_path, "org/tiny").wanted.keep_free_bytes == 12


def test_on_a_small_disk_a_model_may_take_all_but_a_share(tmp_path, settings, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    settings.state.mkdir()
    with small_disk(settings.state, 64 * 10**6):
        default = Settings(state=settings.state, models=settings.models)
        assert attempt(default, tmp_path, "org/tiny").run().name == COMMIT


def test_only_weights_configuration_and_tokenizer_are_wanted():
    wanted = ["model-00001-of-00002.safetensors", "tokenizer.model", "merges.txt", "chat_template.jinja"]
    unwanted = ["pytorch_model.bin", "modeling_x.py", "original/params.json", "consolidated.safetensors", "x.gguf"]
    assert all(is_wanted(name) for name in wanted)
    assert not any(is_wanted(name) for name in unwanted)


def test_memory_is_read_from_the_kernel(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    600 kB\nHugePages_Total:       0\n")
    assert (read_memory(meminfo).total_bytes, read_memory(meminfo).available_bytes) == (1_024_000, 614_400)
    assert (
        read_memory().available_bytes
        <= read_memory().total_bytes
        == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


def test_the_download_leaves_word_of_its_bytes(tmp_path, settings, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    download = attempt(settings, tmp_path, "org/tiny")
    download.run()
    answers = [json.loads(line) for line in (download.folder / "download.jsonl").read_text().splitlines()]
    assert answers[0]["total"] == sum(len(MODEL[name]) for name in MODEL if is_wanted(name))


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\nlanguage:\n- en\nlicense: 'llama3.1'\n---\n", "llama3.1"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\ntags: [x]\n---\nlicense: mit", None),
        ("license: mit", None),
        ("", None),
    ],
)
def test_the_licence_of_a_base_model_is_the_one_its_card_names(tmp_path, card, license):
    (tmp_path / "README.md").write_text(card)
    assert read_license(tmp_path) == license
    assert read_license(tmp_path / "nowhere") is None
