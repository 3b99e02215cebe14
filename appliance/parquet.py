"""The rows of a Parquet file. Only this module reads Parquet, and loads pyarrow when there is one to read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from appliance.dataset.findings import Fault, Findings
from appliance.dataset.json_faults import LONGEST_ROW, cut_off, row_too_long
from appliance.errors import Reason

if TYPE_CHECKING:
    from pyarrow import Array
    from pyarrow.parquet import ParquetFile

Row: TypeAlias = dict[str, Any]

_MAGIC: Final = b"PAR1"
# A value that stands in the file once may stand in every row.
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
    number, unpacked = 0, size
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
        taken = sum(map(_unpacked_bytes, batch.columns))
        if taken > _ROWS_AT_ONCE * LONGEST_ROW:
            findings.add(number + 1, row_too_long())
            return
        unpacked += max(0, taken - average * batch.num_rows)
        if unpacked > most_bytes:
            findings.add(number + 1, _too_large(unpacked))
            return
        yield from enumerate(batch.to_pylist(), start=number + 1)
        number += batch.num_rows


def _unpacked_bytes(values: "Array") -> int:
    """About how much memory values take, however deep they lie: the file may hold a text once for all rows."""
    from pyarrow import compute, types

    if types.is_dictionary(values.type):
        lengths = compute.binary_length(values.dictionary)
        return compute.sum(lengths.take(values.indices)).as_py() or 0
    if types.is_struct(values.type):
        return sum(map(_unpacked_bytes, values.flatten()))
    return _unpacked_bytes(values.flatten()) if types.is_nested(values.type) else values.nbytes


def _too_large(size: int) -> Fault:
    found = f"{size >> 20:,} MiB"
    message = f"it unpacks to more than is allowed ({found} so far); drop it in parts"
    return Fault("too_large_unpacked", message, found=found, reason=Reason.TOO_LARGE)
