"""ShareGPT conversations (`from` and `value`) as messages. Pure.

Speakers: human, gpt, system, tool; function_call is an assistant's call of a tool, written as JSON, and observation
what the tool answered. What is wrong is appended to `faults` with the keys as the row has them.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from appliance.dataset.findings import Fault
from appliance.dataset.json_faults import quote
from appliance.dataset.messages import read_conversation
from appliance.dataset.texts import kind_of, read_text
from appliance.dataset.tools import read_tools

Row: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]

SPEAKERS: Final[Mapping[str, str]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_EXPECTED: Final = "human, gpt, system, function_call, observation or tool"
_CALL: Final = '{"name": ..., "arguments": {...}}'


def read_sharegpt(row: Row, faults: list[Fault]) -> Row:
    """One row as messages and tools."""
    turns = row["conversations"]
    if type(turns) is not list or not turns:
        found = "an empty list" if turns == [] else kind_of(turns)
        message = f"conversations is {found}; it must be a list of turns, each with from and value"
        faults.append(Fault("bad_messages", message, "conversations", found, "a list of turns"))
        return {"messages": []}
    before = len(faults)
    messages = [_read_turn(turn, number, faults) for number, turn in enumerate(turns, start=1)]
    if row.get("system"):
        content = read_text(row, "system", faults, key="system", subject="system")
        messages.insert(0, {"role": "system", "content": content})
    tools = read_tools(row, faults) if "tools" in row else []
    if len(faults) == before:
        messages = read_conversation(messages, faults, key="conversations")
        faults[before:] = map(_in_its_own_words, faults[before:])
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _in_its_own_words(fault: Fault) -> Fault:
    """The fault with the keys that the row has: `from` and `value`, not `role` and `content`."""
    key = fault.key and fault.key.replace("].content", "].value").replace("].role", "].from")
    return fault._replace(key=key)


def _read_turn(turn: object, number: int, faults: list[Fault]) -> Message:
    key = f"conversations[{number - 1}]"
    if type(turn) is not dict:
        found = kind_of(turn)
        message = f"turn {number} is {found}; it must be an object with from and value"
        faults.append(Fault("bad_message", message, key, found, "an object"))
        return {}
    role = _read_speaker(turn, number, key, faults)
    text = read_text(turn, "value", faults, key=f"{key}.value", subject=f"the value of turn {number}")
    if turn.get("from") == "function_call" and text is not None:
        return {"role": role, "content": "", "tool_calls": _read_calls(text, number, key, faults)}
    weight = {"weight": turn["weight"]} if "weight" in turn else {}
    return {"role": role, "content": text, **weight}


def _read_speaker(turn: Row, number: int, key: str, faults: list[Fault]) -> str:
    speaker = turn.get("from")
    if isinstance(speaker, str) and speaker in SPEAKERS:
        return SPEAKERS[speaker]
    if "from" not in turn and "role" in turn:
        message = f"turn {number} has role; in conversations it is called from, and its text value"
    elif isinstance(speaker, str):
        message = f"turn {number} is from {quote(speaker) or 'nobody'}; it must be {_EXPECTED}"
    else:
        message = f"turn {number} does not say who speaks; from must be {_EXPECTED}"
    found = quote(speaker) if isinstance(speaker, str) else None
    faults.append(Fault("unknown_role", message, f"{key}.from", found, _EXPECTED))
    return ""


def _read_calls(text: str, number: int, key: str, faults: list[Fault]) -> list[Row]:
    """The call, or the list of calls, that a function_call holds as JSON."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        value = None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        message = f"the function_call in turn {number} is no JSON object with name and arguments; write it as {_CALL}"
        faults.append(Fault("bad_tool_call", message, f"{key}.value", expected=_CALL))
        return []
    return [{"function": call} for call in calls]
