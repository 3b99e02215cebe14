"""`appliance plan`: what fits, what was considered, what would fit instead."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.commands.plan import NoSuchRecipeError, plan
from appliance.errors import InputError, NotReadyError
from appliance.planning.architectures import read_shape
from appliance.planning.fitting import load_of
from appliance.planning.memory_bill import memory_bill
from appliance.planning.published import PUBLISHED
from appliance.recipe import Recipe
from appliance.recipe_yaml import parse_recipe
from tests.local_hub import serve_models
from tests.shapes import LLAMA_65B, TINY

GB = 10**9
RECIPES = sorted(Path("recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("APPLIANCE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("APPLIANCE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


def planned(capsys, recipe: Path, memory: str, dataset: Path | None = None) -> dict:
    plan(recipe, dataset, memory, as_json=True)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_plans_on_128_gb_with_the_reserve_kept(capsys, recipe):
    made = planned(capsys, recipe, "128GB")
    assert made["fits"]
    assert made["memory"]["machine_bytes"] == 128 * GB
    assert made["memory"]["reserve_bytes"] == 12 * GB
    assert made["memory"]["total_bytes"] <= 116 * GB
    # At full length too, which is what a dataset may come with.
    asked = parse_recipe(recipe.read_bytes(), name=recipe.name)
    if asked.base_model in PUBLISHED:
        load = load_of(asked, read_shape(PUBLISHED[asked.base_model]), "gpu")
        longest = memory_bill(load, micro_batch=1, sequence=8192, gradient_checkpointing=True)
        assert longest.total_bytes <= 116 * GB


def test_a_dataset_in_the_place_of_the_recipe_is_said_to_be_one(tmp_path):
    rows = tmp_path / "data.jsonl"
    rows.write_text('{"text": "a"}\n' * 20_000)
    with pytest.raises(InputError) as caught:
        plan(rows, None, "128GB", as_json=False)
    assert [str(problem)[:50] for problem in caught.value.problems] == [
        "data.jsonl:1: this looks like a dataset (a JSON ob"
    ]


def test_a_recipe_of_the_library_is_planned_by_its_name(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("APPLIANCE_RECIPES", str(Path("recipes").resolve()))
    monkeypatch.chdir(tmp_path)
    assert planned(capsys, Path("qwen3-14b"), "128GB")["total_parameters"] > 14 * GB
    # A file of that name wins.
    Path("qwen3-14b").write_text("base_model: demo\n")
    assert planned(capsys, Path("qwen3-14b"), "128GB")["total_parameters"] < GB


def test_what_is_nowhere_is_said_to_be_nowhere(tmp_path):
    with pytest.raises(NoSuchRecipeError, match=r"there is no recipe nosuch\.yaml") as caught:
        plan(Path("nosuch.yaml"), None, None, as_json=True)
    assert "default, " in caught.value.hint
    with pytest.raises(InputError) as refused:
        plan(Path("demo"), tmp_path / "rows.jsonl", None, as_json=True)
    assert [str(problem) for problem in refused.value.problems] == ["rows.jsonl: there is no such file"]


def test_what_does_not_fit_exits_with_3_and_says_what_would():
    command = [sys.executable, "-m", "appliance", "plan", "recipes/llama-3.3-70b.yaml", "--memory", "24GB"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 3
    assert "does not fit" in done.stdout
    assert "training needs 47.7 GB, but this machine has 12.0 GB to spend" in done.stderr
    assert "a smaller base_model such as Qwen/Qwen3-8B" in done.stderr


def test_changes_are_ranked_from_the_least_painful(capsys, tmp_path):
    recipe = tmp_path / "long.yaml"
    keys = "max_seq_length: 8192\ngradient_checkpointing: false\nper_device_train_batch_size: 2\nload_in_4bit: false\n"
    recipe.write_text(f"base_model: meta-llama/Llama-3.1-8B-Instruct\n{keys}lora: {{r: 64}}\n")
    with pytest.raises(NotReadyError) as caught:
        plan(recipe, None, "64GB", as_json=False)
    words = ["max_seq_length: 2048", "gradient_checkpointing: true"]
    shown = " ".join(capsys.readouterr().out.split())
    assert [shown.index(word) for word in words] == sorted(shown.index(word) for word in words)
    assert "max_seq_length: 1024" not in shown
    assert caught.value.message.index(words[0]) < caught.value.message.index(words[1])


def test_alternatives_are_listed_with_their_speed_and_the_chosen_one_among_them(capsys):
    made = planned(capsys, Path("recipes/qwen3-32b.yaml"), "128GB")
    same = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    chosen = [way for way in made["alternatives"] if all(way[key] == made[key] for key in same)]
    assert len(chosen) == 1
    fitting = [way for way in made["alternatives"] if way["fits"]]
    fastest = max(way["tokens_per_second_estimate"] for way in fitting)
    assert chosen[0]["tokens_per_second_estimate"] >= 0.98 * fastest
    assert {way["gradient_checkpointing"] for way in made["alternatives"]} == {True, False}
    assert any(not way["fits"] for way in made["alternatives"])


def test_the_table_calls_its_estimate_one(capsys, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} " + "word " * 200}) + "\n" for n in range(200)))
    plan(Path("recipes/default.yaml"), data, "128GB", as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "estimate: about" in shown
    assert "tokens/s (estimate)" in shown
    assert "nothing was measured yet" in shown
    assert "chosen" in shown


def test_the_config_of_a_model_that_is_nowhere_here_comes_from_the_hub(capsys, tmp_path, monkeypatch):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("base_model: org/tiny\n")
    monkeypatch.setenv("APPLIANCE_ALLOWED_BASE_MODELS", "org/*")
    # Said to other programs of this shell: here somebody asks.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with serve_models(
        {"org/tiny": {"config.json": json.dumps(TINY["granite"]).encode(), "model.safetensors": b"x"}}
    ) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        made = planned(capsys, recipe, "128GB")
        asked = {asked.path for asked in hub.requests}
    assert made["total_parameters"] == read_shape(TINY["granite"]).total_parameters
    assert not any(path.endswith(".safetensors") for path in asked)
    with pytest.raises(NotReadyError, match=r"config\.json of org/tiny is not on this machine") as caught:
        plan(recipe, None, "128GB", as_json=True)
    assert "only its config.json" in caught.value.hint


def test_a_hub_that_drops_the_line_is_not_asked_again_while_somebody_waits(tmp_path, monkeypatch):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("base_model: org/tiny\n")
    monkeypatch.setenv("APPLIANCE_ALLOWED_BASE_MODELS", "org/*")
    with serve_models({"org/tiny": {"config.json": b"{}"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.fault("HEAD", "", "drop")
        with pytest.raises(NotReadyError, match="the Hub cannot be reached"):
            plan(recipe, None, "128GB", as_json=True)
        assert [asked.method for asked in hub.requests] == ["HEAD"]


def test_a_65b_model_trains_under_48_gb():
    """The QLoRA paper's claim: at batch 1 and 512 tokens."""
    load = load_of(Recipe(base_model="org/model"), read_shape(LLAMA_65B), "gpu")
    bill = memory_bill(load, micro_batch=1, sequence=512, gradient_checkpointing=True)
    assert 35 * GB < bill.total_bytes < 48 * GB
