"""The checks of one conversation: messages with roles, texts, weights and thoughts. Pure.

It comes out as it is trained on: every content a text, thoughts under `reasoning_content`, arguments of tool calls as
objects. What is wrong with it is appended to `faults`.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, TypeAlias

from appliance.dataset.findings import Fault
from appliance.dataset.json_faults import quote
from appliance.dataset.texts import kind_of, read_text
from appliance.dataset.tools import read_tool_calls

Message: TypeAlias = dict[str, Any]
Faults: TypeAlias = list[Fault]

ROLES: Final = ("system", "user", "assistant", "tool")
_MEANT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("human", "prompter", "customer", "question"), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "ai", "chatgpt", "agent", "chatbot", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
    "developer": "system",
}


def read_conversation(messages: object, faults: Faults, *, key: str = "messages") -> list[Message]:
    """The messages of one row. When something is wrong with them, what comes back is not to be used."""
    if type(messages) is not list or not messages:
        faults.append(_not_messages(messages, key))
        return []
    before = len(faults)
    read = [
        message if type(message) is dict and len(message) == 2 and _is_plain(message)
        else _read_message(message, number, f"{key}[{number - 1}]", faults)
        for number, message in enumerate(messages, start=1)
    ]  # fmt: skip
    if len(faults) == before:
        roles = tuple([message["role"] for message in read])
        faults += turn_faults(roles, key)
        if "tool" in roles or any([len(message) > 2 for message in read]):
            faults += _weight_and_tool_faults(read, key)
    return read


def _not_messages(messages: object, key: str) -> Fault:
    found = "an empty list" if messages == [] else kind_of(messages)
    message = f"{key} is {found}; it must be a list of messages, each with role and content"
    return Fault("bad_messages", message, key=key, found=found, expected="a list of messages")


def _is_plain(message: Message) -> bool:
    """A role and a text, as nearly all messages are: nothing to look at more closely."""
    role, content = message.get("role"), message.get("content")
    return type(content) is str and role in ROLES and (role != "assistant" or not (not content or content.isspace()))


def _read_message(message: object, number: int, key: str, faults: Faults) -> Message:
    if type(message) is not dict:
        found = kind_of(message)
        sentence = f"message {number} is {found}; it must be an object with role and content"
        faults.append(Fault("bad_message", sentence, key=key, found=found, expected="an object"))
        return {}
    if "role" not in message and "from" in message:
        sentence = f"message {number} has from and value; in messages they are called role and content"
        faults.append(Fault("sharegpt_message", sentence, key=f"{key}.from", found="from", expected="role"))
        return {}
    role = _read_role(message, number, key, faults)
    content = _read_content(message, number, key, faults)
    read: Message = {"role": role, "content": content or ""}
    if role == "assistant":
        _read_weight(message, read, number, key, faults)
        _read_thoughts(message, read, number, key, faults)
        read_tool_calls(message, read, number, key, faults)
        if content is not None:
            _check_answer(read, number, key, faults)
    for name in ("name", "tool_call_id"):
        if isinstance(message.get(name), str):
            read[name] = message[name]
    return read


def _read_role(message: Message, number: int, key: str, faults: Faults) -> str:
    role = message.get("role")
    if isinstance(role, str) and role in ROLES:
        return role
    expected = "system, user, assistant or tool"
    if not isinstance(role, str):
        sentence = f"message {number} has no role; it must be {expected}"
        faults.append(Fault("missing_role", sentence, key=f"{key}.role", expected=expected))
        return ""
    meant = _MEANT.get(role.strip().lower(), role.strip().lower())
    expected = meant if meant in ROLES else expected
    sentence = f"message {number} has the role {quote(role) or 'nothing'}; it must be {expected}"
    faults.append(Fault("unknown_role", sentence, key=f"{key}.role", found=quote(role), expected=expected))
    return ""


def _read_content(message: Message, number: int, key: str, faults: Faults) -> str | None:
    if message.get("content") is None and message.get("tool_calls"):
        return ""  # a message that only calls tools, as the chat APIs write it
    return read_text(message, "content", faults, key=f"{key}.content", subject=f"the content of message {number}")


def _read_weight(message: Message, read: Message, number: int, key: str, faults: Faults) -> None:
    weight = message.get("weight")
    if weight is None:
        return
    if weight in (0, 1):
        read["weight"] = int(weight)
        return
    found = f'"{quote(weight)}"' if isinstance(weight, str) else quote(str(weight))
    sentence = f"message {number} has the weight {found}; it must be 1 (trained) or 0 (not trained)"
    faults.append(Fault("bad_weight", sentence, key=f"{key}.weight", found=found, expected="0 or 1"))


def _read_thoughts(message: Message, read: Message, number: int, key: str, faults: Faults) -> None:
    name = "thinking" if message.get("reasoning_content") is None else "reasoning_content"
    if message.get(name) is not None:
        subject = f"{name} of message {number}"
        read["reasoning_content"] = read_text(message, name, faults, key=f"{key}.{name}", subject=subject)


def _check_answer(read: Message, number: int, key: str, faults: Faults) -> None:
    if not read["content"].strip() and "tool_calls" not in read and read.get("weight") != 0:
        sentence = f"the answer in message {number} is empty; write it, or leave the row out"
        faults.append(Fault("empty_answer", sentence, key=f"{key}.content", found="an empty text", expected="a text"))


@lru_cache(maxsize=4096)
def turn_faults(roles: tuple[str, ...], key: str) -> tuple[Fault, ...]:
    """What is wrong with the order of speakers. There are few orders in a dataset, so each is looked at once."""
    faults = []
    if "assistant" not in roles:
        sentence = "no message is from the assistant, so there is nothing to learn; add the answer"
        faults.append(Fault("no_assistant_turn", sentence, key=key, found=", ".join(roles[:8]), expected="assistant"))
    for number, pair in enumerate(pairwise(roles), start=1):
        if pair == ("user", "user"):
            sentence = (
                f"messages {number} and {number + 1} are both from the user; join them, or add the answer between"
            )
            faults.append(Fault("two_user_turns", sentence, key=f"{key}[{number}].role", found="user, user"))
    return tuple(faults)


def _weight_and_tool_faults(messages: list[Message], key: str) -> list[Fault]:
    faults = []
    answers = [message for message in messages if message["role"] == "assistant"]
    if answers and all(message.get("weight") == 0 for message in answers):
        sentence = "every answer has weight 0, so there is nothing to learn; give one of them weight 1"
        faults.append(Fault("nothing_trained", sentence, key=key, found="weight 0 everywhere", expected="weight 1"))
    called = False
    for number, message in enumerate(messages, start=1):
        called = "tool_calls" in message or (called and message["role"] == "tool")
        if message["role"] == "tool" and not called:
            sentence = f"message {number} is a tool's answer, but the message before it calls no tool; add tool_calls"
            faults.append(Fault("tool_without_call", sentence, key=f"{key}[{number - 1}].role", found="tool"))
    return faults
