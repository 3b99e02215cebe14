"""Tools a conversation may call, and its calls of them, in the one form chat templates know. Pure."""

from typing import Any, Final

import msgspec

from appliance.dataset.findings import Fault
from appliance.dataset.texts import kind_of

_LISTED: Final = 'a list such as [{"type": "function", "function": {"name": ..., "parameters": {...}}}]'


def read_tools(row: dict[str, Any], faults: list[Fault]) -> list[dict[str, Any]]:
    """The tools of one row. Tables cannot hold lists of objects, so a list written as a text is one too."""
    value = row.get("tools")
    if value is None or value == "":
        return []
    tools = _parsed(value) if isinstance(value, str) else value
    if not isinstance(tools, list):
        found = "a text that is no JSON list" if isinstance(value, str) else kind_of(value)
        faults.append(Fault("bad_tools", f"tools is {found}; it must be {_LISTED}", "tools", found, _LISTED))
        return []
    return [_read_tool(tool, number, faults) for number, tool in enumerate(tools, start=1)]


def _read_tool(tool: object, number: int, faults: list[Fault]) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        message = f"tool {number} has no name; tools must be {_LISTED}"
        faults.append(Fault("bad_tools", message, f"tools[{number - 1}]", expected=_LISTED))
        return {}
    return {"type": "function", "function": function}


def read_tool_calls(message: dict[str, Any], read: dict[str, Any], number: int, key: str, faults: list[Fault]) -> None:
    """Take over the calls of one message with their arguments as objects; a text of JSON becomes one."""
    calls = message.get("tool_calls")
    if message.get("function_call"):
        sentence = f"message {number} has function_call, the old form; write it as tool_calls"
        faults.append(Fault("old_function_call", sentence, f"{key}.function_call", expected="tool_calls"))
    if calls is None or calls == []:
        return
    if not isinstance(calls, list):
        found = kind_of(calls)
        sentence = f"tool_calls of message {number} is {found}; it must be a list"
        faults.append(Fault("bad_tool_call", sentence, f"{key}.tool_calls", found, "a list"))
        return
    read["tool_calls"] = [
        _read_call(call, number, f"{key}.tool_calls[{index}]", faults) for index, call in enumerate(calls)
    ]


def _read_call(call: object, number: int, key: str, faults: list[Fault]) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        sentence = f"a tool call in message {number} has no name; it needs a function with name and arguments"
        faults.append(Fault("bad_tool_call", sentence, key, expected="a function with name and arguments"))
        return {}
    arguments = function.get("arguments", {})
    arguments = _parsed(arguments or "{}") if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        sentence = f"the arguments of a tool call in message {number} are no JSON object; write them as one"
        faults.append(Fault("bad_tool_call", sentence, f"{key}.function.arguments", expected="a JSON object"))
    read = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **read} if isinstance(call.get("id"), str) else read


def _parsed(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
