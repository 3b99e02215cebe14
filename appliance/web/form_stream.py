"""A multipart form as it arrives: its fields whole, its files piece by piece, nothing kept."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

LONGEST_FIELD_BYTES: Final = 4096


@dataclass(frozen=True)
class FormField:
    name: str
    value: str


@dataclass(frozen=True)
class FileBegins:
    """A file of this name begins; its bytes and its end follow."""

    filename: str


@dataclass(frozen=True)
class FileBytes:
    data: bytes


@dataclass(frozen=True)
class FileEnds:
    pass


Piece = FormField | FileBegins | FileBytes | FileEnds


async def read_form(request: Request) -> AsyncIterator[Piece]:
    """The pieces of a form in their order. Raises HTTPException when it is none, or ends in the middle."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise HTTPException(415, "send the files as multipart/form-data, for example with curl -F file=@support.jsonl")
    reader = _Reader()
    try:
        parser = MultipartParser(options[b"boundary"], callbacks=reader.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            parser.write(chunk)
            for piece in reader.taken():
                yield piece
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, "the form cannot be read") from error
    if not reader.complete:
        raise HTTPException(400, "the form ends in the middle")


@dataclass
class _Reader:
    """Turns the parser's callbacks into pieces."""

    complete: bool = False
    _pieces: list[Piece] = field(default_factory=list)
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _field: str | None = None
    _content: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        return {f"on_{name}": getattr(self, name) for name in (*names, "headers_finished", "end")}

    def taken(self) -> list[Piece]:
        """The pieces since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def part_begin(self) -> None:
        self._headers, self._name, self._value, self._field = {}, b"", b"", None
        self._content = bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" in options:
            self._pieces.append(FileBegins(options[b"filename"].decode(errors="replace")))
        else:
            self._field = options.get(b"name", b"").decode(errors="replace")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._pieces.append(FileBytes(bytes(data[start:end])))
            return
        self._content += data[start:end]
        if len(self._content) > LONGEST_FIELD_BYTES:
            raise HTTPException(413, f"a field of the form is longer than {LONGEST_FIELD_BYTES} bytes")

    def part_end(self) -> None:
        if self._field is None:
            self._pieces.append(FileEnds())
        else:
            self._pieces.append(FormField(self._field, self._content.decode(errors="replace")))

    def end(self) -> None:
        self.complete = True
