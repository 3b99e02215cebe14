import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from appliance.errors import InputError, Reason
from appliance.planning.architectures import ARCHITECTURES, WRAPPERS, read_shape
from appliance.planning.fitting import load_of
from appliance.planning.memory_bill import weights_bytes
from appliance.planning.model_shape import Tier
from appliance.planning.published import PUBLISHED
from appliance.recipe import Recipe
from appliance.recipe_yaml import parse_recipe
from appliance.stages.mirrors import mirror_in_4_bits
from tests import shapes
from tests.training_jobs import DEMO, ask

# In 16 bits nothing is looked up by name, and these are newer than the installed Unsloth's table; it loads their
# architectures (gemma4, qwen3_5) by its general way.
NEWER_THAN_THE_TABLE = {"Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-27B", "google/gemma-4-12B-it"}


@pytest.mark.parametrize(
    ("config", "total"),
    [
        # Published counts: the safetensors metadata shown on each repository's page.
        (shapes.LLAMA_31_8B, 8_030_261_248),
        (shapes.LLAMA_33_70B, 70_553_706_496),
        (shapes.MISTRAL_7B, 7_241_732_096),
        (shapes.QWEN3_8B, 8_190_735_360),
        (shapes.QWEN3_32B, 32_762_123_264),
        (shapes.QWEN25_7B, 7_615_616_512),
        (shapes.QWEN25_05B, 494_032_768),
        (shapes.PHI_4, 14_659_507_200),
        (shapes.GPT_OSS_20B, 20_914_757_184),
        (shapes.QWEN3_30B_A3B, 30_532_122_624),
        # The language model inside; the repository's own count adds the vision tower.
        (shapes.MISTRAL_SMALL_24B, 23_572_403_200),
    ],
)
def test_parameters_are_counted_exactly(config, total):
    assert read_shape(config).total_parameters == total


@pytest.mark.parametrize(
    ("config", "rank", "modules", "trainable"),
    [
        (shapes.LLAMA_31_8B, 16, "auto", 41_943_040),
        (shapes.LLAMA_33_70B, 16, "auto", 207_093_760),
        (shapes.MISTRAL_7B, 8, ("q_proj", "k_proj", "v_proj", "o_proj"), 6_815_744),
    ],
)
def test_trainable_parameters_are_counted_exactly(config, rank, modules, trainable):
    shape = read_shape(config)
    names = shape.targets(modules)
    assert sum(count * linear.lora_parameters(rank) for count, linear in shape.named(names)) == trainable


@pytest.mark.parametrize(
    ("config", "active"),
    # The model cards: 3.61 B without the embedding, and 3.3 B with it.
    [(shapes.GPT_OSS_20B, 3.61e9), (shapes.QWEN3_30B_A3B, 3.3e9 - 151_936 * 2048)],
)
def test_the_active_parameters_of_a_mixture_are_the_published_ones(config, active):
    assert read_shape(config).active_parameters == pytest.approx(active, rel=0.02)


def test_every_architecture_is_counted_as_transformers_builds_it(tmp_path):
    shipped = {name: {**figures, **shapes.TOWERS.get(name, {})} for name, figures in PUBLISHED.items()}
    configs = {**shapes.TINY, **shipped, "phi-4": shapes.PHI_4}
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    built = ask("tests.build_models", tmp_path / "configs.json")

    assert {config.get("text_config", config)["model_type"] for config in configs.values()} == set(ARCHITECTURES)
    for name, config in configs.items():
        shape, theirs = read_shape(config), built[name]
        ours: Counter[str] = Counter()
        for layer in shape.layers:
            for linear in layer.linears:
                ours[f"{linear.suffix} {linear.inputs} {linear.outputs} {linear.bias}"] += layer.count
        assert (name, shape.total_parameters, shape.tower_parameters) == (name, theirs["total"], theirs["towers"])
        assert (name, dict(ours)) == (name, theirs["linears"])
        assert (name, read_shape(theirs["saved"]).total_parameters) == (name, theirs["total"])


def test_the_demo_model_is_counted_as_its_file_says():
    folder = files("appliance") / "demo" / "model"
    shape = read_shape(json.loads((folder / "config.json").read_text()))
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    assert shape.total_parameters == sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)


def test_the_loaded_demo_model_has_the_bytes_of_the_plan(tmp_path):
    """Quantisation state and code tables included; then once more stored in 4 bits, with layers left in 16."""
    shape = read_shape(json.loads((DEMO / "config.json").read_text()))
    in_16_bits = ("model.layers.1.mlp", "model.layers.2.self_attn.q_proj")
    loaded = ask("tests.weigh_model", DEMO, tmp_path / "stored", *in_16_bits)
    assert loaded["in_4_bits"] == pytest.approx(weights_bytes(shape, load_in_4bit=True), rel=0.01)
    assert loaded["in_16_bits"] == weights_bytes(shape, load_in_4bit=False)

    stored = read_shape(json.loads((tmp_path / "stored" / "config.json").read_text()))
    assert loaded["stored"] == pytest.approx(weights_bytes(stored, load_in_4bit=True), rel=0.01)
    assert sum(count for count, linear in stored.named(stored.targets("auto")) if not linear.quantised) == 4


def test_the_layers_of_a_tower_that_stayed_in_16_bits_are_none_of_the_language_model():
    figures = PUBLISHED["google/gemma-4-31B-it"]

    def unquantised(*skipped: str) -> int:
        shape = read_shape(figures | {"quantization_config": {"llm_int8_skip_modules": skipped}})
        return sum(count for count, linear in shape.named(shape.targets("auto")) if not linear.quantised)

    towers = ("model.vision_tower.encoder.layers.1.mlp", "audio_tower.layers.2.self_attn.q_proj")
    assert unquantised("lm_head", *towers) == 0
    for prefix in ("model", "language_model.model", "model.language_model"):
        assert unquantised(*towers, f"{prefix}.layers.1.mlp", f"{prefix}.layers.12.self_attn.q_proj") == 4


def test_a_mixture_of_experts_is_trained_in_16_bits_only_and_says_why():
    for name in ("openai/gpt-oss-20b", "Qwen/Qwen3-30B-A3B-Instruct-2507"):
        shape = read_shape(PUBLISHED[name])
        assert shape.tier is Tier.IN_16_BIT
        assert "bitsandbytes does not quantise" in shape.tier_reason
        # The experts are no linear layers: nothing of them is adapted, and nobody is told that it was.
        assert set(shape.targets("auto")) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert read_shape(shapes.LLAMA_31_8B).tier is Tier.IN_4_BIT


@pytest.mark.parametrize("wrapper", ["llava", "mistral3"])
def test_a_model_whose_language_model_is_not_loaded_by_itself_is_refused(wrapper):
    """Its layers can be counted, but neither Unsloth nor plain PEFT would find them where the plan has them."""
    shape = read_shape(shapes.MISTRAL_SMALL_24B | {"model_type": wrapper})
    for load_in_4bit in (True, False):
        with pytest.raises(InputError) as caught:
            load_of(Recipe(base_model="org/model", load_in_4bit=load_in_4bit), shape, "gpu")
        (problem,) = caught.value.problems
        assert (problem.code, problem.key) == ("wrapper_not_loaded", "base_model")
        assert f"(mistral) lies inside of {wrapper}" in problem.message
        assert all(known in problem.message for known in WRAPPERS)


def test_the_wrapped_models_that_are_trained_are_loaded_by_themselves():
    loaded = set(ask("tests.wrappers"))
    assert set(WRAPPERS) <= loaded
    assert not {"llava", "mistral3"} & loaded
    assert {figures["model_type"] for figures in PUBLISHED.values() if "text_config" in figures} <= set(WRAPPERS)


def test_a_mixture_that_cannot_be_counted_is_refused_as_one():
    with pytest.raises(InputError) as caught:
        read_shape({"model_type": "deepseek_v3", "n_routed_experts": 256})
    assert "deepseek_v3, a mixture of 256 experts" in caught.value.problems[0].message


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(InputError) as caught:
        read_shape({"model_type": "rwkv"})
    assert "rwkv" in caught.value.problems[0].message
    # Its remedy is another base model, not a smaller one.
    assert caught.value.problems[0].reason is Reason.MODEL_NOT_ALLOWED
    assert "llama" in caught.value.problems[0].expected


def test_a_config_without_a_figure_says_which():
    with pytest.raises(InputError) as caught:
        read_shape({k: v for k, v in shapes.LLAMA_31_8B.items() if k != "intermediate_size"})
    assert caught.value.problems[0].expected == "intermediate_size"


def test_a_module_that_the_architecture_lacks_is_refused():
    with pytest.raises(InputError) as caught:
        read_shape(shapes.LLAMA_31_8B).targets(("q_proj", "c_attn"))
    assert [problem.found for problem in caught.value.problems] == ["c_attn"]


def test_every_shipped_model_has_figures_and_is_one_that_unsloth_knows():
    recipes = [parse_recipe(path.read_bytes(), name=path.name) for path in Path("recipes").glob("*.yaml")]
    four = {recipe.base_model: recipe.load_in_4bit for recipe in recipes if recipe.base_model != "demo"}
    assert set(four) == set(PUBLISHED)

    loaded = ask("tests.unsloth_names", *four)
    for name, in_4_bits in four.items():
        if in_4_bits:
            assert loaded[name][0] == mirror_in_4_bits(name)
            assert loaded[name][0].endswith("-bnb-4bit")
        elif name not in NEWER_THAN_THE_TABLE:
            assert loaded[name][1] == f"unsloth/{name.partition('/')[2]}"
    assert all(loaded[name] == [name, name] for name in NEWER_THAN_THE_TABLE)
