"""Rows that say which of two answers is better (DPO, ORPO), or whether an answer is good (KTO). Pure.

An answer is a text, one message, or a list of messages; so is the prompt, which may also be the beginning that both
conversations share. Messages may be written with role and content, or with from and value.
"""

from typing import Any, Final, TypeAlias

from appliance.dataset.findings import Fault
from appliance.dataset.messages import read_conversation
from appliance.dataset.sharegpt import SPEAKERS
from appliance.dataset.texts import kind_of, read_text

Row: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]

_AN_ANSWER: Final = "a text or a list of messages"


def read_preference(row: Row, faults: list[Fault]) -> Row:
    """One row as prompt, chosen and rejected. What is wrong is appended to `faults`."""
    before = len(faults)
    prompt = _prompt(row, faults)
    chosen, rejected = (_answer(row, name, prompt, faults) for name in ("chosen", "rejected"))
    if len(faults) > before:
        return {}
    if type(chosen) is not type(rejected):
        kinds = f"chosen is {kind_of(row['chosen'])} and rejected is {kind_of(row['rejected'])}"
        faults.append(Fault("mixed_answers", f"{kinds}; write both in the same way", "rejected", expected=_AN_ANSWER))
    elif chosen == rejected:
        message = "chosen and rejected are the same; a preference needs two different answers, or leave the row out"
        faults.append(Fault("same_answers", message, "rejected", "the same answer", "two different answers"))
    elif prompt is None and isinstance(chosen, list) and chosen[0] != rejected[0]:
        message = "chosen and rejected begin differently; write the question they answer at the beginning of both"
        faults.append(Fault("different_prompts", message, "rejected[0]", expected="the same first messages"))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def read_kto(row: Row, faults: list[Fault]) -> Row:
    """One row as prompt, completion and label."""
    prompt = _prompt(row, faults)
    completion = _answer(row, "completion", prompt, faults)
    if type(row["label"]) is not bool:
        found = kind_of(row["label"])
        message = f"label is {found}; it must be true (a good answer) or false (a bad one)"
        faults.append(Fault("bad_label", message, "label", found, "true or false"))
    return {"prompt": prompt, "completion": completion, "label": row["label"]}


def _prompt(row: Row, faults: list[Fault]) -> str | list[Message] | None:
    """The question, or None where the answers bring it along."""
    name = "conversations" if "conversations" in row else "prompt"
    if name not in row:
        return None
    if type(row[name]) is list and row[name] and all(isinstance(turn, dict) for turn in row[name]):
        return [_as_message(turn) for turn in row[name]]
    return read_text(row, name, faults, key=name, subject=name)


def _answer(row: Row, name: str, prompt: str | list[Message] | None, faults: list[Fault]) -> str | list[Message]:
    value = [row[name]] if isinstance(row[name], dict) else row[name]
    if type(value) is list and value and all(isinstance(turn, dict) for turn in value):
        given = prompt if isinstance(prompt, list) else []
        answer = [_as_message(turn) for turn in value]
        found: list[Fault] = []
        read_conversation([*given, *answer], found, key=name)
        faults += [_in_its_place(fault, name, len(given)) for fault in found]
        return answer
    text = read_text(row, name, faults, key=name, subject=name)
    if text is not None and not text.strip():
        message = f"{name} is empty; write the answer, or leave the row out"
        faults.append(Fault("empty_answer", message, name, "an empty text", "a text"))
    return text or ""


def _as_message(turn: Message) -> Message:
    """A turn with from and value as a message with role and content; any other as it is."""
    if "from" not in turn or "role" in turn:
        return turn
    speaker = turn["from"]
    role = SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    return {"role": role, **({"content": turn["value"]} if "value" in turn else {})}


def _in_its_place(fault: Fault, name: str, prompt_messages: int) -> Fault:
    """The fault's key counted from the first message of the answer, not of the prompt before it."""
    head, bracket, rest = (fault.key or "").partition("[")
    number, _, below = rest.partition("]")
    if not bracket or not number.isdigit():
        return fault
    position = int(number) - prompt_messages
    return fault._replace(key=f"{head}[{position}]{below}" if position >= 0 else f"prompt[{number}]{below}")
