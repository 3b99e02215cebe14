"""Labels of earlier jobs: found again when nothing that decides them has changed, and never in anyone's way."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from appliance.job import Stage
from appliance.label_cache import RECORD, LabelCache
from appliance.recipe import Recipe
from appliance.stages.label_key import SETTINGS, label_key, settings_that_matter
from tests.families import FAMILIES, Family, assistant, user, write_model
from tests.jobs import jsonl, make_job, run_stage, run_stages

DATASET = "a" * 64
OTHER = "b" * 64
ROWS = jsonl([{"messages": [user(f"Say {n}"), assistant(f"word {n}")]} for n in range(60)])
OUTPUTS = ("train.arrow", "eval.arrow", "labels.json", "labels.txt", "samples.jsonl", "tokenizer/tokenizer.json")

# Runs prepare in this process and says which modules that took.
RUN_AND_LIST = """
import sys
from pathlib import Path
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.__main__ import run
code = run(Stage.PREPARE, JobDir(Path(sys.argv[1])), Settings.load())
print(code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def modules_of_prepare(job, state) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST, str(job.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "APPLIANCE_STATE": str(state)},
    )
    code, *modules = done.stdout.split()
    assert code == "0", done.stderr
    return set(modules)


def job_with(folder, number: int, recipe: str, state, rows: str = ROWS):
    job = make_job(folder, {"data.jsonl": rows, "r.yaml": "base_model: demo\n" + recipe}, number=number)
    run_stages(job, Stage.CHECK, Stage.FETCH, APPLIANCE_STATE=str(state))
    return job


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def first(tmp_path_factory, state):
    """A job whose labels were made, and kept."""
    job = job_with(tmp_path_factory.mktemp("first"), 1, "learning_rate: 2e-4\n", state)
    assert run_stage(Stage.PREPARE, job, APPLIANCE_STATE=str(state)) == 0
    return job


def test_another_learning_rate_finds_the_labels_without_transformers(tmp_path, first, state):
    again = job_with(tmp_path, 2, "learning_rate: 1e-4\n", state)
    modules = modules_of_prepare(again, state)
    assert not modules & {"transformers", "tokenizers", "torch", "pyarrow", "datasets"}
    for name in OUTPUTS:
        assert (again.stage(Stage.PREPARE) / name).read_bytes() == (first.stage(Stage.PREPARE) / name).read_bytes()
    assert again.result(Stage.PREPARE) == first.result(Stage.PREPARE)
    assert (again.stage(Stage.PREPARE) / "plan.json").exists()


def test_another_setting_that_matters_is_labelled_anew(tmp_path, first, state):
    again = job_with(tmp_path, 3, "train_on: everything\n", state)
    assert "transformers" in modules_of_prepare(again, state)
    result = again.result(Stage.PREPARE)
    assert result["tokens_trained"] == result["tokens_total"]


def test_a_damaged_entry_is_made_again_and_other_jobs_files_stay_as_they_are(tmp_path, first, state):
    own = tmp_path / "state"
    shutil.copytree(state, own)
    (entry,) = [path for path in (own / "cache" / "prepared").iterdir() if same(path, first, "train.arrow")]
    damaged = bytearray((entry / "train.arrow").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (entry / "train.arrow").write_bytes(damaged)

    again = job_with(tmp_path, 4, "learning_rate: 1e-4\n", own)
    assert "transformers" in modules_of_prepare(again, own)
    assert same(again.stage(Stage.PREPARE), first, "train.arrow")
    assert same(entry, first, "train.arrow")
    # Labelled once more in the same folder: what the cache has under another name is not written into.
    again.stage(Stage.PREPARE).joinpath("result.json").unlink()
    assert "transformers" not in modules_of_prepare(again, own)
    assert json.loads((entry / RECORD).read_text())["files"]


def same(folder, job, name: str) -> bool:
    return (folder / name).read_bytes() == (job.stage(Stage.PREPARE) / name).read_bytes()


def test_a_cache_that_cannot_be_written_fails_no_job(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    job = job_with(tmp_path, 5, "", tmp_path)
    assert run_stage(Stage.PREPARE, job, APPLIANCE_STATE=str(tmp_path)) == 0


def test_whoever_has_datasets_deleted_has_no_labels_kept(tmp_path):
    job = job_with(tmp_path, 6, "", tmp_path)
    environment = {"APPLIANCE_STATE": str(tmp_path), "APPLIANCE_KEEP_DATASETS": "delete"}
    assert run_stage(Stage.PREPARE, job, **environment) == 0
    assert not (tmp_path / "cache" / "prepared").exists()


@pytest.fixture
def written(tmp_path):
    """A folder with something to keep."""
    folder = tmp_path / "job"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "train.arrow").write_bytes(b"x" * 1000)
    (folder / "tokenizer" / "t.json").write_text("{}")
    return folder


NAMES = ("train.arrow", "eval.arrow", "tokenizer/t.json")


def keep(cache: LabelCache, written, key: str, *, used: float, dataset: str = DATASET) -> None:
    cache.keep(dataset, key, written, NAMES, {"key": key})
    for record in cache.folder.glob(f"*-{key}/{RECORD}"):
        os.utime(record, (used, used))


def keys(cache: LabelCache) -> list[str]:
    return sorted(entry.name.rpartition("-")[2] for entry in cache.folder.iterdir())


def test_what_is_kept_comes_back_as_it_was(tmp_path, written):
    cache = LabelCache(tmp_path / "cache")
    keep(cache, written, "k", used=1)
    assert cache.take(DATASET, "k", tmp_path / "target") == {"key": "k"}
    assert (tmp_path / "target" / "tokenizer" / "t.json").read_text() == "{}"
    assert not (tmp_path / "target" / "eval.arrow").exists()
    assert cache.take(DATASET, "other", tmp_path / "target") is None
    assert cache.take(OTHER, "k", tmp_path / "target") is None


@pytest.mark.parametrize("record", ["", "null", "[]", "{}", '{"files": 3, "facts": {}}', '{"files": {"a": "b"}}', "\0"])
def test_a_record_that_cannot_be_read_counts_as_not_there(tmp_path, written, record):
    cache = LabelCache(tmp_path / "cache")
    keep(cache, written, "k", used=1)
    (next(cache.folder.iterdir()) / RECORD).write_text(record)
    assert cache.take(DATASET, "k", tmp_path / "target") is None
    keep(cache, written, "k", used=1)
    assert cache.take(DATASET, "k", tmp_path / "target") == {"key": "k"}


def test_what_was_not_used_for_longest_goes_first(tmp_path, written):
    cache = LabelCache(tmp_path / "cache", most_entries=3)
    for used, key in enumerate(("one", "two", "three"), 1):
        keep(cache, written, key, used=used)
    assert cache.take(DATASET, "one", tmp_path / "target")
    keep(cache, written, "four", used=4)
    assert keys(cache) == ["four", "one", "three"]


def test_no_more_bytes_are_kept_than_allowed(tmp_path, written):
    cache = LabelCache(tmp_path / "cache", most_bytes=2600)
    for used, key in enumerate(("one", "two", "three"), 1):
        keep(cache, written, key, used=used)
    assert keys(cache) == ["three", "two"]
    tiny = LabelCache(tmp_path / "tiny", most_bytes=10)
    keep(tiny, written, "k", used=1)
    assert keys(tiny) == []


def test_a_dataset_is_forgotten_with_everything_half_written(tmp_path, written):
    cache = LabelCache(tmp_path / "cache")
    keep(cache, written, "one", used=1)
    keep(cache, written, "two", used=2)
    keep(cache, written, "three", used=3, dataset=OTHER)
    (cache.folder / f".{DATASET[:32]}-four.1.partial").mkdir()
    cache.forget(DATASET)
    assert keys(cache) == ["three"]
    LabelCache(tmp_path / "never made").forget(DATASET)


def family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(family("gpt-oss"), tmp_path_factory.mktemp("models") / "gpt-oss")


DAY = 86_400.0


def key(tmp_path, model, recipe: Recipe, created: float = 0.0, rows: str = ROWS, **more) -> str:
    (tmp_path / "rows.jsonl").write_text(rows)
    return label_key(recipe, tmp_path / "rows.jsonl", None, model, created, **more)


CHANGES = [
    {"train_on": "everything"},
    {"chat_template": "chatml"},
    {"chat_template_kwargs": {"enable_thinking": True}},
    {"long_examples": "drop"},
    {"max_seq_length": 512},
    {"eval_fraction": 0.1},
    {"eval_max_rows": 7},
    {"sample_prompts": ("Hi",)},
]


def test_the_key_changes_with_every_setting_that_matters_and_with_no_other(tmp_path, model):
    base = key(tmp_path, model, Recipe(base_model="demo"))
    changed = [key(tmp_path, model, Recipe(base_model="demo", **change)) for change in CHANGES]
    assert {name for change in CHANGES for name in change} | {"base_model"} == set(SETTINGS)
    assert len({base, *changed}) == 1 + len(CHANGES)
    other = Recipe(base_model="demo", learning_rate=1e-3, seed=1, num_train_epochs=9, lora={"r": 4}, packing=True)
    assert key(tmp_path, model, other) == base
    # Whatever else a recipe says does not even reach the labelling.
    assert settings_that_matter(other) == Recipe(base_model="demo")


def test_the_key_changes_with_rows_tokenizer_and_whatever_else_is_named(tmp_path, model):
    recipe = Recipe(base_model="demo")
    copy = shutil.copytree(model, tmp_path / "model")
    base = key(tmp_path, copy, recipe)
    assert key(tmp_path, copy, recipe, rows=ROWS[:-2]) != base
    assert key(tmp_path, copy, recipe, cap=9) != base
    (copy / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert key(tmp_path, copy, recipe) != base
    (copy / "README.md").write_text("words")
    assert key(tmp_path, copy, recipe) == key(tmp_path, copy, recipe)


def test_only_a_template_that_stamps_the_day_makes_a_new_day_a_new_key(tmp_path, model):
    recipe = Recipe(base_model="demo")

    assert (
        key(tmp_path, model, recipe, 0.0) == key(tmp_path, model, recipe, DAY - 1) != key(tmp_path, model, recipe, DAY)
    )
    plain = write_model(family("chatml"), tmp_path / "chatml")
    assert key(tmp_path, plain, recipe, 0.0) == key(tmp_path, plain, recipe, DAY)
