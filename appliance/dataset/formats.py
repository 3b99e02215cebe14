"""The dataset formats. A new one is a new entry in FORMATS and, if its rows have a shape of their own, a function.

A file holds rows of one format, which is found from the first of them. Whatever the format, a row comes out as
`{"messages": [...]}` (with `tools` where it has any) or as `{"text": ...}`.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from appliance.dataset.findings import Fault
from appliance.dataset.json_faults import quote
from appliance.dataset.messages import read_conversation
from appliance.dataset.preferences import read_kto, read_preference
from appliance.dataset.sharegpt import read_sharegpt
from appliance.dataset.texts import kind_of, read_text
from appliance.dataset.tools import read_tools

Row: TypeAlias = dict[str, Any]
Read: TypeAlias = Callable[[Row, list[Fault]], Row]


@dataclass(frozen=True, eq=False)
class Format:
    """One way to write rows. `required` are the columns it is known by, each with the type that tells it from others.

    A format with `later` is checked like any other and then refused: it says with which release it comes.
    """

    name: str
    required: Mapping[str, type]
    read: Read
    optional: frozenset[str] = frozenset()
    type: Literal["conversational", "text", "preference"] = "conversational"
    note: str | None = None
    later: str = ""
    columns: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", frozenset(self.required))

    def matches(self, row: Row) -> bool:
        return self.columns <= row.keys() and all(isinstance(row[name], kind) for name, kind in self.required.items())

    def __str__(self) -> str:
        return self.name if self.name in self.required else f"{self.name} ({', '.join(self.required)})"


def _messages(row: Row, faults: list[Fault]) -> Row:
    messages = read_conversation(row["messages"], faults)
    tools = read_tools(row, faults) if "tools" in row else None
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _alpaca(row: Row, faults: list[Fault]) -> Row:
    instruction = _column(row, "instruction", faults)
    given = _column(row, "input", faults) if row.get("input") is not None else ""
    prompt = f"{instruction}\n\n{given}" if instruction and given else instruction or given
    turns = _history(row, faults)
    if row.get("system"):
        turns.insert(0, {"role": "system", "content": _column(row, "system", faults)})
    return {"messages": [*turns, *_question_and_answer(prompt, _answer(row, "output", faults))]}


def _history(row: Row, faults: list[Fault]) -> list[Row]:
    """Earlier turns, as LLaMA-Factory adds them: pairs of question and answer."""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
        message = 'history is no list of pairs; write it as [["question", "answer"], ...]'
        faults.append(Fault("bad_history", message, "history", kind_of(history), "a list of pairs of texts"))
        return []
    return [message for pair in history for message in _question_and_answer(*pair)]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _prompt_and_answer(row: Row, faults: list[Fault], *, prompt: str, answer: str) -> Row:
    if type(row[prompt]) is list and type(row[answer]) is list:
        return _conversational(row, faults, prompt, answer)
    return {"messages": _question_and_answer(_column(row, prompt, faults), _answer(row, answer, faults))}


def _conversational(row: Row, faults: list[Fault], prompt: str, answer: str) -> Row:
    """Prompt and completion as messages each, as TRL knows them. Only the completion is trained on."""
    given = [
        {**message, "weight": 0} if isinstance(message, dict) and message.get("role") == "assistant" else message
        for message in row[prompt]
    ]
    return _messages({**row, "messages": [*given, *row[answer]]}, faults)


def _text(row: Row, faults: list[Fault]) -> Row:
    text = _column(row, "text", faults)
    if text is not None and not text.strip():
        faults.append(
            Fault("empty_text", "text is empty; write it, or leave the row out", "text", "an empty text", "a text")
        )
    return {"text": text}


def _column(row: Row, name: str, faults: list[Fault]) -> str | None:
    return read_text(row, name, faults, key=name, subject=name)


def _answer(row: Row, name: str, faults: list[Fault]) -> str | None:
    answer = _column(row, name, faults)
    if answer is not None and not answer.strip():
        message = f"{name} is empty; write the answer, or leave the row out"
        faults.append(Fault("empty_answer", message, name, "an empty text", "a text"))
    return answer


def _question_and_answer(prompt: str | None, answer: str | None) -> list[Row]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


_PREFERENCE_LATER: Final = "training on preferences comes with a later release; drop rows with one good answer each"

# The more columns a format is known by, the earlier it stands.
FORMATS: Final = (
    Format(
        "preference", {"chosen": object, "rejected": object}, read_preference,
        frozenset({"prompt", "conversations", "system", "tools"}), type="preference", later=_PREFERENCE_LATER,
    ),
    Format(
        "KTO", {"prompt": object, "completion": object, "label": bool}, read_kto, frozenset({"tools"}),
        type="preference", later=_PREFERENCE_LATER,
    ),
    Format("messages", {"messages": object}, _messages, frozenset({"tools"})),
    Format("ShareGPT", {"conversations": object}, read_sharegpt, frozenset({"tools", "system"})),
    Format("Alpaca", {"instruction": object, "output": object}, _alpaca, frozenset({"input", "system", "history"})),
    Format(
        "prompt and completion", {"prompt": object, "completion": object},
        partial(_prompt_and_answer, prompt="prompt", answer="completion"), frozenset({"tools"}),
    ),
    Format(
        "prompt and completion", {"question": object, "answer": object},
        partial(_prompt_and_answer, prompt="question", answer="answer"),
        note="question and answer are read as prompt and completion",
    ),
    Format(
        "prompt and completion", {"prompt": object, "response": object},
        partial(_prompt_and_answer, prompt="prompt", answer="response"),
        note="prompt and response are read as prompt and completion",
    ),
    Format("text", {"text": object}, _text, type="text"),
)  # fmt: skip


def recognise(row: Row) -> Format | None:
    """The format one row is written in."""
    return next((one for one in FORMATS if one.matches(row)), None)


def find_format(rows: Sequence[Row]) -> Format | None:
    """The format most of these rows are written in; of two equally frequent ones, the first to appear."""
    seen = Counter(found for row in rows if (found := recognise(row)))
    return max(seen, key=seen.__getitem__, default=None)


def not_yet(form: Format) -> Fault:
    """Rows in a format that is known and not trained on today."""
    message = f"the rows are in the format {form}, not yet: {form.later}"
    return Fault("not_yet", message, found=form.name, expected="messages")


def unknown_format(row: Row) -> Fault:
    """The first row of a file in no format we know."""
    found = _columns(row)
    known = ", or ".join(" and ".join(one.required) for one in FORMATS if not one.later)
    message = f"the rows have {found}, which is no format the appliance knows{_hint(row)}"
    return Fault("unknown_format", f"{message}; what would work: {known}", found=found, expected=known)


def wrong_format(row: Row, expected: Format) -> Fault:
    """A row that is not written as the rest of its file is."""
    if other := recognise(row):
        message = f"this row is {other}, but the file is {expected}; a file holds one format"
        return Fault("mixed_formats", message, found=other.name, expected=expected.name)
    missing = [name for name in expected.required if name not in row]
    found = _columns(row)
    names = " and ".join(missing)
    message = f"{names} {'is' if len(missing) == 1 else 'are'} missing{_hint(row, missing)}; the row has {found}"
    return Fault("missing_column", message, key=missing[0], found=found, expected=", ".join(expected.required))


def _columns(row: Row) -> str:
    named = [quote(name) for name in list(row)[:12]]
    if not named:
        return "no columns"
    more = ", ..." if len(row) > len(named) else ""
    return f"the column{'s' if len(named) > 1 else ''} {', '.join(named)}{more}"


def _hint(row: Row, wanted: Sequence[str] = ()) -> str:
    candidates = wanted or sorted({name for one in FORMATS if not one.later for name in one.required})
    for name in list(row)[:50]:
        if name in candidates:
            continue
        if near := difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.75):
            return f" (did you mean {near[0]} by {quote(name)}?)"
    return ""
