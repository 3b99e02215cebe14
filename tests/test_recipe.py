"""What a recipe may say, and what becomes of two recipes that lie over each other."""

import math
from typing import get_args

import pytest
from pydantic import ValidationError

from appliance.chat_templates import KNOWN
from appliance.job import Priority
from appliance.recipe import EXPECTED, ChatTemplate, Recipe, resolve


def test_a_recipe_needs_only_a_base_model_and_has_the_defaults_of_the_contract():
    assert Recipe(base_model="demo").model_dump(mode="json") == {
        "base_model": "demo",
        "revision": None,
        "method": "sft",
        "dataset": None,
        "sha256": None,
        "eval_fraction": 0.05,
        "eval_max_rows": 500,
        "max_seq_length": "auto",
        "long_examples": "reject_over_5_percent",
        "chat_template": None,
        "chat_template_kwargs": {},
        "train_on": "responses",
        "packing": "auto",
        "load_in_4bit": True,
        "lora": {"r": 16, "alpha": 16, "dropout": 0.0, "target_modules": "auto", "use_rslora": False},
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.05,
        "warmup_steps": None,
        "weight_decay": 0.001,
        "max_grad_norm": 1.0,
        "optim": "adamw_8bit",
        "num_train_epochs": "auto",
        "max_steps": None,
        "effective_batch_size": "auto",
        "per_device_train_batch_size": "auto",
        "gradient_checkpointing": "auto",
        "neftune_noise_alpha": None,
        "early_stopping_patience": None,
        "keep_best": "auto",
        "seed": 3407,
        "sample_prompts": [],
        "hub": {"push": None, "repo": None, "public": False, "tags": []},
        "license": None,
        "priority": "normal",
    }


def test_every_key_says_which_values_work():
    keys = set(Recipe.model_fields) | {f"lora.{key}" for key in Recipe.model_fields["lora"].annotation.model_fields}
    assert keys <= EXPECTED.keys()
    assert all(EXPECTED.values())


def test_the_templates_a_recipe_may_name_are_the_ones_there_are():
    assert set(get_args(ChatTemplate)) == set(KNOWN)


GOOD = [
    ("learning_rate", 0, 0.0),
    ("learning_rate", "2e-4", 2e-4),  # quoted, as other tools need it
    ("max_seq_length", 8192, 8192),
    ("packing", False, False),
    ("packing", "no", False),  # a word in YAML 1.2, and plainly meant
    ("gradient_checkpointing", True, True),
    ("eval_fraction", 0, 0.0),
    ("max_grad_norm", 0, 0.0),
    ("warmup_steps", 0, 0),
    ("max_steps", 1e3, 1000),
    ("num_train_epochs", 1.5, 1.5),
    ("effective_batch_size", 1, 1),
    ("revision", "refs/pr/4", "refs/pr/4"),
    ("dataset", "Übersicht (neu) 2.jsonl", "Übersicht (neu) 2.jsonl"),
    ("dataset", "job:0007", "job:0007"),
    ("dataset", "hub:org/name", "hub:org/name"),
    ("sha256", "AB" * 32, "ab" * 32),
    ("chat_template_kwargs", {"enable_thinking": False}, {"enable_thinking": False}),
    ("priority", "high", Priority.HIGH),
    ("optim", "paged_adamw_8bit", "paged_adamw_8bit"),
    ("license", "cc-by-nc-4.0", "cc-by-nc-4.0"),
    ("sample_prompts", ["Hello?"], ("Hello?",)),
]


@pytest.mark.parametrize(("key", "value", "read"), GOOD)
def test_good_values(key, value, read):
    assert getattr(Recipe(base_model="a/b", **{key: value}), key) == read


BAD = [
    ("base_model", "../../etc"),
    ("base_model", "/models/x"),
    ("base_model", "https://huggingface.co/a/b"),
    ("base_model", "a/b/c"),
    ("base_model", "a b"),
    ("base_model", ""),
    ("base_model", 7),
    ("base_model", "x" * 300),
    ("revision", "a..b"),
    ("revision", "-rf"),
    ("revision", 1234567),
    ("method", "rlhf"),
    ("dataset", "../secret.jsonl"),
    ("dataset", "a/b.jsonl"),
    ("dataset", "a\\b.jsonl"),
    ("dataset", "C:\\data.jsonl"),
    ("dataset", "https://example.org/x.jsonl"),
    ("dataset", "file:x.jsonl"),
    ("dataset", "~root"),
    ("dataset", ".."),
    ("dataset", ""),
    ("dataset", "a\nb"),
    ("dataset", "job:seven"),
    ("dataset", "hub:name"),
    ("dataset", "hub:../x"),
    ("sha256", "abc"),
    ("sha256", "g" * 64),
    ("eval_fraction", 0.9),
    ("eval_fraction", -0.1),
    ("eval_max_rows", -1),
    ("max_seq_length", 1_000_000_000),
    ("max_seq_length", 0),
    ("max_seq_length", "long"),
    ("max_seq_length", 10**400),
    ("long_examples", "split"),
    ("chat_template", "{% for m in messages %}"),
    ("chat_template_kwargs", {"tools": []}),
    ("chat_template_kwargs", {"enable_thinking": "perhaps"}),
    ("train_on", "prompts"),
    ("packing", "perhaps"),
    ("load_in_4bit", "auto"),
    ("lora", 16),
    ("lora", {"r": 0}),
    ("lora", {"r": 100_000}),
    ("lora", {"r": 8.5}),
    ("lora", {"dropout": 1}),
    ("lora", {"dropout": math.nan}),
    ("lora", {"target_modules": "q_proj,v_proj"}),
    ("lora", {"target_modules": []}),
    ("lora", {"target_modules": ["../x"]}),
    ("learning_rate", -1),
    ("learning_rate", math.nan),
    ("learning_rate", math.inf),
    ("learning_rate", True),
    ("learning_rate", "fast"),
    ("learning_rate", None),
    ("lr_scheduler_type", "reduce_lr_on_plateau"),
    ("warmup_ratio", 2),
    ("warmup_steps", -1),
    ("weight_decay", -0.1),
    ("optim", "sgd_of_my_own"),
    ("num_train_epochs", 0),
    ("num_train_epochs", 1e9),
    ("num_train_epochs", True),
    ("max_steps", 0),
    ("max_steps", 1.5),
    ("effective_batch_size", 0),
    ("per_device_train_batch_size", -2),
    ("neftune_noise_alpha", 0),
    ("early_stopping_patience", 0),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", True),
    ("sample_prompts", "Hello?"),
    ("sample_prompts", ["x"] * 9),
    ("sample_prompts", [""]),
    ("hub", {"repo": "org/name"}),
    ("hub", {"repo": "../x"}),
    ("hub", {"repo": "a--b"}),
    ("hub", {"repo": "support.git"}),
    ("hub", {"repo": "support-"}),
    ("hub", {"tags": ["<b>"]}),
    ("hub", {"organization": "us"}),
    ("license", "see below"),
    ("priority", "urgent"),
    ("trust_remote_code", True),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_bad_values(key, value):
    with pytest.raises(ValidationError):
        Recipe(**{"base_model": "a/b", key: value})


def test_a_recipe_that_was_written_as_json_is_read_back_as_it_was():
    recipe = Recipe(base_model="a/b", max_steps=60, warmup_steps=3, lora={"target_modules": ["q_proj"]})
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("named", "value", "rival"),
    [
        ("max_steps", 60, "num_train_epochs"),
        ("num_train_epochs", 2, "max_steps"),
        ("warmup_steps", 5, "warmup_ratio"),
        ("warmup_ratio", 0.1, "warmup_steps"),
    ],
)
def test_naming_one_of_two_rivals_takes_the_other_away(named, value, rival):
    recipe = Recipe(base_model="demo", **{named: value})
    assert getattr(recipe, named) == value
    assert getattr(recipe, rival) is None


def test_naming_both_rivals_is_a_mistake():
    with pytest.raises(ValidationError, match="exclude each other"):
        Recipe(base_model="demo", num_train_epochs=2, max_steps=60)


def test_auto_is_no_rival():
    assert Recipe(base_model="demo", num_train_epochs="auto", max_steps=60).num_train_epochs is None


def test_a_recipe_lies_over_its_library_recipe_key_by_key():
    library = {"base_model": "a/b", "learning_rate": 1e-4, "lora": {"r": 32, "alpha": 64}}
    assert resolve({"lora": {"r": 8}, "seed": 1}, library) == {
        "base_model": "a/b",
        "learning_rate": 1e-4,
        "lora": {"r": 8, "alpha": 64},
        "seed": 1,
    }


def test_a_key_replaces_the_rival_in_the_library_recipe():
    library = {"base_model": "a/b", "num_train_epochs": 3, "warmup_ratio": 0.1}
    assert resolve({"max_steps": 60}, library) == {"base_model": "a/b", "warmup_ratio": 0.1, "max_steps": 60}


def test_a_group_that_is_no_group_is_left_for_the_model_to_refuse():
    assert resolve({"lora": 16}, {"lora": {"r": 8}}) == {"lora": 16}
