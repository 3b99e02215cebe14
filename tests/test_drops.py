"""What becomes a drop, and when: facts about the pure rules of the inbox."""

import pytest

from appliance.drops import find_drops, is_button
from appliance.job import Role
from appliance.settling import Drop, DropState, Rules
from appliance.sightings import Ending, Entry, Kind, Sighting, observe

RULES = Rules(quiet_seconds=5, pair_seconds=10, recipe_folders=frozenset({"llama-3.1-8b"}))
FILE = Entry(Kind.FILE, size=10, mtime_ns=1, device=1, inode=1)
FOLDER = Entry(Kind.FOLDER, size=0, mtime_ns=1, device=1, inode=2)


def look(
    *paths: str, age: float = 100.0, wanted: dict[str, str | None] | None = None, ages: dict[str, float] | None = None
) -> list[Drop]:
    """The drops in an inbox of these paths (a trailing slash is a folder), each unchanged for `age` seconds."""
    ages = ages or {}
    sightings = {}
    for path in paths:
        entry = FOLDER if path.endswith("/") else FILE
        sightings[path.rstrip("/")] = Sighting(entry, since=1000.0 - ages.get(path, age))
    endings = {path: Ending.CLOSED for path in paths}
    return find_drops(sightings, now=1000.0, rules=RULES, endings=endings, wanted=wanted or {})


def only(*paths: str, **how) -> Drop:
    drops = look(*paths, **how)
    assert len(drops) == 1, drops
    return drops[0]


def test_a_file_that_is_still_growing_is_not_settled():
    seen = observe({}, {"a.jsonl": FILE}, now=0.0)
    grown = Entry(Kind.FILE, size=20, mtime_ns=2, device=1, inode=1)
    seen = observe(seen, {"a.jsonl": grown}, now=4.0)
    endings = {"a.jsonl": Ending.CLOSED}
    rules = Rules(quiet_seconds=5, pair_seconds=0)

    assert find_drops(seen, now=8.0, rules=rules, endings=endings)[0].state is DropState.SETTLING
    assert find_drops(seen, now=9.0, rules=rules, endings=endings)[0].state is DropState.READY


def test_an_unchanged_file_keeps_the_time_since_when_it_is_unchanged():
    seen = observe({}, {"a": FILE}, now=1.0)
    assert observe(seen, {"a": FILE}, now=7.0)["a"].since == 1.0


def test_a_lone_dataset_waits_for_a_recipe_until_the_pairing_time_is_over():
    assert only("support.jsonl", age=9.0).state is DropState.AWAITING_PAIR
    assert only("support.jsonl", age=10.0).state is DropState.READY


@pytest.mark.parametrize("recipe", ["support.yaml", "support.YML"])
def test_a_pair_waits_only_the_quiet_time(recipe: str):
    drop = only("support.jsonl", recipe, age=5.0)
    assert drop.state is DropState.READY
    assert drop.paths(Role.RECIPE) == (recipe,)


def test_an_eval_file_and_a_checksum_come_along():
    drop = only("support.jsonl", "support.eval.jsonl", "support.jsonl.sha256", "support.yaml")
    assert drop.paths(Role.EVAL) == ("support.eval.jsonl",)
    assert drop.paths(Role.CHECKSUM) == ("support.jsonl.sha256",)


def test_the_youngest_file_of_a_pair_sets_the_pace():
    drop = only("support.jsonl", "support.yaml", ages={"support.yaml": 2.0})
    assert drop.state is DropState.SETTLING


def test_a_recipe_alone_waits_visibly_for_its_dataset():
    drop = only("support.yaml")
    assert drop.state is DropState.AWAITING_PAIR
    assert "support.jsonl" in drop.why


def test_a_recipe_finds_the_dataset_that_it_names():
    assert "other.jsonl" in only("support.yaml", wanted={"support.yaml": "other.jsonl"}).why
    drop = only("support.yaml", "other.jsonl", wanted={"support.yaml": "other.jsonl"})
    assert drop.state is DropState.READY
    assert drop.name == "support"
    assert set(drop.files) == {("other.jsonl", Role.DATASET), ("support.yaml", Role.RECIPE)}


@pytest.mark.parametrize("dataset", ["job:0007", "hub:org/name"])
def test_a_recipe_whose_rows_are_elsewhere_starts_at_once(dataset: str):
    assert only("again.yaml", wanted={"again.yaml": dataset}, age=5.0).state is DropState.READY


def test_two_recipes_for_one_dataset_stay_together():
    drop = only("a.jsonl", "a.yaml", "b.yaml", wanted={"b.yaml": "a.jsonl"})
    assert drop.paths(Role.RECIPE) == ("a.yaml", "b.yaml")


def test_a_recipe_folder_gives_its_recipe_and_waits_only_the_quiet_time():
    drop = only("llama-3.1-8b/", "llama-3.1-8b/support.jsonl", age=5.0)
    assert (drop.state, drop.library_recipe, drop.name) == (DropState.READY, "llama-3.1-8b", "support")


def test_an_empty_recipe_folder_and_an_empty_folder_are_no_drops():
    assert look("llama-3.1-8b/", "new/", "check/") == []


def test_a_folder_with_one_dataset_is_one_drop_named_like_the_folder():
    drop = only("support/", "support/data.jsonl", "support/recipe.yaml", age=5.0)
    assert (drop.name, drop.state, drop.folder) == ("support", DropState.READY, "support")


def test_train_and_eval_in_a_folder_are_told_apart():
    drop = only("support/", "support/train.jsonl", "support/eval.jsonl")
    assert drop.paths(Role.DATASET) == ("support/train.jsonl",)
    assert drop.paths(Role.EVAL) == ("support/eval.jsonl",)


def test_a_folder_with_two_datasets_says_so():
    drop = only("support/", "support/a.jsonl", "support/b.jsonl")
    assert [problem.code for problem in drop.problems] == ["several_datasets"]


def test_a_folder_without_a_dataset_waits():
    assert only("support/", "support/recipe.yaml").state is DropState.AWAITING_PAIR


def test_everything_under_check_is_a_dry_run():
    single, in_recipe_folder = look("check/", "check/a.jsonl", "check/llama-3.1-8b/", "check/llama-3.1-8b/b.jsonl")
    assert (single.dry_run, single.library_recipe) == (True, None)
    assert (in_recipe_folder.dry_run, in_recipe_folder.library_recipe) == (True, "llama-3.1-8b")
    assert only("check/", "check/support/", "check/support/train.jsonl").dry_run


def test_names_that_differ_only_in_case_or_normal_form_are_two_drops():
    assert len(look("A.jsonl", "a.jsonl", "e\u0301.jsonl", "\u00e9.jsonl")) == 4


def test_a_spreadsheet_is_told_how_to_become_a_dataset():
    drop = only("budget.xlsx")
    assert drop.state is DropState.READY
    assert "CSV UTF-8" in drop.problems[0].message


@pytest.mark.parametrize(
    "entry",
    [
        Entry(Kind.SYMLINK, 1, 1, 1, 1),
        Entry(Kind.OTHER, 1, 1, 1, 1),
        Entry(Kind.FILE, 1, 1, 1, 1, links=2),
    ],
)
def test_links_and_special_files_are_drops_to_be_refused(entry: Entry):
    (drop,) = find_drops({"a.jsonl": Sighting(entry, since=0.0)}, now=100.0, rules=RULES)
    assert [problem.code for problem in drop.problems] == ["unsafe_file"]
    assert drop.state is DropState.READY


@pytest.mark.parametrize(
    ("ending", "age", "ready"),
    [
        (Ending.OPEN_LINE, 59.0, False),
        (Ending.OPEN_LINE, 60.0, True),
        (Ending.NUL_BYTES, 899.0, False),
        (Ending.NUL_BYTES, 900.0, True),
    ],
)
def test_a_file_that_looks_cut_off_gets_more_time(ending: Ending, age: float, ready: bool):
    sightings = {"a.jsonl": Sighting(FILE, since=1000.0 - age)}
    (drop,) = find_drops(sightings, now=1000.0, rules=RULES, endings={"a.jsonl": ending})
    assert (drop.state is DropState.READY) == ready


def test_a_quiet_file_is_not_taken_before_its_end_was_looked_at():
    (drop,) = find_drops({"a.jsonl": Sighting(FILE, since=0.0)}, now=100.0, rules=RULES)
    assert drop.state is DropState.CHECKING


def test_buttons_are_known_with_and_without_txt():
    assert is_button("0007.cancel") == ("cancel", "0007")
    assert is_button("0007-support.Cancel.txt") == ("cancel", "0007")
    assert is_button("0007.retry") == ("retry", "0007")
    assert is_button("7.approve.txt") == ("approve", "7")
    assert is_button("queue.pause") == ("pause", "queue")
    assert is_button("support.jsonl") is None
    assert is_button("folder/0007.cancel") is None
    assert is_button(f"{'9' * 25}.cancel") is None
