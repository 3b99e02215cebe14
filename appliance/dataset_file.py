"""One dataset file on the disk, checked from its first byte to its last, on every core where it is worth it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from appliance.dataset.census import Census
from appliance.dataset.findings import Findings
from appliance.dataset.formats import Format, find_format
from appliance.dataset.json_faults import LONGEST_ROW
from appliance.dataset.reading import lines_may_be_parted, read_part, read_rows
from appliance.dataset.rows import ROWS_TO_FIND_FORMAT, RowCheck, Summary, Write, check_rows, summary
from appliance.names import split_suffix
from appliance.parquet import parquet_rows
from appliance.sources import Source
from appliance.workers import spread

Progress = Callable[[int], object]

# Below that, one process is done before others have begun.
WORTH_PARTING: Final = 8 * 2**20
BLOCK_BYTES: Final = 2 * 2**20
# So much stays in a processor's cache while it is looked through several times.
PIECE_BYTES: Final = 2**18
# Reading and the disk do not get faster with more.
MOST_WORKERS: Final = 4
_HEAD_BYTES: Final = 2**16


def check_dataset(
    source: Source, findings: Findings, *, write: Write | None, progress: Progress, most_bytes: int
) -> Summary:
    """Check every row of a file, and hand the rows in their one form to `write` as long as there is no finding.

    Memory does not grow with the file. Raises InputError when the file cannot be read at all.
    """
    suffix = split_suffix(source.name)[1]
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    if workers > 1 and (parts := _parts(source, suffix)) and (head := _head(source)):
        return _check_parts(source, head, parts, findings, write, progress, workers)
    if suffix == ".parquet":
        next(source.chunks(1), None)  # whether it can be read at all
        rows = parquet_rows(source.path, findings, most_bytes=most_bytes)
    else:
        rows = read_rows(source.chunks(), suffix=suffix, findings=findings, most_bytes=most_bytes)
    return check_rows(rows, findings, write=write or _write_nowhere, progress=progress)


def _write_nowhere(data: bytes | bytearray) -> None:
    """Rows that nobody wants to keep."""


@dataclass(frozen=True)
class _Part:
    """Whole lines of the file, from byte `start` to `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class _Checked:
    """What came of one part. `rows` are the rows in their one form; None when they are that as they stand."""

    lines: int
    findings: Findings
    census: Census
    rows: bytes | None


def _parts(source: Source, suffix: str) -> list[_Part]:
    """The file cut into blocks of whole lines; none when it is small, odd, or has no line breaks to cut at."""
    if next(source.chunks(1), None) is None or source.path.stat().st_size < WORTH_PARTING:
        return []
    with source.path.open("rb", buffering=0) as file:
        if not lines_may_be_parted(file.read(_HEAD_BYTES), suffix):
            return []
        size = os.fstat(file.fileno()).st_size
        cuts = [0]
        while cuts[-1] + BLOCK_BYTES < size:
            cut = _line_end(file.fileno(), cuts[-1] + BLOCK_BYTES)
            if cut is None:
                return []
            cuts.append(cut)
    ends = [*cuts[1:], size] if cuts[-1] < size else cuts[1:]
    return [_Part(start, end) for start, end in zip(cuts, ends, strict=False)]


def _line_end(descriptor: int, offset: int) -> int | None:
    """Where the line that lies at `offset` ends; None for one that is longer than a row may be."""
    limit = offset + LONGEST_ROW
    while offset < limit:
        piece = os.pread(descriptor, _HEAD_BYTES, offset)
        if not piece:
            return offset
        if (at := piece.find(b"\n")) >= 0:
            return offset + at + 1
        offset += len(piece)
    return None


def _head(source: Source) -> tuple[Format, int] | None:
    """The format of the first rows, and the line of the first; None when they have none."""
    rows = read_rows(source.chunks(), suffix=split_suffix(source.name)[1], findings=Findings(source.name))
    first = list(islice(rows, ROWS_TO_FIND_FORMAT))
    form = find_format([row for _, row in first])
    return (form, first[0][0]) if form is not None else None


def _check_parts(
    source: Source,
    head: tuple[Format, int],
    parts: list[_Part],
    findings: Findings,
    write: Write | None,
    progress: Progress,
    workers: int,
) -> Summary:
    form, first_line = head
    # It takes NumPy, which no small file should wait for.
    from appliance.dataset.plain import count_plain_rows

    work = _Work(source, form, count_plain_rows if form.name == "messages" else None, keep=write is not None)
    census, lines = Census(), 0
    for part, checked in zip(parts, spread(work, parts, min(workers, len(parts))), strict=True):
        findings.absorb(checked.findings, lines_before=lines)
        census.absorb(checked.census, lines_before=lines)
        lines += checked.lines
        if write is not None and not findings:
            write(checked.rows if checked.rows is not None else _read(source.path, part))
        progress(census.rows)
    return summary(form, findings, census, first_line=first_line)


@dataclass(frozen=True)
class _Work:
    """What each worker does with a part of the file: a piece that the processor's cache holds at a time."""

    source: Source
    form: Format
    fast: Callable[[bytes], Census | None] | None
    keep: bool

    def __call__(self, part: _Part) -> _Checked:
        findings, census, lines, rows = Findings(self.source.name), Census(), 0, bytearray()
        all_plain = True
        for piece in _pieces(self.source.path, part):
            block = _read(self.source.path, piece)
            plain = self.fast(block) if self.fast else None
            if plain is not None:
                # Whole lines, and as many as there are rows: as they stand they are in their one form.
                written, passed = block, plain.rows
                census.absorb(plain, lines_before=lines)
            else:
                found, counted, written = self._row_by_row(block, piece)
                findings.absorb(found, lines_before=lines)
                census.absorb(counted, lines_before=lines)
                passed, all_plain = block.count(b"\n"), False
            lines += passed
            if self.keep:
                rows += written
        return _Checked(lines, findings, census, None if all_plain else bytes(rows))

    def _row_by_row(self, block: bytes, piece: _Part) -> tuple[Findings, Census, bytes]:
        findings, census, rows = Findings(self.source.name), Census(), bytearray()
        numbered = read_part(block, findings, offset=piece.start)
        write = rows.extend if self.keep else _write_nowhere
        RowCheck(self.form, findings, census).run(numbered, write, lambda done: None)
        return findings, census, bytes(rows)


def _pieces(path: Path, part: _Part) -> Iterator[_Part]:
    """A part in pieces of whole lines."""
    with path.open("rb", buffering=0) as file:
        start = part.start
        while start < part.end:
            end = part.end
            if start + PIECE_BYTES < part.end:
                end = min(_line_end(file.fileno(), start + PIECE_BYTES) or part.end, part.end)
            yield _Part(start, end)
            start = end


def _read(path: Path, part: _Part) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), part.end - part.start, part.start)
