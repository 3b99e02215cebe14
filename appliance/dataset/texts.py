"""Texts in a row's columns and messages, and everything that stands where a text should. Pure."""

from typing import Any, Final

from appliance.dataset.findings import Fault

_KINDS: Final = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}
_MEDIA: Final = ("image", "audio", "video", "file")
MEDIA_COLUMNS: Final = frozenset({"image", "images", "audio", "audios", "video", "videos"})


def kind_of(value: object) -> str:
    """What a JSON value is, as a person would say it."""
    return "null" if value is None else _KINDS.get(type(value), "a number")


def read_text(row: dict[str, Any], column: str, faults: list[Fault], *, key: str, subject: str) -> str | None:
    """The text in a column, or None and a fault. Text in parts, as the chat APIs write it, is put together."""
    value = row.get(column)
    if type(value) is str:
        return value
    if type(value) is list and value and all(map(_is_text_part, value)):
        return "".join(part if isinstance(part, str) else part["text"] for part in value)
    faults.append(_no_text(value, key, subject) if column in row else _missing(key, subject))
    return None


def _is_text_part(part: object) -> bool:
    if isinstance(part, dict):
        return part.get("type", "text") in ("text", "input_text", "output_text") and type(part.get("text")) is str
    return type(part) is str


def _missing(key: str, subject: str) -> Fault:
    return Fault("missing_text", f"{subject} is missing; write its text", key=key, expected="a text")


def _no_text(value: object, key: str, subject: str) -> Fault:
    if value is None:
        return Fault("null_content", f"{subject} is null; write a text", key=key, found="null", expected="a text")
    if media := _media_in(value):
        return media_fault(f"{subject} holds {media}", key=key)
    found = kind_of(value)
    return Fault(
        "not_text", f"{subject} is {found}; write it as a text, in quotes", key=key, found=found, expected="a text"
    )


def _media_in(value: object) -> str | None:
    parts = value if isinstance(value, list) else [value]
    kinds = [str(part.get("type", "")) for part in parts if isinstance(part, dict)]
    return next((f"{media} content" for kind in kinds for media in _MEDIA if media in kind), None)


def media_fault(what: str, *, key: str) -> Fault:
    message = f"{what}; the appliance trains on text alone, leave such rows out"
    return Fault("media_content", message, key=key, expected="text")
