"""How recipes are read, and what is said about those that cannot be used."""

import time
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import InputError, Problem, Reason
from appliance.job import Priority
from appliance.recipe import Recipe
from appliance.recipe_yaml import Peek, parse_recipe, peek, read_recipe, recipe_as_yaml


def problems_of(text: str | bytes, **library) -> tuple[Problem, ...]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(InputError) as caught:
        parse_recipe(data, name="support.yaml", **library)
    return caught.value.problems


def test_a_recipe_of_one_line():
    assert parse_recipe(b"base_model: demo\n", name="r.yaml") == Recipe(base_model="demo")


def test_three_mistakes_come_back_together_each_with_its_line_and_its_remedy():
    problems = problems_of("base_model: demo\nlearning_rate: -1\nlora:\n  rank: 8\nepochs: 3\n")
    assert [str(problem) for problem in problems] == [
        "support.yaml:2: learning_rate is -1; it must be a number from 0 to 1, such as 2e-4",
        "support.yaml:4: lora.rank is not a recipe key; did you mean lora.r?",
        "support.yaml:5: epochs is not a recipe key; did you mean num_train_epochs?",
    ]
    assert [problem.key for problem in problems] == ["learning_rate", "lora.rank", "epochs"]
    assert {problem.reason for problem in problems} == {Reason.RECIPE_SCHEMA}


class Bad(NamedTuple):
    text: str | bytes
    code: str
    line: int | None
    says: str


BASE = "base_model: demo\n"
BAD = {
    # YAML that is no plain list of settings
    "list at the top": Bad("- base_model: demo\n", "not_a_map", 1, "a recipe is lines such as base_model: demo"),
    "plain text": Bad("hello\n", "not_a_map", 1, "a space after the colon"),
    "no space after the colon": Bad("base_model:demo\n", "not_a_map", 1, "a space after the colon"),
    "python object": Bad(BASE + "license: !!python/object:os.system x\n", "yaml_tag", 2, "remove it"),
    "python object of a map": Bad(BASE + "lora: !!python/object:x.Y {r: 1}\n", "yaml_tag", 2, "!!python/object:x.Y"),
    "own tag": Bad(BASE + "seed: !secret 1\n", "yaml_tag", 2, "!secret"),
    "tag of the schema": Bad(BASE + "seed: !!str 1\n", "yaml_tag", 2, "!!str"),
    "anchor": Bad(BASE + "seed: &s 1\n", "yaml_anchor", 2, "remove it"),
    "alias": Bad(BASE + "seed: *s\n", "yaml_alias", 2, "write the value out"),
    "billion laughs": Bad("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n" + BASE, "yaml_anchor", 1, "&a"),
    "merge key": Bad(BASE + "<<: {seed: 1}\n", "unknown_key", 2, "<<"),
    "two documents": Bad(BASE + "---\nseed: 1\n", "several_documents", 2, "one document"),
    "directive": Bad("%YAML 1.1\n---\n" + BASE, "yaml_directive", 2, "remove it"),
    "duplicate key": Bad(BASE + "seed: 1\nseed: 2\n", "duplicate_key", 3, "here and on line 2"),
    "duplicate key in a group": Bad(BASE + "lora:\n  r: 1\n  r: 2\n", "duplicate_key", 4, "lora.r is set twice"),
    "duplicate key in a flow map": Bad(BASE + "lora: {r: 1, r: 2}\n", "duplicate_key", 2, "lora.r is set twice"),
    "rows": Bad('{"text": "a"}\n{"text": "b"}\n', "not_a_recipe", 1, "looks like a dataset"),
    "many rows": Bad("\ufeff" + '{"text": "a"}\r\n' * 9_000, "not_a_recipe", 1, "looks like a dataset"),
    "more behind the end": Bad("{base_model: demo}\nseed: 1\n", "yaml_syntax", 2, "a recipe is lines such as"),
    "tab": Bad(BASE + "lora:\n\tr: 8\n", "tab", 3, "YAML wants spaces"),
    "tab behind a colon": Bad(BASE + "seed:\t8\n", "yaml_syntax", 2, "use spaces"),
    "unclosed quote": Bad(BASE + 'license: "mit\n', "yaml_syntax", 2, "never closed"),
    "unclosed bracket": Bad(BASE + "sample_prompts: [a, b\nseed: 1\n", "yaml_syntax", 2, "never closed"),
    "two colons": Bad(BASE + "license: a: b\n", "yaml_syntax", 2, "in quotes"),
    "no colon": Bad(BASE + "seed\n", "yaml_syntax", 2, "no colon"),
    "percent sign": Bad(BASE + "license: %x\n", "yaml_syntax", 2, "in quotes"),
    "crooked indentation": Bad(BASE + "lora:\n    r: 8\n  alpha: 8\n", "yaml_syntax", 4, "not indented like"),
    "complex key": Bad(BASE + "? [a, b]\n: 1\n", "complex_key", 2, "base_model: demo"),
    "nested deep": Bad(BASE + "lora: " + "[" * 50_000, "too_deep", 2, "8 levels"),
    "nested deep in maps": Bad("{a: " * 15_000, "too_deep", 1, "8 levels"),
    "nested deep in dashes": Bad("- " * 30_000, "too_deep", 1, "8 levels"),
    "ten megabytes": Bad(b"#" * 10_000_000, "recipe_too_large", None, "64 KiB"),
    "UTF-16": Bad(BASE.encode("utf-16"), "not_utf8", None, "UTF-8"),
    "Latin-1": Bad(BASE.encode() + b"license: \xe9\n", "not_utf8", 2, "UTF-8"),
    "NUL bytes": Bad(BASE.encode() + b"\0" * 400, "nul_bytes", 2, "copy it again"),
    "control character": Bad(BASE + "license: a\x1bb\n", "control_character", 2, "U+001B"),
    "binary": Bad(bytes(range(256)), "nul_bytes", 1, "copy it again"),
    # keys
    "empty": Bad("", "missing_key", None, "Qwen/Qwen3-8B"),
    "only a comment": Bad("# to do\n", "missing_key", None, "base_model is missing"),
    "misspelt": Bad("base_modle: demo\n", "unknown_key", 1, "did you mean base_model?"),
    "dashes": Bad(BASE + "learning-rate: 1e-4\n", "unknown_key", 2, "did you mean learning_rate?"),
    "upper case": Bad(BASE + "Seed: 1\n", "unknown_key", 2, "did you mean seed?"),
    "lr": Bad(BASE + "lr: 1e-4\n", "unknown_key", 2, "did you mean learning_rate?"),
    "axolotl": Bad(BASE + "micro_batch_size: 2\n", "unknown_key", 2, "did you mean per_device_train_batch_size?"),
    "axolotl's length": Bad(BASE + "sequence_len: 2048\n", "unknown_key", 2, "did you mean max_seq_length?"),
    "LLaMA-Factory's length": Bad(BASE + "cutoff_len: 2048\n", "unknown_key", 2, "did you mean max_seq_length?"),
    "Transformers' model": Bad("model_name_or_path: a/b\n", "unknown_key", 1, "did you mean base_model?"),
    "batch size": Bad(BASE + "batch_size: 8\n", "unknown_key", 2, "did you mean effective_batch_size?"),
    "accumulation": Bad(BASE + "gradient_accumulation_steps: 4\n", "unknown_key", 2, "effective_batch_size"),
    "PEFT's rank": Bad(BASE + "lora_r: 8\n", "unknown_key", 2, "did you mean r, indented below lora:?"),
    "a group's key at the top": Bad(BASE + "alpha: 8\n", "unknown_key", 2, "did you mean alpha, indented below lora:?"),
    "dotted key": Bad(BASE + "lora.r: 8\n", "unknown_key", 2, "lora: and, indented below it, r:"),
    "Hub id": Bad(BASE + "hub_model_id: x\n", "unknown_key", 2, "did you mean repo, indented below hub:?"),
    "remote code": Bad(BASE + "trust_remote_code: true\n", "unknown_key", 2, "never run here"),
    "token": Bad(BASE + "hub_token: hf_x\n", "unknown_key", 2, "a recipe holds no tokens"),
    "output folder": Bad(BASE + "output_dir: /tmp/x\n", "unknown_key", 2, "results go to the outbox"),
    "organisation": Bad(BASE + "hub:\n  organization: us\n", "unknown_key", 3, "hub.organization"),
    "far off": Bad(BASE + "zebra: 1\n", "unknown_key", 2, "remove the line"),
    # values
    "below zero": Bad(BASE + "learning_rate: -1\n", "bad_value", 2, "learning_rate is -1; it must be a number from 0"),
    "not a number": Bad(BASE + "learning_rate: .nan\n", "bad_value", 2, "learning_rate is .nan"),
    "nothing": Bad(BASE + "learning_rate:\n", "bad_value", 2, "or leave the line out"),
    "huge rank": Bad(
        BASE + "lora:\n  r: 100000\n", "bad_value", 3, "lora.r is 100000; it must be a whole number from 1"
    ),
    "huge length": Bad(BASE + "max_seq_length: 1000000000\n", "bad_value", 2, "from 16 to 262144"),
    "endless number": Bad(BASE + f"max_seq_length: {'9' * 5000}\n", "bad_value", 2, "from 16 to 262144"),
    "huge epochs": Bad(BASE + "num_train_epochs: 1e9\n", "bad_value", 2, "num_train_epochs is 1e9"),
    "path traversal": Bad(BASE + "dataset: ../../etc/passwd\n", "bad_value", 2, "the bare name of a file"),
    "URL": Bad(BASE + "dataset: https://x.org/a.jsonl\n", "bad_value", 2, "the bare name of a file"),
    "list for a word": Bad("base_model: [a, b]\n", "bad_value", 1, "base_model is a list"),
    "group for a word": Bad("base_model:\n  name: a\n", "bad_value", 1, "base_model is a group of keys"),
    "word for a group": Bad(BASE + "lora: 16\n", "bad_value", 2, "such as r: 16"),
    "true for a number": Bad(BASE + "seed: true\n", "bad_value", 2, "a whole number"),
    "words for a list": Bad(BASE + "lora:\n  target_modules: q_proj,v_proj\n", "bad_value", 3, "[q_proj, v_proj]"),
    "one bad item": Bad(BASE + "hub:\n  tags: [ok, 7]\n", "bad_value", 3, "hub.tags holds 7"),
    "an empty item": Bad(BASE + "sample_prompts: ['']\n", "bad_value", 2, "sample_prompts holds an empty text"),
    "a null item": Bad(
        BASE + "sample_prompts: [null]\n", "bad_value", 2, "sample_prompts holds an empty item; it must"
    ),
    "a true item": Bad(BASE + "hub: {tags: [true]}\n", "bad_value", 2, "hub.tags holds true; it must"),
    "a group as an item": Bad(
        BASE + "sample_prompts: [{role: user}]\n",
        "bad_value",
        2,
        "holds a group of keys; it must be a list of up to 8 prompts, each a text",
    ),
    "a list as an item": Bad(BASE + "sample_prompts: [[a]]\n", "bad_value", 2, "sample_prompts holds a list; it must"),
    "an empty list": Bad(BASE + "lora: {target_modules: []}\n", "bad_value", 2, "target_modules is an empty list; it"),
    "too long a list": Bad(BASE + "sample_prompts: [a,a,a,a,a,a,a,a,a]\n", "bad_value", 2, "is a list of 9; it must"),
    "free Jinja": Bad(BASE + "chat_template: '{{ x }}'\n", "bad_value", 2, "chatml"),
    "a commit of digits": Bad(BASE + "revision: 1234567\n", "bad_value", 2, "in quotes"),
    "organisation in the name": Bad(BASE + "hub: {repo: us/x}\n", "bad_value", 2, "a bare repository name"),
    # what excludes each other, and what comes later
    "epochs and steps": Bad(BASE + "num_train_epochs: 1\nmax_steps: 9\n", "exclusive_keys", 3, "keep one of them"),
    "two warm-ups": Bad(BASE + "warmup_steps: 1\nwarmup_ratio: 0.1\n", "exclusive_keys", 3, "keep one of them"),
    "uneven batch": Bad(
        BASE + "per_device_train_batch_size: 64\neffective_batch_size: '8'\n", "batch_not_divisible", 3, "make it 64"
    ),
    "uneven batch and more": Bad(
        "effective_batch_size: 10\nper_device_train_batch_size: 4\n" + BASE + "lr: 1\n",
        "batch_not_divisible",
        1,
        "effective_batch_size is 10, which is not a multiple of per_device_train_batch_size 4",
    ),
    "DPO": Bad(BASE + "method: dpo\n", "not_yet", 2, "preference training comes with a later release; use method: sft"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_recipes(bad):
    started = time.monotonic()
    problems = problems_of(bad.text)
    assert time.monotonic() - started < 5
    first = next(problem for problem in problems if problem.code == bad.code)
    assert (first.line, first.file) == (bad.line, "support.yaml")
    assert bad.says in first.message
    # One mistake, one complaint: except where hostile nesting or several anchors are many.
    assert {problem.code for problem in problems} <= {bad.code, "not_a_map", "yaml_alias", "unknown_key"}


def test_the_same_key_in_two_items_of_a_list_is_not_set_twice():
    problems = problems_of(BASE + "sample_prompts: [{role: user, content: a}, {role: user, content: b}]\n")
    assert [problem.code for problem in problems] == ["bad_value"]


def test_a_key_set_twice_in_an_item_of_a_list_is_named_with_the_item():
    problems = problems_of(BASE + "sample_prompts:\n- {role: a}\n- role: b\n  role: c\n")
    assert problems[-1].message == "sample_prompts[2].role is set twice, here and on line 4; keep one"


def test_behind_a_syntax_error_reading_goes_on():
    problems = problems_of("base_model: demo\nlicense: a: b\nlr: 1\nsample_prompts: [a\nseed: -1\nfoo\n")
    assert [(problem.line, problem.code) for problem in problems] == [
        (2, "yaml_syntax"),
        (3, "unknown_key"),
        (4, "yaml_syntax"),
        (5, "bad_value"),
        (6, "yaml_syntax"),
    ]


def test_behind_tabs_reading_goes_on():
    problems = problems_of("base_model: demo\nlora:\n\tr: 0\n\talpha: 8\nlr: 1\n")
    assert [(problem.line, problem.code) for problem in problems] == [(3, "tab"), (3, "bad_value"), (5, "unknown_key")]


def test_a_file_with_a_thousand_mistakes_is_read_quickly_and_names_at_most_a_hundred():
    started = time.monotonic()
    problems = problems_of("".join(f"key{n}: %x\n" for n in range(4000)) + "base_model: demo\n")
    assert len(problems) <= 100
    assert time.monotonic() - started < 5


def test_a_token_written_into_a_recipe_is_not_repeated():
    (problem,) = problems_of(BASE + "hub_token: hf_secret\n")
    assert "hf_secret" not in str(problem.as_json())


def test_odd_characters_in_a_value_are_spelled_out():
    (problem,) = problems_of(BASE + "license: 'a\u202eb'\n")
    assert problem.found == '"a\\u202eb"'
    assert "\u202e" not in problem.message


GOOD = {
    "an exponent without a point": ("learning_rate: 2e-4\n", {"learning_rate": 2e-4}),
    "a number in quotes": ("learning_rate: '2e-4'\n", {"learning_rate": 2e-4}),
    "zero": ("learning_rate: 0\n", {"learning_rate": 0.0}),
    "no is a word": ("packing: no\n", {"packing": False}),
    "a licence called no": ("license: no\n", {"license": "no"}),
    "a date is a word": ("revision: 2024-05-01\n", {"revision": "2024-05-01"}),
    "hexadecimal": ("seed: 0x10\n", {"seed": 16}),
    "byte-order mark": ("\ufeffseed: 1\n", {"seed": 1}),
    "CRLF": ("seed: 1\r\nmax_steps: 60\r\n", {"seed": 1, "max_steps": 60}),
    "no newline at the end": ("seed: 1", {"seed": 1}),
    "document marks": ("---\nseed: 1\n...\n", {"seed": 1}),
    "comments": ("# why\nseed: 1  # this\n", {"seed": 1}),
    "block text": ("sample_prompts:\n- |\n  a\n  b\n", {"sample_prompts": ("a\nb\n",)}),
    "flow map": ("lora: {alpha: 16, use_rslora: true}\n", {"lora": {"alpha": 16, "use_rslora": True}}),
    "explicit null": ("chat_template: null\nlicense: ~\n", {"chat_template": None, "license": None}),
    "auto": ("num_train_epochs: auto\nmax_steps: 60\n", {"max_steps": 60}),
    "unquoted unicode": ("dataset: Übersicht.jsonl\n", {"dataset": "Übersicht.jsonl"}),
    "JSON": ('{"seed": 1, "lora": {"r": 8}}', {"seed": 1, "lora": {"r": 8}}),
}


@pytest.mark.parametrize(("text", "values"), GOOD.values(), ids=GOOD)
def test_good_but_odd_recipes(text, values):
    library = ("library.yaml", b"base_model: demo\n")
    assert parse_recipe(text.encode(), name="r.yaml", library=library) == Recipe(base_model="demo", **values)


LIBRARY = ("llama.yaml", b"base_model: a/b\nnum_train_epochs: 2\nlora:\n  r: 32\n  alpha: 64\n")


def test_a_recipe_inherits_from_the_library_recipe_key_by_key():
    recipe = parse_recipe(b"max_steps: 60\nlora:\n  r: 8\n", name="r.yaml", library=LIBRARY)
    assert recipe == Recipe(base_model="a/b", max_steps=60, lora={"r": 8, "alpha": 64})


def test_an_empty_recipe_is_the_library_recipe():
    recipe = parse_recipe(b"", name="r.yaml", library=LIBRARY)
    assert recipe == parse_recipe(LIBRARY[1], name="llama.yaml")


def test_a_mistake_in_the_library_recipe_is_named_there():
    broken = ("llama.yaml", LIBRARY[1] + b"seed: -1\n")
    problems = problems_of("lr: 1\n", library=broken)
    assert [(problem.file, problem.line, problem.key) for problem in problems] == [
        ("support.yaml", 1, "lr"),
        ("llama.yaml", 6, "seed"),
    ]


def test_a_batch_that_does_not_go_with_the_library_recipes_is_named_where_the_recipe_sets_it():
    library = ("llama.yaml", LIBRARY[1] + b"effective_batch_size: 8\n")
    (problem,) = problems_of("seed: 1\nper_device_train_batch_size: 3\n", library=library)
    assert str(problem).startswith("support.yaml:2: effective_batch_size is 8, which is not a multiple")


def test_a_mistake_of_the_library_recipe_can_be_mended_by_the_recipe_over_it():
    broken = ("llama.yaml", LIBRARY[1] + b"seed: -1\n")
    assert parse_recipe(b"seed: 7\n", name="r.yaml", library=broken).seed == 7


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("base_model: demo\ndataset: a.jsonl\npriority: high\n", Peek("demo", "a.jsonl", None, Priority.HIGH)),
        ("dataset: a.jsonl\nlr: [\nseed: -1\n", Peek(dataset="a.jsonl")),
        (f"sha256: {'AB' * 32}\n", Peek(sha256="ab" * 32)),
        ("dataset: ../x\npriority: 7\nsha256: 12\nbase_model: [x]\n", Peek()),
        ("- dataset: x\n", Peek()),
        ("[" * 50_000, Peek()),
        ("\0\xff", Peek()),
        ("", Peek()),
    ],
)
def test_a_peek_sees_what_can_be_used_whatever_else_is_wrong(text, seen):
    assert peek(text.encode("latin-1")) == seen


@given(st.binary(max_size=300) | st.text(alphabet="ab: -[]{}#&*!|>'\"%@`\n\t?,~0", max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_whatever_is_dropped_as_a_recipe_is_read_or_refused(data):
    read = read_recipe(data, name="r.yaml")
    assert read.recipe or read.problems
    assert all(problem.message and problem.file == "r.yaml" for problem in read.problems)


RECIPES = st.builds(
    Recipe,
    base_model=st.sampled_from(["demo", "Qwen/Qwen3-8B", "123", "no", "1e3", "null"]),
    revision=st.none() | st.sampled_from(["v1.0", "0123456", "12e5", "2024-05-01", "true"]),
    dataset=st.none() | st.sampled_from(["a b.jsonl", "ü: x.jsonl", "#1.jsonl", "- x.jsonl", "'.jsonl"]),
    learning_rate=st.floats(0, 1),
    max_steps=st.none() | st.integers(1, 10_000_000),
    seed=st.integers(0, 2**32 - 1),
    packing=st.sampled_from(["auto", True, False]),
    sample_prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3),
    license=st.none() | st.sampled_from(["mit", "no", "1.0", "0x10"]),
)


@given(RECIPES)
@settings(max_examples=200, deadline=None)
def test_a_recipe_written_as_yaml_is_read_back_as_it_was(recipe):
    assert parse_recipe(recipe_as_yaml(recipe).encode(), name="recipe.yaml") == recipe
