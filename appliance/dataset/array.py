"""The elements of one JSON array, however it is laid out, in constant memory. Pure.

An array has no line a row to hold on to: where an element ends is known only by reading it. So each is read twice,
here to find its end, and then like any other row.
"""

import codecs
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Final

from appliance.dataset.findings import Fault, Findings, Unreadable
from appliance.dataset.json_faults import LONGEST_ROW, cut_off, nul_bytes, row_too_long, syntax_fault, too_deep

_BLANK: Final = re.compile(r"[ \t\r\n]*")
_FIRST_KEY: Final = re.compile(r'\{\s*("[^"\\\n]+")')
# An error so near to the end of what was read may be the end's fault: `fals`, `\u00`.
_NEAR_THE_END: Final = 16

# Numbers stay text: only the end of each element matters here.
_scan: Final = JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).raw_decode


def elements(chunks: Iterator[bytes], findings: Findings) -> Iterator[tuple[int, bytes]]:
    """Each element as it is written, with the line it begins on. Behind a broken one it goes on with the next."""
    text = _Text(chunks)
    text.next_character()
    text.advance(1)
    while (character := text.next_character()) != "]":
        if character == ",":
            findings.add(text.line, Fault("json_syntax", "a comma too many between two rows; remove it"))
            text.advance(1)
            continue
        line = text.line
        try:
            element = text.take_value()
        except JSONDecodeError as error:
            findings.add(text.line + error.lineno - 1, syntax_fault(error))
            text.skip_to_next_element(error)
            continue
        yield line, element
        _take_comma(text, findings)
    text.advance(1)
    if text.next_character(or_end=True):
        findings.add(text.line, Fault("json_syntax", "something follows behind the array's ]; remove it"))


def _take_comma(text: "_Text", findings: Findings) -> None:
    character = text.next_character()
    if character == ",":
        text.advance(1)
        if text.next_character() == "]":
            findings.add(text.line, Fault("json_syntax", "a comma too many before the array's ]; remove it"))
    elif character != "]":
        findings.add(
            text.line, Fault("json_syntax", "a comma is missing between this row and the one before it; add it")
        )


class _Text:
    """The file's text from the next character on, as much of it as is needed at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.line = 1
        self._chunks = chunks
        # Bytes that are not UTF-8 pass through as surrogates and come out as they were: the row is refused later.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._buffer = ""
        self._position = 0
        self._element_start: re.Pattern[str] | None = None

    def next_character(self, *, or_end: bool = False) -> str:
        """The next character that is not blank, without taking it. The end of the file is one only where it may be."""
        while True:
            self._move_to(_BLANK.match(self._buffer, self._position).end())  # type: ignore[union-attr]
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read_on():
                if or_end:
                    return ""
                raise Unreadable(cut_off(), line=self.line)

    def advance(self, count: int) -> None:
        self._move_to(self._position + count)

    def take_value(self) -> bytes:
        """The JSON value that begins here, as it is written."""
        while True:
            try:
                end = _scan(self._buffer, self._position)[1]
            except JSONDecodeError as error:
                unterminated = error.msg.startswith("Unterminated")
                may_go_on = unterminated or error.pos >= len(self._buffer) - _NEAR_THE_END
                if not may_go_on or not self._read_on():
                    self._raise(error, cut=unterminated or error.pos >= len(self._buffer.rstrip()))
            except RecursionError as error:
                raise Unreadable(too_deep(), line=self.line) from error
            else:
                if end < len(self._buffer) or not self._read_on():
                    return self._take(end)
            if len(self._buffer) - self._position > LONGEST_ROW:
                raise Unreadable(row_too_long(), line=self.line)

    def skip_to_next_element(self, error: JSONDecodeError) -> None:
        """Go to what looks like the start of the next element, or give up."""
        start = self._element_start
        while start is not None:
            if found := start.search(self._buffer, self._position + 1):
                return self._move_to(found.start())
            self._move_to(max(self._position, len(self._buffer) - 200))
            if not self._read_on():
                break
        message = "the rows behind this one could not be looked at; correct it and drop the file again"
        raise Unreadable(Fault("rest_unread", message), line=self.line)

    def _raise(self, error: JSONDecodeError, *, cut: bool) -> None:
        """The error with its place counted from the start of the line on which the element begins."""
        if "\0" in self._buffer[self._position : error.pos + 1]:
            raise Unreadable(nul_bytes(), line=self.line)
        if cut:
            raise Unreadable(cut_off(), line=self.line)
        self._remember_start()
        line_start = self._buffer.rfind("\n", 0, self._position) + 1
        raise JSONDecodeError(error.msg, self._buffer[line_start : error.pos + 40], error.pos - line_start)

    def _take(self, end: int) -> bytes:
        self._remember_start()
        value = self._buffer[self._position : end]
        self._move_to(end)
        return value.encode("utf-8", "surrogateescape")

    def _remember_start(self) -> None:
        """How the first element begins, its indentation and first key: most likely every other begins like it."""
        if self._element_start is None and (found := _FIRST_KEY.match(self._buffer, self._position)):
            before = self._buffer[self._buffer.rfind("\n", 0, self._position) + 1 : self._position]
            indented = "\n" + before if before.isspace() else ""
            self._element_start = re.compile(indented + r"\{\s*" + re.escape(found[1]))

    def _move_to(self, position: int) -> None:
        self.line += self._buffer.count("\n", self._position, position)
        self._position = position

    def _read_on(self) -> bool:
        """Take in another chunk; False at the end of the file."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._buffer = self._buffer[self._position :] + self._decoder.decode(chunk)
        self._position = 0
        return True
