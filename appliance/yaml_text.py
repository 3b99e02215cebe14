"""A recipe's bytes as text, its words as values by YAML 1.2's core schema, its syntax errors in plain words. Pure."""

import re
from typing import Final

from ruamel.yaml.error import MarkedYAMLError, YAMLError

from appliance.errors import Problem, Reason

LARGEST: Final = 64 * 1024
_CONTROL: Final = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")


def decode(data: bytes, *, name: str) -> tuple[str, Problem | None]:
    """The text of a recipe, or the one problem that keeps anyone from reading it."""
    if _looks_like_rows(data):
        message = (
            "this looks like a dataset (a JSON object on each line), not a recipe; a recipe is lines such as"
            " base_model: demo"
        )
        return "", Problem("not_a_recipe", message, Reason.RECIPE_SYNTAX, name, 1)
    if len(data) > LARGEST:
        message = "the recipe is larger than 64 KiB; keep the settings, and put the data into a file beside it"
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


def _looks_like_rows(data: bytes) -> bool:
    """Whether the first two lines are objects of their own, which no recipe has."""
    head = data[: LARGEST + 1].removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 2)[:2]
    return len(head) == 2 and head[0].rstrip().endswith(b"}") and all(line.startswith(b"{") for line in head)


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


# What the parser says, and what it means to somebody who has never heard of scalars and tokens.
_MEANINGS: Final = (
    ("mapping values are not allowed", "a colon stands where none can; give each key a line of its own, put a space"
     " after its colon, and text with a colon in it in quotes"),
    ("found character '\\t'", "there is a tab here; use spaces"),
    ("that cannot start any token", "a value cannot begin with this character; put it in quotes"),
    ("while scanning a quoted scalar", "the quotation mark opened here is never closed; close it"),
    ("could not find expected ':'", "there is no colon; a recipe is lines such as base_model: demo"),
    ("expected ',' or", "the bracket opened here is never closed, or a comma is missing; add it"),
    ("expected <block end>", "this line is not indented like those above it; indent it as they are"),
    ("expected the node content", "a value is missing"),
    ("expected '<document start>'", "this line does not belong to what stands above it; a recipe is lines such as"
     " base_model: demo"),
)  # fmt: skip


# The parser notices these late; the mistake is where it began.
_BEGAN_EARLIER: Final = ("quoted scalar", "could not find expected ':'", "expected ',' or")


def explain(error: YAMLError) -> tuple[int, str]:
    """The line of a syntax error and what is wrong, in plain words."""
    if not isinstance(error, MarkedYAMLError):
        return 1, "this is not YAML; a recipe is lines such as base_model: demo"
    said = " ".join(part for part in (error.context, error.problem) if part)
    mark = (error.context_mark if any(words in said for words in _BEGAN_EARLIER) else None) or error.problem_mark
    meaning = next((meaning for words, meaning in _MEANINGS if words in said), f"this is not YAML: {said}")
    return (mark.line + 1 if mark else 1), meaning
