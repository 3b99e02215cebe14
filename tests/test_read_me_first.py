"""`READ ME FIRST.txt` tells people who know nothing of us what works, and only what works."""

import json
import re

from appliance.drops import is_button
from appliance.job import Role
from appliance.names import role_of
from appliance.texts.read_me_first import BUTTONS, read_me_first

TEXT = read_me_first(["demo", "llama-3.1-8b"])


def test_notepad_on_windows_shows_it_as_it_is_meant():
    assert TEXT.count("\n") == TEXT.count("\r\n")
    assert TEXT.isascii()
    assert max(len(line) for line in TEXT.splitlines()) <= 105


def test_every_recipe_folder_is_named():
    lines = [line.strip() for line in TEXT.splitlines()]

    assert "demo" in lines
    assert "llama-3.1-8b" in lines
    assert "(none are set up)" in read_me_first([])


def test_every_button_it_names_is_one():
    for name, what in BUTTONS:
        assert is_button(name)
        assert is_button(f"{name}.txt")
        assert re.search(rf"{re.escape(name)} +{re.escape(what)}", TEXT)


def test_the_file_names_it_gives_mean_what_it_says():
    assert role_of("support.jsonl") == ("support", Role.DATASET)
    assert role_of("support.yaml") == ("support", Role.RECIPE)
    assert role_of("support.eval.jsonl") == ("support", Role.EVAL)
    for name in ("support.jsonl", "support.yaml", "support.eval.jsonl"):
        assert name in TEXT


def test_its_example_is_a_row():
    row = json.loads(next(line for line in TEXT.splitlines() if line.strip().startswith("{")))

    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
