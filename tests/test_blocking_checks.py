"""What must not be trained on: for every check a dataset that trips it, and one that only nearly does."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from tests.families import FAMILIES, Family, assistant, system, user, write_model
from tests.labelled_rows import labels_json, prepare, problems_of, rows_of

CHATML = next(family for family in FAMILIES if family.name == "chatml")
GEMMA = next(family for family in FAMILIES if family.name == "gemma-2")
ANSWERS_ALONE = "{% for m in messages %}{{ m.content + '<|im_end|>' if m.role == 'assistant' else '' }}{% endfor %}"
PRIVATE = "\U00100000"

Rows = list[dict]


def rows_with(*odd: list[dict], good: int = 20) -> Rows:
    """Good rows, then the odd ones, then one more good one."""
    return [*rows_of(good), *({"messages": messages} for messages in odd), *rows_of(1, "last ")]


def long_rows(count: int, *, of: int) -> Rows:
    return [*rows_of(of - count), *({"messages": [user(f"{n}?"), assistant("long " * 80)]} for n in range(count))]


def silent(count: int) -> Rows:
    return [{"messages": [user(f"{n}?"), assistant("no", weight=0)]} for n in range(count)]


def template_of(text: str) -> Family:
    return replace(CHATML, template=text)


def two_bos(family: Family, *, begins: int) -> Family:
    return replace(family, template="{{ bos_token }}" * begins + family.template, bos="<s>")


@dataclass(frozen=True)
class Check:
    """`first` is the row that the message must name; `words` stand in it too."""

    code: str
    trips: Callable[[], Rows]
    nearly: Callable[[], Rows]
    first: int
    words: str = ""
    family: Family = CHATML
    nearly_family: Family | None = None
    how: dict | None = None


CHECKS = [
    Check("nothing_trained", lambda: silent(12), lambda: [*silent(12), *rows_of(1)], 1, "weight 0"),
    Check(
        "nothing_masked",
        lambda: rows_of(12),
        lambda: [*rows_of(12), {"messages": [assistant("read"), assistant("no", weight=0)]}],
        1,
        "the questions too",
        template_of(ANSWERS_ALONE),
    ),
    Check(
        "stop_untrained",
        lambda: long_rows(12, of=12),
        lambda: long_rows(12, of=13),
        1,
        "max_seq_length 64",
        how={"cap": 64, "long_examples": "truncate"},
    ),
    Check(
        "two_bos",
        lambda: rows_of(12),
        lambda: [*rows_of(11), {"messages": [user("What is <s>?"), assistant("<s> strikes out.")]}],
        1,
        "begin more than once",
        two_bos(CHATML, begins=2),
        two_bos(CHATML, begins=1),
    ),
    Check(
        "chat_template_refuses",
        lambda: rows_with([system("Be kind."), user("Hi"), assistant("Hello")]),
        lambda: rows_with([user("Be kind. Hi"), assistant("Hello")]),
        21,
        "System role not supported",
        GEMMA,
    ),
    Check(
        "chat_template_refuses",
        lambda: rows_with([user("Hi"), user("Hi?"), assistant("Hello")], [user("a"), user("b"), assistant("c")]),
        lambda: rows_with([user("Hi\n\nHi?"), assistant("Hello")]),
        21,
        "and 1 more",
        GEMMA,
    ),
    Check(
        "over_long",
        lambda: long_rows(6, of=100),
        lambda: long_rows(5, of=100),
        95,
        "6 of 100 rows (6%)",
        how={"cap": 64},
    ),
    Check(
        "control_tokens",
        lambda: rows_with([user(f"<|im_end|> and {PRIVATE}"), assistant("b")]),
        lambda: rows_with([user("<|im_end|>"), assistant("b")], [user(PRIVATE), assistant(f"{PRIVATE} it is")]),
        21,
        "cannot be made plain text",
    ),
    Check(
        "labels_unproven",
        lambda: rows_with([user("Hi"), assistant("secret")]),
        lambda: rows_with([user("Hi"), assistant("a secret")]),
        21,
        "leaves out an answer",
        template_of(CHATML.template.replace("message.content", "(message.content if message.content != 'secret')")),
    ),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_a_check_trips_and_names_the_first_row(tmp_path, check):
    model = write_model(check.family, tmp_path / "model")
    (problem,) = problems_of(tmp_path, check.trips(), model=model, **(check.how or {}))
    assert problem.code == check.code
    assert f"row {check.first}" in problem.message
    assert (problem.file, problem.line) == ("data.jsonl", check.first)
    assert check.words in problem.message
    assert problem.expected


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_a_dataset_that_nearly_trips_it_is_trained_on(tmp_path, check):
    model = write_model(check.nearly_family or check.family, tmp_path / "model")
    facts = prepare(tmp_path, check.nearly(), model=model, **(check.how or {}))
    assert facts["train_rows"] > 0


@pytest.mark.parametrize(("policy", "way"), [("truncate", "cut them"), ("drop", "leave them out")])
def test_six_percent_are_trained_on_by_the_ways_that_the_refusal_names(tmp_path, policy, way):
    (problem,) = problems_of(tmp_path / "refused", long_rows(6, of=100), cap=64)
    assert f"{policy} ({way})" in problem.message
    prepare(tmp_path / policy, long_rows(6, of=100), cap=64, long_examples=policy)
    assert labels_json(tmp_path / policy)["rows_kept"] == (100 if policy == "truncate" else 94)
    # The third: a larger maximum.
    assert "Raise max_seq_length" in problem.message
    longest = int(problem.found.split()[0])
    prepare(tmp_path / "raised", long_rows(6, of=100), cap=longest)
    assert labels_json(tmp_path / "raised")["rows_dropped"] == {}
