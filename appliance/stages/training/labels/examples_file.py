"""Examples on disk, as Arrow streams that `datasets.Dataset.from_file` opens without reading them into memory."""

from array import array
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from appliance.dataset.split import Mask
from appliance.stages.training.labels.examples import Example

SCHEMA: Final = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("row", pa.int64())])
BATCH_TOKENS: Final = 1_000_000


class ExampleWriter:
    """Appends examples to a file, a batch at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        self._clear()

    def _clear(self) -> None:
        self._ids, self._labels = array("i"), array("i")
        self._ends, self._rows = array("i", [0]), array("q")

    def write(self, example: Example) -> None:
        self._ids += example.ids
        self._labels += example.labels
        self._ends.append(len(self._ids))
        self._rows.append(example.row)
        if len(self._ids) >= BATCH_TOKENS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._stream.close()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [self._lists(self._ids), self._lists(self._labels), _column(pa.int64(), self._rows)]
            self._stream.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self._clear()

    def _lists(self, values: "array[int]") -> pa.ListArray:
        return pa.ListArray.from_arrays(_column(pa.int32(), self._ends), _column(pa.int32(), values))


def distribute(source: Path, targets: Mapping[Path, Mask]) -> None:
    """Copy the examples of one file into several; each target's mask says which it gets."""
    with ExitStack() as stack:
        stream = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(source), "rb"))))
        writers = [
            (stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(path), "wb")), SCHEMA)), mask)
            for path, mask in targets.items()
        ]
        position = 0
        for batch in stream:
            for writer, mask in writers:
                part = batch.filter(_mask(mask[position : position + len(batch)]))
                if len(part):
                    writer.write_batch(part)
            position += len(batch)


def first_examples(path: Path, count: int) -> list[dict[str, Any]]:
    """The first example of each of the first rows, as plain lists."""
    found: dict[int, dict[str, Any]] = {}
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            for position, row in enumerate(batch.column("row").to_pylist()):
                if row not in found:
                    found[row] = batch.slice(position, 1).to_pylist()[0]
                if len(found) == count:
                    return list(found.values())
    return list(found.values())


# Arrays are made from buffers: `pa.array` would import pandas to ask whether its argument is one of its own.
def _column(kind: pa.DataType, values: "array[int]") -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _mask(values: Mask) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])
