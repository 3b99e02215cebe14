"""What rows of each format become, and what is said of those that cannot be trained on."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.dataset.findings import Findings
from appliance.dataset.formats import FORMATS
from appliance.dataset.rows import Summary, check_rows
from appliance.errors import Problem, Reason

U = {"role": "user", "content": "What is 6 times 7?"}
A = {"role": "assistant", "content": "42"}
B = {"role": "assistant", "content": "41"}
S = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "times", "arguments": {"a": 6, "b": 7}}}
TOOL_ANSWER = {"role": "tool", "content": "42"}
TOOL = {"type": "function", "function": {"name": "times", "parameters": {"type": "object"}}}


def check(*rows: dict[str, Any]) -> tuple[Summary, list[Problem], list[dict[str, Any]]]:
    """What is said of these rows, each on the line of its number, and what is written of them."""
    findings, written = Findings("support.jsonl"), bytearray()
    summary = check_rows(iter(enumerate(rows, 1)), findings, write=written.extend, progress=lambda rows: None)
    return summary, findings.problems(), [json.loads(line) for line in written.splitlines()]


def becomes(row: dict[str, Any]) -> dict[str, Any]:
    _, problems, written = check(row)
    assert problems == []
    return written[0]


GOOD = {
    "messages": ({"messages": [U, A]}, {"messages": [U, A]}),
    "messages with a system prompt": ({"messages": [S, U, A, U, A]}, {"messages": [S, U, A, U, A]}),
    "a weight": (
        {"messages": [U, {**A, "weight": 0}, U, {**A, "weight": 1}]},
        {"messages": [U, {**A, "weight": 0}, U, {**A, "weight": 1}]},
    ),
    "an empty answer that is not trained": (
        {"messages": [U, {"role": "assistant", "content": "", "weight": 0}, U, A]},
        {"messages": [U, {"role": "assistant", "content": "", "weight": 0}, U, A]},
    ),
    "thoughts": (
        {"messages": [U, {**A, "reasoning_content": "6 × 7"}]},
        {"messages": [U, {**A, "reasoning_content": "6 × 7"}]},
    ),
    "thoughts by their other name": (
        {"messages": [U, {**A, "thinking": "6 × 7", "reasoning_content": None}]},
        {"messages": [U, {**A, "reasoning_content": "6 × 7"}]},
    ),
    "a text in parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"text": "6?"}]}, A]},
        {"messages": [{"role": "user", "content": "What is 6?"}, A]},
    ),
    "what the chat APIs add": (
        {"messages": [U, {**A, "refusal": None, "function_call": None, "tool_calls": None, "name": "bot"}]},
        {"messages": [U, {**A, "name": "bot"}]},
    ),
    "a tool call": (
        {
            "messages": [U, {"role": "assistant", "content": None, "tool_calls": [{"id": "1", **CALL}]},
                         {"role": "tool", "tool_call_id": "1", "content": "42"}, A],
            "tools": [TOOL],
        },
        {
            "messages": [U, {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **CALL}]},
                         {"role": "tool", "content": "42", "tool_call_id": "1"}, A],
            "tools": [TOOL],
        },
    ),
    "arguments as a text, tools as a text and bare": (
        {
            "messages": [U, {"role": "assistant", "tool_calls": [{"name": "times", "arguments": '{"a": 6, "b": 7}'}]}],
            "tools": json.dumps([{"name": "times", "parameters": {"type": "object"}}]),
        },
        {"messages": [U, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "tools": [TOOL]},
    ),
    "two tools' answers": (
        {"messages": [U, {**A, "tool_calls": [CALL, CALL]}, TOOL_ANSWER,
                      TOOL_ANSWER, A]},
        {"messages": [U, {**A, "tool_calls": [CALL, CALL]}, TOOL_ANSWER,
                      TOOL_ANSWER, A]},
    ),
    "no tools": ({"messages": [U, A], "tools": None}, {"messages": [U, A]}),
    "Alpaca": ({"instruction": "Add.", "output": "42"}, {"messages": [{**U, "content": "Add."}, A]}),
    "Alpaca with input": (
        {"instruction": "Add.", "input": "40 and 2", "output": "42"},
        {"messages": [{**U, "content": "Add.\n\n40 and 2"}, A]},
    ),
    "Alpaca without input": (
        {"instruction": "Add.", "input": "", "output": "42"}, {"messages": [{**U, "content": "Add."}, A]},
    ),
    "Alpaca with null for input": (
        {"instruction": "Add.", "input": None, "output": "42"}, {"messages": [{**U, "content": "Add."}, A]},
    ),
    "Alpaca with only an input": (
        {"instruction": "", "input": "40 and 2", "output": "42"}, {"messages": [{**U, "content": "40 and 2"}, A]},
    ),
    "Alpaca with system prompt and history": (
        {"instruction": "And 2 more?", "output": "42", "system": "Be brief.", "history": [["38 and 2?", "40"]]},
        {"messages": [S, {**U, "content": "38 and 2?"}, {**A, "content": "40"}, {**U, "content": "And 2 more?"}, A]},
    ),
    "prompt and completion": ({"prompt": U["content"], "completion": "42"}, {"messages": [U, A]}),
    "prompt and completion as messages": (
        {"prompt": [S, U, {**A, "content": "41"}, U], "completion": [A]},
        {"messages": [S, U, {**A, "content": "41", "weight": 0}, U, A]},
    ),
    "question and answer": ({"question": U["content"], "answer": "42"}, {"messages": [U, A]}),
    "prompt and response": ({"prompt": U["content"], "response": "42"}, {"messages": [U, A]}),
    "text": ({"text": " Once.\n"}, {"text": " Once.\n"}),
    "characters of every kind": ({"text": "é\u2028\u0000😀"}, {"text": "é\u2028\u0000😀"}),
}  # fmt: skip


@pytest.mark.parametrize(("row", "becomes_"), GOOD.values(), ids=GOOD)
def test_good_rows(row, becomes_):
    assert becomes(row) == becomes_


class Bad(NamedTuple):
    row: dict[str, Any]
    code: str
    key: str | None
    says: str


def messages(*them: Any) -> dict[str, Any]:
    return {"messages": list(them)}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


BAD_MESSAGES = {
    "messages is a text": Bad({"messages": "hi"}, "bad_messages", "messages", "must be a list of messages"),
    "messages is null": Bad({"messages": None}, "bad_messages", "messages", "messages is null"),
    "no messages": Bad(messages(), "bad_messages", "messages", "an empty list"),
    "a message is a text": Bad(messages("hi"), "bad_message", "messages[0]", "message 1 is a text"),
    "from and value": Bad(
        messages({"from": "human", "value": "hi"}), "sharegpt_message", "messages[0].from", "called role and content"
    ),
    "role human": Bad(
        messages({**U, "role": "human"}, A), "unknown_role", "messages[0].role",
        "message 1 has the role human; it must be user",
    ),
    "role gpt": Bad(messages(U, {**A, "role": "gpt"}), "unknown_role", "messages[1].role", "it must be assistant"),
    "role User": Bad(messages({**U, "role": "User"}, A), "unknown_role", "messages[0].role", "it must be user"),
    "role developer": Bad(messages({**S, "role": "developer"}, U, A), "unknown_role", "messages[0].role", "be system"),
    "role function": Bad(messages(U, {**A, "role": "function"}), "unknown_role", "messages[1].role", "be tool"),
    "a role of their own": Bad(
        messages({**U, "role": "narrator"}, A), "unknown_role", "messages[0].role", "system, user, assistant or tool"
    ),
    "no role": Bad(messages({"content": "hi"}, A), "missing_role", "messages[0].role", "message 1 has no role"),
    "role null": Bad(messages({**U, "role": None}, A), "missing_role", "messages[0].role", "message 1 has no role"),
    "no content": Bad(messages({"role": "user"}, A), "missing_text", "messages[0].content", "write its text"),
    "content null": Bad(messages(U, assistant(content=None)), "null_content", "messages[1].content", "is null"),
    "content number": Bad(messages(U, assistant(content=42)), "not_text", "messages[1].content", "in quotes"),
    "content object": Bad(messages(U, assistant(content={})), "not_text", "messages[1].content", "is an object"),
    "an image": Bad(
        messages({**U, "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}]}, A),
        "media_content", "messages[0].content", "image content; the appliance trains on text alone",
    ),
    "sound": Bad(
        messages({**U, "content": [{"type": "input_audio", "input_audio": {}}]}, A),
        "media_content", "messages[0].content", "audio content",
    ),
    "a column of images": Bad(
        {**messages(U, A), "images": ["a.png"]}, "media_content", "images", "the column images holds image, audio"
    ),
    "no assistant": Bad(messages(S, U), "no_assistant_turn", "messages", "nothing to learn; add the answer"),
    "two user turns": Bad(
        messages(U, A, U, U, A), "two_user_turns", "messages[3].role", "messages 3 and 4 are both from the user"
    ),
    "empty answer": Bad(
        messages(U, assistant(content="")), "empty_answer", "messages[1].content", "the answer in message 2 is empty"
    ),
    "blank answer": Bad(messages(U, assistant(content=" \n")), "empty_answer", "messages[1].content", "is empty"),
    "empty answer further up": Bad(
        messages(U, assistant(content="", weight=1), U, A), "empty_answer", "messages[1].content", "is empty"
    ),
    "all weights 0": Bad(messages(U, {**A, "weight": 0}), "nothing_trained", "messages", "give one of them weight 1"),
    "half a weight": Bad(messages(U, {**A, "weight": 0.5}), "bad_weight", "messages[1].weight", "1 (trained) or 0"),
    "a weight in words": Bad(messages(U, {**A, "weight": "1"}), "bad_weight", "messages[1].weight", "1 (trained) or 0"),
    "a tool without a call": Bad(
        messages(U, TOOL_ANSWER, A), "tool_without_call", "messages[1].role", "add tool_calls"
    ),
    "a tool long after its call": Bad(
        messages(U, assistant(tool_calls=[CALL]), TOOL_ANSWER, A, TOOL_ANSWER), "tool_without_call",
        "messages[4].role", "message 5 is a tool's answer",
    ),
    "function_call": Bad(
        messages(U, {**A, "function_call": {"name": "times"}}), "old_function_call", "messages[1].function_call",
        "write it as tool_calls",
    ),
    "tool_calls is an object": Bad(
        messages(U, {**A, "tool_calls": CALL}), "bad_tool_call", "messages[1].tool_calls", "must be a list"
    ),
    "a call without a name": Bad(
        messages(U, {**A, "tool_calls": [{"function": {}}]}), "bad_tool_call", "messages[1].tool_calls[0]", "no name"
    ),
    "arguments that are no JSON": Bad(
        messages(U, {**A, "tool_calls": [{"function": {"name": "times", "arguments": "6, 7"}}]}), "bad_tool_call",
        "messages[1].tool_calls[0].function.arguments", "no JSON object",
    ),
    "tools is an object": Bad({**messages(U, A), "tools": TOOL}, "bad_tools", "tools", "tools is an object"),
    "tools is some text": Bad({**messages(U, A), "tools": "times"}, "bad_tools", "tools", "no JSON list"),
    "a tool without a name": Bad({**messages(U, A), "tools": [{}]}, "bad_tools", "tools[0]", "tool 1 has no name"),
    "thoughts are a list": Bad(
        messages(U, {**A, "thinking": [1]}), "not_text", "messages[1].thinking", "thinking of message 2 is a list"
    ),
}  # fmt: skip


HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}
BAD_OTHERS = {
    "Alpaca with null": Bad({"instruction": "a", "output": None}, "null_content", "output", "output is null"),
    "Alpaca with an empty answer": Bad({"instruction": "a", "output": ""}, "empty_answer", "output", "output is empty"),
    "Alpaca with a list": Bad({"instruction": ["a", 1], "output": "b"}, "not_text", "instruction", "is a list"),
    "Alpaca with a number for input": Bad(
        {"instruction": "a", "input": 1, "output": "b"}, "not_text", "input", "input is a number; write it as a text"
    ),
    "Alpaca with a strange history": Bad(
        {"instruction": "a", "output": "b", "history": ["a"]}, "bad_history", "history", '[["question", "answer"], ...]'
    ),
    "a number for an answer": Bad({"question": "a", "answer": 42}, "not_text", "answer", "answer is a number"),
    "true for an answer": Bad({"prompt": "a", "response": True}, "not_text", "response", "response is true or false"),
    "null for a prompt": Bad({"prompt": None, "completion": "a"}, "null_content", "prompt", "prompt is null"),
    "an empty completion": Bad({"prompt": "a", "completion": "\n"}, "empty_answer", "completion", "write the answer"),
    "messages in the prompt alone": Bad({"prompt": [U], "completion": "a"}, "not_text", "prompt", "prompt is a list"),
    "an answer in the prompt": Bad({"prompt": [U, A], "completion": [U]}, "nothing_trained", "messages", "weight 0"),
    "an empty text": Bad({"text": "  "}, "empty_text", "text", "text is empty"),
    "null for a text": Bad({"text": None}, "null_content", "text", "text is null"),
    "a list for a text": Bad({"text": [1]}, "not_text", "text", "text is a list"),
    "ShareGPT without an answer": Bad(
        {"conversations": [HUMAN]}, "no_assistant_turn", "conversations", "no message is from the assistant"
    ),
    "ShareGPT without turns": Bad({"conversations": []}, "bad_messages", "conversations", "each with from and value"),
    "ShareGPT with roles": Bad(
        {"conversations": [HUMAN, {"role": "gpt", "value": "b"}]},
        "unknown_role", "conversations[1].from", "called from",
    ),
    "a stranger in ShareGPT": Bad(
        {"conversations": [HUMAN, {"from": "alien", "value": "b"}]},
        "unknown_role", "conversations[1].from", "is from alien",
    ),
    "nobody in ShareGPT": Bad(
        {"conversations": [HUMAN, {"value": "b"}]}, "unknown_role", "conversations[1].from", "does not say who speaks"
    ),
    "ShareGPT without a value": Bad(
        {"conversations": [HUMAN, {"from": "gpt"}]},
        "missing_text", "conversations[1].value", "value of turn 2 is missing",
    ),
    "an empty answer in ShareGPT": Bad(
        {"conversations": [HUMAN, {"from": "gpt", "value": " "}]},
        "empty_answer", "conversations[1].value", "is empty",
    ),
    "a text for a turn": Bad({"conversations": [HUMAN, "b"]}, "bad_message", "conversations[1]", "turn 2 is a text"),
    "a call that is no JSON": Bad(
        {"conversations": [HUMAN, {"from": "function_call", "value": "look it up"}]},
        "bad_tool_call", "conversations[1].value", "write it as",
    ),
    "an observation without a call": Bad(
        {"conversations": [HUMAN, {"from": "observation", "value": "b"}, GPT]},
        "tool_without_call", "conversations[1].from", "calls no tool",
    ),
    "preferences": Bad({"prompt": "a", "chosen": "b", "rejected": "c"}, "not_yet", None, "preference (chosen"),
    "preferences without a prompt": Bad({"chosen": [U, A], "rejected": [U, B]}, "not_yet", None, "preference"),
    "preferences among ShareGPT": Bad(
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {**GPT, "value": "41"}}, "not_yet", None,
        "preference (chosen, rejected)",
    ),
    "thumbs": Bad({"prompt": "a", "completion": "b", "label": True}, "not_yet", None, "KTO (prompt, completion"),
    "unknown columns": Bad({"a": 1, "b": 2}, "unknown_format", None, "the rows have the columns a, b"),
    "misspelt column": Bad({"mesages": [U, A]}, "unknown_format", None, "did you mean messages by mesages?"),
    "half a pair": Bad({"question": "a", "anser": "b"}, "unknown_format", None, "did you mean answer by anser?"),
    "no columns": Bad({}, "unknown_format", None, "no columns"),
}  # fmt: skip


BAD_PREFERENCES = {
    "the same texts": Bad({"prompt": "a", "chosen": "b", "rejected": "b"}, "same_answers", "rejected", "two different"),
    "the same messages": Bad({"chosen": [U, A], "rejected": [U, A]}, "same_answers", "rejected", "are the same"),
    "different questions": Bad(
        {"chosen": [U, A], "rejected": [S, A]}, "different_prompts", "rejected[0]", "at the beginning of both"
    ),
    "empty rejected": Bad({"prompt": "a", "chosen": "b", "rejected": " "}, "empty_answer", "rejected", "is empty"),
    "chosen null": Bad({"prompt": "a", "chosen": None, "rejected": "b"}, "null_content", "chosen", "chosen is null"),
    "prompt a number": Bad({"prompt": 7, "chosen": "c", "rejected": "b"}, "not_text", "prompt", "in quotes"),
    "text against messages": Bad(
        {"prompt": "a", "chosen": "b", "rejected": [A]}, "mixed_answers", "rejected", "write both in the same way"
    ),
    "a role of their own": Bad(
        {"chosen": [U, A], "rejected": [U, {**A, "role": "gpt"}]}, "unknown_role", "rejected[1].role", "be assistant"
    ),
    "empty answer behind a prompt": Bad(
        {"prompt": [U], "chosen": [A], "rejected": [{**A, "content": ""}]}, "empty_answer", "rejected[0].content", "it"
    ),
    "a bad prompt": Bad(
        {"prompt": [{**U, "role": "me"}], "chosen": "b", "rejected": [A]}, "unknown_role", "prompt[0].role", "must be"
    ),
    "label in words": Bad({"prompt": "a", "completion": "b", "label": "good"}, "bad_label", "label", "must be true"),
}


@pytest.mark.parametrize("bad", BAD_PREFERENCES.values(), ids=BAD_PREFERENCES)
def test_preferences_are_checked_fully_though_they_are_not_trained_on(bad):
    good = {"prompt": "a", "completion": "b", "label": True} if "label" in bad.row else {"chosen": "a", "rejected": "b"}
    _, problems, written = check(good, bad.row)
    not_yet, fault = problems
    assert (not_yet.code, not_yet.line) == ("not_yet", 1)
    assert (fault.code, fault.key, fault.line) == (bad.code, bad.key, 2)
    assert bad.says in fault.message
    assert written == []


def test_sharegpt_with_tools_becomes_messages_with_tools():
    call = {"from": "function_call", "value": '{"name": "look_up", "arguments": {"word": "a"}}'}
    row = {
        "conversations": [HUMAN, call, {"from": "observation", "value": "found"}, {**GPT, "weight": 0}, HUMAN, GPT],
        "system": "Be brief.",
        "tools": '[{"name": "look_up", "parameters": {}}]',
    }
    _, problems, written = check(row)
    assert problems == []
    roles = [message["role"] for message in written[0]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert written[0]["messages"][2]["tool_calls"] == [
        {"type": "function", "function": {"name": "look_up", "arguments": {"word": "a"}}}
    ]
    assert written[0]["messages"][4]["weight"] == 0
    assert written[0]["tools"] == [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]


@pytest.mark.parametrize("bad", [*BAD_MESSAGES.values(), *BAD_OTHERS.values()], ids=[*BAD_MESSAGES, *BAD_OTHERS])
def test_bad_rows(bad):
    _, problems, written = check(bad.row)
    assert [(problem.code, problem.key, problem.line) for problem in problems] == [(bad.code, bad.key, 1)]
    assert bad.says in problems[0].message
    assert problems[0].reason is Reason.DATASET_FORMAT
    assert written == []


def test_every_fault_of_every_row_is_found():
    _, problems, _ = check(
        messages(U, A), messages({**U, "role": "human"}, {**A, "role": "gpt"}), messages(U), messages(U, A),
        messages(U, assistant(content=None)),
    )  # fmt: skip
    assert [str(problem) for problem in problems] == [
        "support.jsonl:2: message 1 has the role human; it must be user",
        "support.jsonl:2: message 2 has the role gpt; it must be assistant",
        "support.jsonl:3: no message is from the assistant, so there is nothing to learn; add the answer",
        "support.jsonl:5: the content of message 2 is null; write a text",
    ]


def test_the_format_is_found_from_the_first_rows_and_required_of_every_row():
    alpaca = {"instruction": "a", "output": "b"}
    _, problems, _ = check(alpaca, messages(U, A), messages(U, A), {"mesages": 1}, {"question": "a", "answer": "b"})
    assert [(problem.line, problem.code) for problem in problems] == [
        (1, "mixed_formats"),
        (5, "mixed_formats"),
        (4, "missing_column"),
    ]
    assert problems[0].message == (
        "this row is Alpaca (instruction, output), but the file is messages; a file holds one format"
    )
    assert "did you mean messages by mesages?" in problems[2].message


def test_a_missing_column_is_named():
    _, problems, _ = check({"question": "a", "answer": "b"}, {"question": "a", "id": 1})
    assert problems[0].message == "answer is missing; the row has the columns question, id"
    assert problems[0].key == "answer"


def test_a_file_without_rows_is_empty():
    _, problems, _ = check()
    assert (problems[0].code, problems[0].reason) == ("empty", Reason.DATASET_EMPTY)


def test_rows_are_written_in_order():
    summary, _, written = check(*({"text": str(number)} for number in range(1, 1001)))
    assert [row["text"] for row in written] == [str(number) for number in range(1, 1001)]
    assert summary.rows == 1000


def test_aliases_and_extra_columns_are_said_once():
    summary, problems, _ = check(*[{"question": "a", "answer": "b", "id": 1, "topic": "x"}] * 5)
    assert problems == []
    assert summary.notes == [
        "question and answer are read as prompt and completion",
        "these columns are kept out of training: id, topic",
    ]


def test_a_row_of_a_thousand_extra_columns_is_no_trouble():
    summary, _, _ = check(*({"text": "a", **{f"{row}-{n}": 1 for n in range(1000)}} for row in range(30)))
    assert summary.notes[0].endswith(" and more")
    assert len(summary.notes[0]) < 500


def test_what_is_odd_but_trains_is_warned_about():
    summary, problems, _ = check(messages(S, U, A), messages(U, A, U), messages({**U, "content": " "}, A))
    assert problems == []
    assert [(warning.code, warning.line, warning.count) for warning in summary.warnings] == [
        ("unanswered_turn", 2, 1),
        ("empty_prompt", 3, 1),
        ("mixed_system_prompts", 2, 2),
    ]
    assert summary.warnings[2].message.startswith("2 of 3 rows have no system prompt")


def test_hostile_nesting_in_tools_is_refused():
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    _, problems, written = check({**messages(U, A), "tools": [{"name": "x", "parameters": deep}]})
    assert bool(problems) != bool(written)


def test_names_from_the_data_are_shown_harmlessly():
    _, problems, _ = check({"\u202eab\n": 1, "x" * 5000: 2})
    assert "\u202e" not in problems[0].message
    assert len(problems[0].message) < 500


ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", None, 7])
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=2)
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES, "content": VALUES},
    optional={"weight": VALUES, "tool_calls": VALUES, "thinking": VALUES, "name": VALUES, "function_call": VALUES},
)
COLUMNS = sorted({name for one in FORMATS for name in (*one.required, *one.optional)})


@given(
    st.lists(
        st.dictionaries(st.sampled_from(COLUMNS), VALUES | st.lists(MESSAGES | VALUES, max_size=3), max_size=4)
        | st.fixed_dictionaries({"messages": st.lists(MESSAGES | VALUES, max_size=4)}, optional={"tools": VALUES}),
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_rows_come_are_written_in_one_form_or_refused(rows):
    summary, problems, written = check(*rows)
    if not problems:
        assert summary.rows == len(written) == len(rows)
    for row in written:
        assert row.keys() <= {"text", "messages", "tools"}
        for message in row.get("messages", ()):
            assert message["role"] in ("system", "user", "assistant", "tool")
            assert isinstance(message["content"], str)
            assert message.get("weight", 1) in (0, 1)
