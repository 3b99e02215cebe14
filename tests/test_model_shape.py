import json
from importlib.resources import files

import pytest

from appliance.errors import InputError
from appliance.planning.model_shape import read_shape
from tests import shapes


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
    assert shape.layers * sum(linear.lora_parameters(rank) for linear in shape.targets(modules)) == trainable


def test_the_demo_model_is_counted_as_its_file_says():
    folder = files("appliance") / "demo" / "model"
    shape = read_shape(json.loads((folder / "config.json").read_text()))
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    assert shape.total_parameters == sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(InputError) as caught:
        read_shape({"model_type": "rwkv"})
    assert "rwkv" in caught.value.problems[0].message
    assert "llama" in caught.value.problems[0].expected


def test_a_config_without_a_figure_says_which():
    with pytest.raises(InputError) as caught:
        read_shape({k: v for k, v in shapes.LLAMA_31_8B.items() if k != "intermediate_size"})
    assert caught.value.problems[0].expected == "intermediate_size"


def test_a_module_that_the_architecture_lacks_is_refused():
    with pytest.raises(InputError) as caught:
        read_shape(shapes.LLAMA_31_8B).targets(("q_proj", "c_attn"))
    assert [problem.found for problem in caught.value.problems] == ["c_attn"]
