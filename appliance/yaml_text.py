"""A recipe's bytes as text, and its words as values by YAML 1.2's core schema. Pure."""

import re
from typing import Final

from appliance.errors import Problem, Reason

LARGEST: Final = 64 * 1024
_CONTROL: Final = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")


def decode(data: bytes, *, name: str) -> tuple[str, Problem | None]:
    """The text of a recipe, or the one problem that keeps anyone from reading it."""
    if len(data) > LARGEST:
        message = "the recipe is larger than 64 KiB; a recipe is a page of settings, the data goes in a file beside it"
        return "", Problem("recipe_too_large", message, Reason.TOO_LARGE, file=name)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "", Problem("not_utf8", "this is UTF-16; save the recipe as UTF-8", Reason.ENCODING, file=name)
    if (offset := data.find(b"\0")) >= 0:
        message = f"NUL bytes from byte {offset:,}: the recipe looks cut off; copy it again"
        return "", Problem("nul_bytes", message, Reason.TRUNCATED, name, _line(data, offset))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"byte 0x{data[error.start]:02x} on this line is not UTF-8; save the recipe as UTF-8"
        return "", Problem("not_utf8", message, Reason.ENCODING, name, _line(data, error.start))
    if found := _CONTROL.search(text):
        message = f"this line holds the control character U+{ord(found[0]):04X}; remove it"
        line = text.count("\n", 0, found.start()) + 1
        return "", Problem("control_character", message, Reason.RECIPE_SYNTAX, name, line)
    return text, None


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


_NULL: Final = {"", "~", "null", "Null", "NULL"}
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,300}")
_OTHER_BASE: Final = re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def scalar(text: str) -> bool | int | float | str | None:
    """A plain scalar by YAML 1.2's core schema; a number too long to be one stays text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1] in "fFnN" else text)
    return text
