"""Wrapped models and mixtures of experts go the whole way: planned, trained as planned, loaded again by plain PEFT."""

import json

import pytest
from safetensors import safe_open

from appliance.job import Stage
from appliance.planning.architectures import read_shape
from appliance.planning.machine import Machine
from appliance.planning.plan import DataFacts, make_plan
from appliance.recipe import Recipe
from tests.jobs import run_stages
from tests.training_jobs import ask, ready_to_train

MACHINE = Machine(memory_bytes=16 * 10**9, reserve_bytes=10**9, kind="cpu", flops_per_second=1e10)


@pytest.mark.train
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        # As plain Transformers loads them: Qwen 3.5 without its tower, Gemma with it.
        ("qwen3_5", "base_model.model.model.layers."),
        pytest.param("qwen3_5_moe", "base_model.model.model.layers.", marks=pytest.mark.soak),
        pytest.param("gemma3", "base_model.model.model.language_model.layers.", marks=pytest.mark.soak),
        pytest.param("gemma4", "base_model.model.model.language_model.layers.", marks=pytest.mark.soak),
        pytest.param("qwen3_moe", "base_model.model.model.layers.", marks=pytest.mark.soak),
        pytest.param("gpt_oss", "base_model.model.model.layers.", marks=pytest.mark.soak),
    ],
)
def test_it_is_trained_as_planned_and_its_adapter_has_an_effect(tmp_path, kind, prefix):
    base = tmp_path / f"org--{kind}"
    ask("tests.make_tiny_model", kind, base)
    steps = {"max_steps": 3, "num_train_epochs": None, "load_in_4bit": False}
    job = ready_to_train(tmp_path, rows=12, eval_rows=4, micro_batch=2, accumulation=1, **steps)
    recipe = Recipe.model_validate_json((job.path / "check" / "recipe.json").read_text())
    data = DataFacts(rows=12, examples=12, tokens=500, max_seq_length=64)
    plan = make_plan(recipe, read_shape(json.loads((base / "config.json").read_text())), data, MACHINE)
    (job.path / "prepare" / "plan.json").write_text(json.dumps(plan.as_json()))
    job.write_result(Stage.FETCH, {"base_model_loaded": f"org/{kind}", "path": str(base)})

    run_stages(job, Stage.TRAIN, Stage.VERIFY, APPLIANCE_STATE=str(tmp_path / "state"))

    trained, verified = job.result(Stage.TRAIN), job.result(Stage.VERIFY)
    assert trained["trainable_parameters"] == plan.trainable_parameters
    assert sum(trained["target_modules"].values()) == plan.target_module_count
    with safe_open(job.path / "train" / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert all(name.startswith(prefix) for name in names)
    assert verified["base_loss"] != verified["tuned_loss"]
