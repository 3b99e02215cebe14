"""Rows of a CSV file, as spreadsheets and databases write them, in one pass and constant memory. Pure.

Columns are separated by commas, semicolons or tabs, whichever the first line has most of. The text is UTF-8, or
Windows-1252 when it cannot be UTF-8: both agree on plain ASCII, so the first byte that tells them apart decides.
"""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec

from appliance.dataset.findings import Fault, Findings, Unreadable
from appliance.dataset.json_faults import LONGEST_ROW, nul_bytes, quote
from appliance.errors import Reason

Row: TypeAlias = dict[str, Any]

SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Excel's own hint, a line before the first.
_EXCEL_HINT: Final = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
# Columns that hold lists: a cell has no other way than their JSON.
_LISTS: Final = frozenset({"messages", "conversations", "history", "chosen", "rejected"})
_QUOTED: Final = re.compile(r'"[^"]*"')
_NO_NAME: Final = "(no name)"


def table_rows(chunks: Iterator[bytes], findings: Findings) -> Iterator[tuple[int, Row]]:
    """Each row under the names of the first line, with the line it begins on."""
    lines = _lines(_text(chunks, findings))
    first = next(lines, "")
    if hint := _EXCEL_HINT.fullmatch(first):
        separator, skipped = hint[1], 1
    else:
        separator, skipped, lines = _separator(first), 0, chain([first], lines)
    if separator != ",":
        findings.notes.append(f"its columns are separated by {SEPARATORS.get(separator, repr(separator))}")
    records = _records(lines, separator, skipped, findings)
    header = _header(next(records, None), findings)
    for line, fields in records:
        if row := _row(line, fields, header, findings):
            yield line, row


def _text(chunks: Iterator[bytes], findings: Findings) -> Iterator[str]:
    """The decoded text, and a note when it is no UTF-8."""
    decoder, ascii_so_far, line, offset = codecs.getincrementaldecoder("utf-8-sig")(), True, 1, 0
    for chunk in chain(chunks, [b""]):
        if b"\0" in chunk:
            at = chunk.find(b"\0")
            raise Unreadable(nul_bytes(offset + at), line=line + chunk.count(b"\n", 0, at))
        waiting = decoder.getstate()[0]
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            good = error.object[: error.start]
            if not (ascii_so_far and good.isascii()):
                raise Unreadable(_mixed_up(error), line=line + good.count(b"\n")) from error
            findings.notes.append("it is read as Windows-1252, since it is not UTF-8; look at its umlauts and accents")
            yield _windows(waiting + chunk, line)
            for rest in chunks:
                line += chunk.count(b"\n")
                chunk = rest
                yield _windows(rest, line)
            return
        ascii_so_far = ascii_so_far and text.isascii()
        line += chunk.count(b"\n")
        offset += len(chunk)
        yield text


def _mixed_up(error: UnicodeDecodeError) -> Fault:
    found = f"0x{error.object[error.start]:02x}"
    message = f"byte {found} is not UTF-8, and what stands before it is; save the file as UTF-8"
    return Fault("not_utf8", message, found=found, expected="UTF-8", reason=Reason.ENCODING)


def _windows(data: bytes, line: int) -> str:
    if b"\0" in data:
        raise Unreadable(nul_bytes(), line=line + data.count(b"\n", 0, data.find(b"\0")))
    try:
        return data.decode("windows-1252")
    except UnicodeDecodeError as error:
        found = f"0x{data[error.start]:02x}"
        message = f"byte {found} is neither UTF-8 nor Windows-1252; save the file as UTF-8"
        fault = Fault("not_utf8", message, found=found, expected="UTF-8", reason=Reason.ENCODING)
        raise Unreadable(fault, line=line + data.count(b"\n", 0, error.start)) from error


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines with their ends. Only \\n ends one, unless the file has none at the start and uses \\r."""
    rest, old_mac = "", None
    for text in texts:
        if old_mac is None and (rest or text):
            old_mac = "\n" not in text and "\r" in text.rstrip("\r")
        *lines, rest = (rest + (text.replace("\r", "\n") if old_mac else text)).split("\n")
        yield from (line + "\n" for line in lines)
        if len(rest) > LONGEST_ROW:
            break
    if rest:
        yield rest


def _separator(first: str) -> str:
    names = _QUOTED.sub("", first)
    return max(SEPARATORS, key=names.count)


def _records(lines: Iterator[str], separator: str, skipped: int, findings: Findings) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, with the line it begins on; blank lines are passed over."""
    csv.field_size_limit(LONGEST_ROW)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = skipped + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            findings.add(line, _fault(str(error)))
            continue
        if any(fields):
            yield line, fields


def _fault(error: str) -> Fault:
    if "unexpected end" in error or "field limit" in error:
        message = 'a quotation mark opens here and is never closed; close it, and double those inside a text ("")'
        return Fault("unclosed_quote", message, expected='" at the end of the text')
    if "expected after" in error:
        message = 'a quotation mark stands inside a text in quotation marks; double it ("")'
        return Fault("quote_in_text", message, found='"', expected='""')
    return Fault("bad_table", "this row cannot be read as CSV; put its texts in quotation marks")


def _header(first: tuple[int, list[str]] | None, findings: Findings) -> list[str]:
    names = [name.strip() for name in first[1]] if first else []
    while names and not names[-1]:
        # Spreadsheets write the separators of columns that are empty.
        names.pop()
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        shown = quote(twice)
        message = f"two columns have the name {shown}; rename or remove one"
        raise Unreadable(Fault("duplicate_column", message, shown, shown), line=first[0] if first else None)
    return [name or _NO_NAME for name in names]


def _row(line: int, fields: list[str], header: list[str], findings: Findings) -> Row | None:
    extra = fields[len(header) :]
    if len(fields) < len(header) or any(extra):
        message = (
            f"this row has {len(fields)} fields and the first line names {len(header)} columns;"
            " put a text that holds the separator or a line break in quotation marks"
        )
        findings.add(line, Fault("field_count", message, found=f"{len(fields)} fields", expected=f"{len(header)}"))
        return None
    return {name: _cell(name, text) for name, text in zip(header, fields, strict=False)}


def _cell(name: str, text: str) -> object:
    if name == "label" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if name in _LISTS and text.lstrip()[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return text
    return text
