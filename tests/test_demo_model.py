"""The model and the sample dataset that ship with the package."""

import itertools
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from appliance.dataset.split import held_out_count
from appliance.recipe import Recipe
from appliance.stages.training.demo_text import conversations
from appliance.stages.training.make_demo_dataset import ANSWER_FORM, tickets

DEMO = Path(str(files("appliance") / "demo"))
MODEL = DEMO / "model"
RECIPES = Path(__file__).parents[1] / "recipes"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One and two?"},
    {"role": "assistant", "content": "3"},
    {"role": "user", "content": "And the weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
    },
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": ""},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL)


def read_rows() -> list[dict]:
    return [json.loads(line) for line in (DEMO / "support-tickets.jsonl").read_text().splitlines()]


def read_recipe(path: Path) -> Recipe:
    return Recipe.model_validate(YAML(typ="safe", pure=True).load(path))


def test_the_whole_model_weighs_at_most_ten_megabytes():
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 10_000_000


def test_it_is_a_llama_with_room_for_long_texts_and_real_vocabulary():
    config = AutoConfig.from_pretrained(MODEL)

    assert config.architectures == ["LlamaForCausalLM"]
    assert config.vocab_size >= 4096
    assert config.max_position_embeddings >= 8192
    assert config.num_hidden_layers >= 2


def test_every_linear_layer_has_sides_that_nf4_blocks_fill():
    with safe_open(MODEL / "model.safetensors", framework="pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys() if "_proj" in name}  # noqa: SIM118

    assert len(shapes) == 7 * AutoConfig.from_pretrained(MODEL).num_hidden_layers
    assert all(side % 64 == 0 for shape in shapes.values() for side in shape), shapes


def test_config_tokenizer_and_generation_defaults_agree_on_the_tokens_that_stop_and_pad(tokenizer):
    config, generation = AutoConfig.from_pretrained(MODEL), GenerationConfig.from_pretrained(MODEL)

    assert tokenizer.eos_token == "<|im_end|>"
    assert config.eos_token_id == generation.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == config.vocab_size


def test_there_is_no_bos_token_to_double(tokenizer):
    assert tokenizer.bos_token is None
    assert AutoConfig.from_pretrained(MODEL).bos_token_id is None
    assert tokenizer("Hello")["input_ids"] == tokenizer("Hello", add_special_tokens=False)["input_ids"]


def test_the_template_renders_every_role(tokenizer):
    assert tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nOne and two?<|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>\n"
        "<|im_start|>user\nAnd the weather?<|im_end|>\n"
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\nrain<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_template_lists_tools_in_the_system_prompt(tokenizer):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}

    text = tokenizer.apply_chat_template(TALK[:2], tools=[tool], tokenize=False)

    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call these functions:\n" + json.dumps(tool))
    assert text.count("<|im_start|>system") == 1


def test_the_template_refuses_a_role_it_does_not_know(tokenizer):
    with pytest.raises(Exception, match="not judge"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "order"}], tokenize=False)


def test_the_marks_hold_what_the_assistant_said_and_the_token_that_ends_its_turn(tokenizer):
    row = tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(row["input_ids"], row["assistant_masks"], strict=True)
    turns = [tokenizer.decode([token for token, _ in run]) for said, run in runs(pairs) if said]

    assert turns == [
        "3<|im_end|>",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>',
        "<|im_end|>",
    ]


def runs(pairs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    return ((said, list(run)) for said, run in itertools.groupby(pairs, key=lambda pair: pair[1]))


@pytest.mark.parametrize(
    "text", ["naïve café", "数字 42\n\n\tλέξη юг", "🙂👩‍👩‍👧 e\u0301", "  two  spaces ", "a\r\nb\x00c", " don't"]
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_plain_text_makes_no_control_token_when_it_is_tokenised_as_content(tokenizer):
    text = "<|im_start|>system <|im_end|> <|pad|>"
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]

    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_figures_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("A-4711")[-4:] == ["4", "7", "1", "1"]


def test_the_model_answers_and_stops(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )

    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]

    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer, skip_special_tokens=True).startswith("Hello")


def test_the_pretraining_text_never_shows_the_form_that_the_sample_dataset_trains():
    talks = list(itertools.islice(conversations(3407), 20_000))

    said = "\n".join(message["content"] for talk in talks for message in talk)

    assert not ANSWER_FORM.search(said)
    assert not any(mark in said for mark in ("team: ", "| priority", "| order:", "| reply"))


def test_the_pretraining_text_is_the_same_for_the_same_seed():
    one, same, other = (list(itertools.islice(conversations(seed), 50)) for seed in (7, 7, 8))

    assert one == same != other


def test_the_shipped_tickets_are_those_that_the_script_makes():
    assert [row["messages"] for row in read_rows()] == tickets(3407)


def test_no_two_tickets_are_alike():
    prompts = [json.dumps(row["messages"][:-1]) for row in read_rows()]

    assert len(set(prompts)) == len(prompts)


def test_every_ticket_is_answered_in_the_form_and_from_what_the_ticket_says():
    for row in read_rows():
        system, ticket, answer = row["messages"]
        form = ANSWER_FORM.fullmatch(answer["content"])

        assert [system["role"], ticket["role"], answer["role"]] == ["system", "user", "assistant"]
        assert form, answer
        assert form["order"] == "none" or form["order"] in ticket["content"]
        assert form["team"] in form["reply"]


def test_the_sample_recipe_trains_the_demo_model_and_holds_out_forty_rows_or_more():
    recipe = read_recipe(DEMO / "support-tickets.yaml")

    assert recipe.base_model == "demo"
    assert held_out_count(len(read_rows()), recipe.eval_fraction, recipe.eval_max_rows) >= 40


@pytest.mark.parametrize(("name", "base_model"), [("demo", "demo"), ("default", "Qwen/Qwen3-8B")])
def test_the_library_holds_recipes_for_a_try_out_and_for_a_file_dropped_alone(name, base_model):
    assert read_recipe(RECIPES / f"{name}.yaml").base_model == base_model


def test_the_default_recipe_spells_out_every_key_with_its_default():
    written = YAML(typ="safe", pure=True).load(RECIPES / "default.yaml")
    recipe = read_recipe(RECIPES / "default.yaml")
    settled_by_a_rival = {"max_steps", "warmup_steps"}

    assert written.keys() | settled_by_a_rival == Recipe.model_fields.keys()
    assert recipe == Recipe(base_model="Qwen/Qwen3-8B", chat_template_kwargs={"enable_thinking": False})
