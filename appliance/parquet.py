"""The rows of a Parquet file. Only this module reads Parquet, and loads pyarrow when there is one to read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from appliance.dataset.findings import Fault, Findings
from appliance.dataset.json_faults import LONGEST_ROW, cut_off, row_too_long
from appliance.errors import Reason

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

Row: TypeAlias = dict[str, Any]

_MAGIC: Final = b"PAR1"
_BATCH_BYTES: Final = 4 * 2**20
_MOST_ROWS_A_BATCH: Final = 1024
# As Python objects at a time: a value that stands in the file once may stand in every row.
_ROWS_AT_ONCE: Final = 32


def parquet_rows(path: Path, findings: Findings, *, most_bytes: int) -> Iterator[tuple[int, Row]]:
    """Each row with its number, in batches. What is wrong with the file itself is added to the findings.

    The values may take `most_bytes` in all.
    """
    if fault := _ends(path):
        findings.add(None, fault)
        return
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        message = "Parquet cannot be read here, pyarrow is missing; save its rows as .jsonl, one JSON object a line"
        findings.add(None, Fault("no_parquet", message, expected=".jsonl"))
        return
    try:
        with ParquetFile(path, pre_buffer=False) as file:
            yield from _rows(file, findings, most_bytes)
    except (ArrowException, OSError, ValueError, NotImplementedError) as error:
        message = "this is no Parquet file, or a damaged one; write it again, or save its rows as .jsonl"
        findings.add(None, Fault("bad_parquet", message, found=type(error).__name__, expected="a Parquet file"))


def _ends(path: Path) -> Fault | None:
    """Parquet begins and ends with four letters: a file without the second is half a copy."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
        file.seek(-min(len(_MAGIC), path.stat().st_size), 2)
        tail = file.read()
    if not head:
        return Fault("empty", "there are no rows in it; add at least one", reason=Reason.DATASET_EMPTY)
    if head != _MAGIC:
        message = "this is no Parquet file, whatever its name says; let the name end in what it is, such as .jsonl"
        return Fault("bad_parquet", message, expected="a Parquet file")
    return None if tail == _MAGIC else cut_off()


def _rows(file: "ParquetFile", findings: Findings, most_bytes: int) -> Iterator[tuple[int, Row]]:
    groups = range(file.metadata.num_row_groups)
    size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    average = size // max(1, file.metadata.num_rows) + 1
    rows_a_batch = max(1, min(_MOST_ROWS_A_BATCH, _BATCH_BYTES // average))
    number, unpacked = 0, size
    for batch in file.iter_batches(batch_size=rows_a_batch, use_threads=False):
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            part = batch.slice(start, _ROWS_AT_ONCE)
            if part.nbytes > _ROWS_AT_ONCE * LONGEST_ROW:
                findings.add(number + 1, row_too_long())
                return
            rows = part.to_pylist()
            unpacked += max(0, sum(map(_text_bytes, rows)) - average * len(rows))
            if unpacked > most_bytes:
                findings.add(number + 1, _too_large(unpacked))
                return
            yield from enumerate(rows, start=number + 1)
            number += len(rows)


def _text_bytes(row: Row) -> int:
    """About how much memory a row takes: its texts, which the file may hold once for all rows."""
    return sum([len(value) for value in row.values() if type(value) is str])


def _too_large(size: int) -> Fault:
    found = f"{size >> 20:,} MiB"
    message = f"it unpacks to more than is allowed ({found} so far); drop it in parts"
    return Fault("too_large_unpacked", message, found=found, reason=Reason.TOO_LARGE)
