"""From a dataset's bytes to its rows, in one pass and constant memory. Pure.

Chunks of bytes come in, rows go out, each with the line it begins on. Lines are split on \\n only: U+2028 and its kin
are ordinary characters inside a JSON text. A row that cannot be read is added to the findings, and reading goes on.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec

from appliance.dataset.array import elements
from appliance.dataset.content import foreign_content, foreign_suffix, gunzip
from appliance.dataset.findings import Fault, Findings, Unreadable
from appliance.dataset.json_faults import LONGEST_ROW, cut_off, json_fault, nul_bytes, row_too_long
from appliance.dataset.tables import table_rows

Row: TypeAlias = dict[str, Any]
NumberedLine: TypeAlias = tuple[int, bytes]
NumberedRow: TypeAlias = tuple[int, Row]

_BOM: Final = b"\xef\xbb\xbf"
_decode: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode


def read_rows(
    chunks: Iterable[bytes], *, suffix: str, findings: Findings, most_bytes: int = 50 * 10**9
) -> Iterator[NumberedRow]:
    """The rows of a file with this (lower-case) suffix, each with the line it begins on.

    A packed file may unpack to `most_bytes`. Parquet is no stream and has a reader of its own.
    """
    try:
        if fault := foreign_suffix(suffix):
            raise Unreadable(fault)
        yield from _rows(gunzip(chunks, most_bytes) if suffix.endswith(".gz") else iter(chunks), suffix, findings)
    except Unreadable as error:
        findings.add(error.line, error.fault)


def _rows(chunks: Iterator[bytes], suffix: str, findings: Findings) -> Iterator[NumberedRow]:
    head, chunks = _peek(chunks)
    if fault := foreign_content(head):
        raise Unreadable(fault)
    if suffix == ".csv":
        return table_rows(chunks, findings)
    if suffix == ".json" and head.lstrip().startswith(b"["):
        return _decoded(elements(chunks, findings), findings)
    if fault := _shape_fault(head):
        raise Unreadable(fault, line=1)
    return _decoded(_lines(chunks, findings), findings)


def lines_may_be_parted(head: bytes, suffix: str) -> bool:
    """Whether a file that begins so is one row a line, so that its parts can be read on their own."""
    head = head.removeprefix(_BOM)
    foreign = foreign_content(head) or (suffix == ".json" and head.lstrip().startswith(b"["))
    return suffix in (".jsonl", ".json") and not foreign and _shape_fault(head) is None


def read_part(block: bytes, findings: Findings, *, offset: int) -> Iterator[NumberedRow]:
    """The rows of whole lines that lie `offset` bytes from the file's beginning; numbers count from the first line."""
    return _decoded(_lines(iter([block]), findings, offset=offset), findings)


def _peek(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The beginning of the file without its byte-order mark, and all of its chunks."""
    head = b""
    while len(head) < 2**16 and (chunk := next(chunks, None)) is not None:
        head += chunk
    return head.removeprefix(_BOM), chain([head], chunks)


def _shape_fault(head: bytes) -> Fault | None:
    """Rows that do not lie one on a line, seen once for the file instead of once for every line."""
    is_array = head.lstrip().startswith(b"[")
    first, _, rest = head.lstrip().partition(b"\n")
    begins_like_a_row = rest.lstrip()[:1] in (b"{", b"")
    if is_array and not (rest.lstrip().startswith(b"[") and _closes(first)):
        message = "this file is one JSON array; name it .json, or write each row on a line of its own without the [ ]"
        return Fault("array_in_jsonl", message, found="[", expected="{")
    if first.startswith(b"{") and not begins_like_a_row and not _closes(first):
        message = "the rows are spread over several lines; write each row, from { to }, on one line"
        return Fault("row_over_lines", message, expected="one row a line")
    return None


def _closes(line: bytes) -> bool:
    fault = json_fault(line)
    return fault is None or fault.code != "row_ends_early"


def _lines(chunks: Iterator[bytes], findings: Findings, *, offset: int = 0) -> Iterator[NumberedLine]:
    """Each line with its number. Those with NUL bytes and those too long for memory are reported and passed over."""
    head = next(chunks, b"")
    text = head.removeprefix(_BOM)
    number, rest, passing_over = 1, b"", False
    offset += len(head) - len(text)
    for chunk in chain([text], chunks):
        if passing_over:
            passed, newline, chunk = chunk.partition(b"\n")
            offset += len(passed) + len(newline)
            number += len(newline)
            passing_over = not newline
        block, end = rest + chunk, offset + len(chunk)
        *lines, rest = block.split(b"\n")
        numbered = enumerate(lines, start=number)
        yield from _without_nul(numbered, end - len(block), findings) if b"\0" in block else numbered
        number, offset = number + len(lines), end
        if len(rest) > LONGEST_ROW:
            at = rest.find(b"\0")
            findings.add(number, row_too_long() if at < 0 else nul_bytes(offset - len(rest) + at))
            rest, passing_over = b"", True
    yield from _last_line(number, rest, offset - len(rest), findings)


def _without_nul(lines: Iterable[NumberedLine], offset: int, findings: Findings) -> Iterator[NumberedLine]:
    for number, line in lines:
        at = line.find(b"\0")
        if at < 0:
            yield number, line
        else:
            findings.add(number, nul_bytes(offset + at))
        offset += len(line) + 1


def _last_line(number: int, line: bytes, offset: int, findings: Findings) -> Iterator[NumberedLine]:
    """What stands behind the last line break: nothing, a row, or part of one."""
    if b"\0" in line:
        findings.add(number, nul_bytes(offset + line.find(b"\0")))
    elif line.strip() and not _closes(line):
        findings.add(number, cut_off())
    else:
        yield number, line


def _decoded(lines: Iterable[NumberedLine], findings: Findings) -> Iterator[NumberedRow]:
    for number, line in lines:
        try:
            row = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if line.strip():
                findings.add(number, json_fault(line) or _NOT_JSON)
            continue
        if type(row) is not dict:
            findings.add(number, _not_an_object(row))
        elif _may_repeat_a_key(line, row) and (fault := json_fault(line)):
            findings.add(number, fault)
        else:
            yield number, row


def _keys_at_hand(row: Row) -> int:
    """The keys of a row and of the objects in its lists: all there are in most datasets."""
    count = len(row)
    for value in row.values():
        if type(value) is list:
            count += sum([len(item) for item in value if type(item) is dict])
    return count


def _may_repeat_a_key(line: bytes, row: Row) -> bool:
    """Of two equal keys the decoder keeps the last, so there are fewer keys in the row than colons behind quotes.

    A quote that is escaped ends no key. A backslash that is escaped, or a space before a colon, makes it hard to tell.
    """
    if b'" :' in line:
        return True
    colons = line.count(b'":')
    if colons == _keys_at_hand(row):
        return False
    return b'\\\\"' in line or colons - line.count(b'\\":') != _keys(row)


def _keys(value: object) -> int:
    if type(value) is dict:
        return len(value) + sum(map(_keys, value.values()))
    return sum(map(_keys, value)) if type(value) is list else 0


_NOT_JSON: Final = Fault("json_syntax", "this is not JSON; write one object a line")
_KINDS: Final = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}


def _not_an_object(value: object) -> Fault:
    kind = _KINDS.get(type(value), "a number")
    message = f'this row is {kind}; a row is an object such as {{"messages": [...]}}'
    return Fault("row_not_an_object", message, found=kind, expected="an object")
