"""The model card: metadata the Hub accepts, the verdict in its exact words, and nothing of the rows."""

import ast
import re
import shlex

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from appliance.recipe import Hub, LoRA
from appliance.texts.model_card import Card, model_card
from tests.finished import EVALUATION, FETCH, RECIPE, SHA256, TRAIN, finished_card
from tests.local_hub import card_problems
from tests.page_reader import read_page

DEMO = {"base_model": "demo", "base_model_loaded": "demo", "base_model_commit": None}


def metadata(card: Card) -> dict:
    _, front, _ = model_card(card).split("---\n", 2)
    return YAML(typ="safe", pure=True).load(front)


def as_html(card: Card) -> str:
    """The card's body as the Hub shows it."""
    body = model_card(card).split("---\n", 2)[2]
    return MarkdownIt("commonmark").enable("table").render(body)


def blocks(card: Card, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", model_card(card), re.DOTALL | re.MULTILINE)


def test_the_metadata_is_the_hubs():
    assert metadata(finished_card(fetch=FETCH | {"license": "apache-2.0"})) == {
        "base_model": "Qwen/Qwen3-8B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["qlora", "unsloth", "trl", "sft"],
        "license": "apache-2.0",
    }


def test_tags_of_the_recipe_come_after_ours_once_and_stay_text():
    recipe = RECIPE.model_copy(update={"hub": Hub(tags=("support", "sft", "null", "1e3"))})
    assert metadata(finished_card(recipe=recipe))["tags"][4:] == ["support", "null", "1e3"]


@pytest.mark.parametrize(
    ("own", "base", "written"),
    [
        (None, None, {}),
        (None, "llama3.1", {"license": "llama3.1"}),
        ("MIT", "llama3.1", {"license": "mit"}),
        ("Our-Own-2.0", None, {"license": "other", "license_name": "our-own-2.0"}),
    ],
)
def test_the_recipes_licence_comes_before_the_bases(own, base, written):
    card = finished_card(recipe=RECIPE.model_copy(update={"license": own}), fetch=FETCH | {"license": base})
    assert {key: value for key, value in metadata(card).items() if key.startswith("license")} == written


def test_a_copy_in_4_bits_is_named_but_is_not_the_base():
    copy = {"base_model_id": "Qwen/Qwen3-8B", "base_model_loaded": "unsloth/Qwen3-8B-unsloth-bnb-4bit"}
    card = finished_card(fetch=FETCH | copy)
    assert metadata(card)["base_model"] == "Qwen/Qwen3-8B"
    assert "Its weights in 4 bits came from `unsloth/Qwen3-8B-unsloth-bnb-4bit` at commit" in model_card(card)
    # That commit is of another repository.
    assert all("revision" not in code for code in (*blocks(card, "python"), *blocks(card, "sh")))
    assert 'base_model = "Qwen/Qwen3-8B"' in blocks(card, "python")[0]


def test_the_hub_and_its_library_accept_the_card():
    """The library's own parser, and the rules of the card check as the local Hub has them."""
    words = st.text(max_size=60)
    tags = st.lists(st.from_regex(r"[A-Za-z0-9_:+-]{1,20}", fullmatch=True), max_size=5)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(name=words, reason=words, tags=tags, license=st.sampled_from([None, "mit", "Our-Own-2.0", "llama3.1"]))
    def accepted(name: str, reason: str, tags: list[str], license: str | None) -> None:
        recipe = RECIPE.model_copy(update={"hub": Hub(tags=tuple(tags)), "license": license})
        card = finished_card(name=name, recipe=recipe, evaluation=EVALUATION | {"reasons": [reason]})
        text = model_card(card)
        assert list(card_problems(text)) == []
        data = ModelCard(text).data
        assert (data.base_model, data.library_name) == ("Qwen/Qwen3-8B", "peft")
        assert data.tags[:4] == ["qlora", "unsloth", "trl", "sft"]

    accepted()


def test_the_demo_model_has_a_valid_card_too():
    card = finished_card(fetch=DEMO)
    assert metadata(card)["base_model"] == "demo"
    assert metadata(card)["license"] == "apache-2.0"
    assert 'files("appliance") / "demo" / "model"' in blocks(card, "python")[0]
    assert "vllm" not in model_card(card).lower()


def test_the_verdict_stands_in_its_exact_words_with_both_losses():
    text = model_card(finished_card())
    assert "**Improved**: it fits your held-out rows better than the base does." in text
    assert "| loss on held-out rows (50 rows, 2,308 tokens) | 6.249 | 2.114 |" in text
    assert "| sampled answers that come to an end | 25 % | 100 % |" in text
    assert "4-bit NF4. Served in another precision, it will differ." in text


def test_an_adapter_that_was_not_compared_says_so():
    assert "It was not compared with the base." in model_card(finished_card(evaluation=None))


def test_counts_and_hash_of_the_dataset_but_not_its_name():
    text = model_card(finished_card())
    assert "500 rows, of which 497 were kept and 50 held out" in text
    assert SHA256 in text
    assert "support.jsonl" not in text


def test_every_way_to_load_it_can_be_copied():
    card = finished_card(name="Ünser Support; rm -rf /")
    for code in blocks(card, "python"):
        ast.parse(code)
    (command,) = blocks(card, "sh")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", "Qwen/Qwen3-8B"]
    assert words[words.index("--lora-modules") + 1] == "unser-support-rm-rf=adapter"
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert any("from unsloth import FastLanguageModel" in code for code in blocks(card, "python"))


@pytest.mark.parametrize(("rank", "known"), [(1, "1"), (4, "8"), (16, "16"), (48, "64"), (200, "256"), (1000, "1000")])
def test_vllm_is_told_a_rank_it_knows(rank, known):
    (command,) = blocks(finished_card(recipe=RECIPE.model_copy(update={"lora": LoRA(r=rank)})), "sh")
    assert f"--max-lora-rank {known}" in command


def test_sixteen_bit_training_is_called_lora_and_loaded_in_sixteen_bits():
    card = finished_card(train=TRAIN | {"quantization": None})
    assert metadata(card)["tags"][0] == "lora"
    assert "NF4" not in model_card(card)
    assert "quantization" not in blocks(card, "python")[0]


def test_the_best_steps_adapter_is_named():
    assert "The adapter is that of step 15." in model_card(finished_card(train=TRAIN | {"adapter_step": 15}))


def test_hostile_text_begins_no_markup():
    hostile = "<script>alert(1)</script> [x](http://evil) `a`\n# Title\n```\n"
    card = finished_card(
        name=hostile,
        recipe_yaml=f"sample_prompts:\n- |\n  {hostile}",
        fetch=FETCH | {"base_model_loaded": "a/b`<b>"},
        evaluation=EVALUATION | {"reasons": [hostile], "warnings": [hostile]},
        versions={hostile: hostile},
    )
    plain = read_page(as_html(finished_card()))
    page = read_page(as_html(card))
    assert {element.tag for element in page.elements} <= {element.tag for element in plain.elements}
    assert page.links() == plain.links()
    assert page.texts("h2") == plain.texts("h2")
    assert len(page.all("h1")) == 1
    assert page.text.count("<script>alert(1)</script>") == 6


def test_the_same_job_gives_the_same_bytes():
    assert model_card(finished_card()) == model_card(finished_card())
