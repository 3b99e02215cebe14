"""The second look at a row: what exactly is wrong with its JSON, in words a person can act on. Pure.

Slow and thorough; only rows the fast decoder refused, or that may hold a key twice, come here.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from appliance.dataset.findings import Fault
from appliance.errors import Reason

LONGEST_ROW: Final = 16 * 2**20
_LONGEST_INTEGER: Final = 300
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def json_fault(data: bytes) -> Fault | None:
    """What is wrong with one row's JSON, or None when it can be read after all."""
    if b"\0" in data:
        return nul_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(data, error.start)
    look = _Look()
    try:
        value = look.read(text)
        return look.fault or next(_surrogates(value), None)
    except json.JSONDecodeError as error:
        return syntax_fault(error)
    except RecursionError:
        return too_deep()


def too_deep() -> Fault:
    return Fault("too_deep", "this row is nested too deep to be read; a row is an object with a few columns")


def cut_off() -> Fault:
    message = "the file ends in the middle of a row and looks cut off; copy it again"
    return Fault("cut_off", message, reason=Reason.TRUNCATED)


def row_too_long() -> Fault:
    message = f"a row of more than {LONGEST_ROW >> 20} MiB; split it, or look for a missing line break"
    return Fault("row_too_long", message, reason=Reason.TOO_LARGE)


def nul_bytes(offset: int | None = None) -> Fault:
    where = "in this row" if offset is None else f"from byte {offset:,}"
    message = f"NUL bytes {where}: the file looks cut off, or its copying never finished; copy it again"
    return Fault("nul_bytes", message, found="NUL bytes", reason=Reason.TRUNCATED)


def _not_utf8(data: bytes, start: int) -> Fault:
    message = f"byte 0x{data[start]:02x} at column {start + 1} is not UTF-8; save the file as UTF-8"
    return Fault("not_utf8", message, found=f"0x{data[start]:02x}", expected="UTF-8", reason=Reason.ENCODING)


class _Look:
    """Reads JSON and notes the first thing in it that is not quite JSON, or would be lost by reading it."""

    def __init__(self) -> None:
        self.fault: Fault | None = None

    def read(self, text: str) -> Any:  # noqa: ANN401
        return json.loads(
            text,
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_int=self._integer,
            parse_float=self._number,
        )

    def _note(self, fault: Fault) -> None:
        self.fault = self.fault or fault

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            shown = quote(twice)
            self._note(Fault("duplicate_key", f"the key {shown} is there twice; keep one", key=shown, found=shown))
        return value

    def _constant(self, name: str) -> None:
        message = f"{name} is not JSON; write null or leave the key out"
        self._note(Fault("not_a_number", message, found=name, expected="a number, a text or null"))

    def _integer(self, digits: str) -> int:
        if len(digits) <= _LONGEST_INTEGER:
            return int(digits)
        message = f"a number of {len(digits):,} digits cannot be read; write it as text, in quotes"
        self._note(Fault("huge_number", message, found=f"{len(digits):,} digits"))
        return 0

    def _number(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self._note(Fault("huge_number", "this number is too large to be read; write it as text, in quotes"))
        return number


def _surrogates(value: Any) -> Iterator[Fault]:  # noqa: ANN401
    """Half of a character pair: JSON allows it, UTF-8 and every tokenizer do not."""
    if isinstance(value, str) and (found := _LONE_SURROGATE.search(value)):
        half = f"\\u{ord(found[0]):04x}"
        message = f"{half} is half a character (a lone surrogate); remove it or write the whole character"
        yield Fault("lone_surrogate", message, found=half, reason=Reason.ENCODING)
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _surrogates(key)
            yield from _surrogates(below)
    elif isinstance(value, list):
        for below in value:
            yield from _surrogates(below)


def quote(text: str) -> str:
    """A name from the data as one short printable word."""
    shown = ascii(text)[1:-1] if not text.isprintable() else text
    return shown if len(shown) <= 40 else shown[:39] + "…"


def syntax_fault(error: json.JSONDecodeError) -> Fault:
    """What the JSON decoder stumbled over, in plain words."""
    rest = error.doc[error.pos :]
    at = f"at column {error.colno}"
    explain = next((explain for words, explain in _SYNTAX if error.msg.startswith(words)), None)
    message = explain(rest, at) if explain else f"this is not JSON {at}; write the row as JSON does"
    code = "row_ends_early" if message == _ENDS_EARLY else "json_syntax"
    return Fault(code, message, found=quote(rest[:20]) or "the end of the row")


_ENDS_EARLY: Final = "the row ends too early; close its brackets and quotation marks"


def _expected_key(rest: str, at: str) -> str:
    if rest.startswith("'"):
        return f"a single quotation mark {at}; JSON wants double ones"
    if rest.startswith(("}", "]")):
        return f"a comma too many {at}; remove it"
    return f'a key {at} is not in double quotation marks; write it as "key"' if rest else _ENDS_EARLY


def _expected_value(rest: str, at: str) -> str:
    word = re.match(r"None|True|False|nan|undefined|'", rest)
    if word and word[0] == "'":
        return f"a single quotation mark {at}; JSON wants double ones"
    if word:
        return f"{word[0]} {at} is not JSON; write null, true or false"
    if rest.startswith(("}", "]", ",")):
        return f"a value is missing, or a comma is too many, {at}; write the value, or remove the comma"
    return f"the text {at} is not JSON; put it in double quotation marks" if rest else _ENDS_EARLY


def _extra_data(rest: str, at: str) -> str:
    if re.fullmatch(r"\s*,\s*", rest):
        return f"a comma {at} behind the row; remove it"
    return f"something follows the row {at}; put each row on a line of its own"


def _raw_character(rest: str, at: str) -> str:
    if rest[:1] in "\r\n":
        return "a text runs over the end of the line; close it with a quotation mark, or write the break as \\n"
    if rest.startswith("\t"):
        return f"a raw tab inside a text {at}; write it as \\t"
    return f"the control character U+{ord(rest[0]):04X} inside a text {at}; remove it"


def _missing_comma(rest: str, at: str) -> str:
    if not rest:
        return _ENDS_EARLY
    return f'a comma is missing {at}, or a quotation mark inside a text lacks its backslash (\\"); add it'


_SYNTAX: Final[tuple[tuple[str, Callable[[str, str], str]], ...]] = (
    ("Expecting property name", _expected_key),
    ("Illegal trailing comma", lambda rest, at: f"a comma too many {at}; remove it"),
    ("Expecting value", _expected_value),
    ("Expecting ',' delimiter", _missing_comma),
    (
        "Expecting ':' delimiter",
        lambda rest, at: f'a colon is missing {at}; write "key": value' if rest else _ENDS_EARLY,
    ),
    ("Unterminated string", lambda rest, at: _ENDS_EARLY),
    ("Invalid control character", _raw_character),
    ("Invalid \\", lambda rest, at: f"a single backslash {at}; double it"),
    ("Extra data", _extra_data),
)
