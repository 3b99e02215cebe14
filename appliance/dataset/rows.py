"""All rows of one file: checked, put into one form, counted. One pass, constant memory. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

import msgspec

from appliance.dataset.census import Census
from appliance.dataset.findings import Fault, Findings
from appliance.dataset.formats import Format, Row, find_format, not_yet, unknown_format, wrong_format
from appliance.dataset.json_faults import too_deep
from appliance.dataset.reading import NumberedRow
from appliance.dataset.texts import MEDIA_COLUMNS, media_fault
from appliance.errors import Problem, Reason

ROWS_TO_FIND_FORMAT: Final = 20
_BYTES_A_WRITE: Final = 2**20
_ROWS_A_REPORT: Final = 200

_encode: Final = msgspec.json.Encoder().encode

Write = Callable[[bytes | bytearray], object]


@dataclass
class Summary:
    """What a file holds. `notes` are good to know, `warnings` most likely mistakes; neither rejects it."""

    format: Format | None = None
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def check_rows(
    rows: Iterator[NumberedRow], findings: Findings, *, write: Write, progress: Callable[[int], object]
) -> Summary:
    """Check every row and write those in order as JSON lines, as long as there is no finding.

    `progress` is called with the number of rows done, now and then.
    """
    first = list(islice(rows, ROWS_TO_FIND_FORMAT))
    form = find_format([row for _, row in first])
    if not first and not findings:
        findings.add(None, Fault("empty", "there are no rows in it; add at least one", reason=Reason.DATASET_EMPTY))
    elif first and form is None:
        findings.add(first[0][0], unknown_format(first[0][1]))
    elif form is not None:
        census = Census()
        check = RowCheck(form, findings, census)
        check.run(chain(first, rows), write, progress)
        return summary(form, findings, census, first_line=first[0][0])
    return Summary(format=form)


def summary(form: Format, findings: Findings, census: Census, *, first_line: int) -> Summary:
    """What came of all rows. A format that is only recognised is refused here, after everything else was said."""
    if form.later:
        findings.add(first_line, not_yet(form))
    notes = [*([form.note] if form.note else []), *findings.notes, *census.notes()]
    # Behind the first finding nothing is counted for sure, and a file with findings has more urgent ones.
    return Summary(form, census.rows, notes, [] if findings else census.warnings(findings.file))


class RowCheck:
    """Checks rows of one format, one after the other."""

    def __init__(self, form: Format, findings: Findings, census: Census) -> None:
        self._form = form
        self._findings = findings
        self._census = census

    def run(self, rows: Iterator[NumberedRow], write: Write, progress: Callable[[int], object]) -> None:
        """Check all of them and write them in portions."""
        encoded = bytearray()
        for line, source in rows:
            self._take(line, source, encoded)
            if self._census.rows % _ROWS_A_REPORT == 0:
                progress(self._census.rows)
            if len(encoded) >= _BYTES_A_WRITE:
                write(encoded)
                encoded.clear()
        write(encoded)
        progress(self._census.rows)

    def _take(self, line: int, source: Row, encoded: bytearray) -> None:
        """Check one row and, while there is no finding, append it to what is to be written."""
        self._census.rows += 1
        try:
            row = self._read(line, source)
            if row is not None and not self._findings and not self._form.later:
                text = _encode(row)
                encoded += text
                encoded += b"\n"
                self._count(line, row, text)
        except RecursionError:
            self._findings.add(line, too_deep())

    def _read(self, line: int, source: Row) -> Row | None:
        """The row in its one form, or None and its faults in the findings."""
        form = self._form
        faults: list[Fault] = []
        if not form.columns <= source.keys():
            faults.append(wrong_format(source, form))
        else:
            row = form.read(source, faults)
            if len(source) > len(form.columns):
                self._note_extra_columns(source, faults)
        if faults:
            self._findings.add_all(line, faults)
            return None
        return row

    def _note_extra_columns(self, source: Row, faults: list[Fault]) -> None:
        extra = source.keys() - self._form.columns - self._form.optional
        faults += [
            media_fault(f"the column {name} holds image, audio or video content", key=name)
            for name in extra & MEDIA_COLUMNS
            if source[name]
        ]
        self._census.note_extra(extra)

    def _count(self, line: int, row: Row, text: bytes) -> None:
        messages = row.get("messages")
        if messages is None:
            self._census.note_hash(hash(text))
            return
        roles = tuple([message["role"] for message in messages])
        texts = [message["content"] for message in messages]
        self._census.note_conversation(line, roles, texts)
        if not texts[0] or texts[0].isspace():
            self._census.empty_prompts.count(line)
        # The same as the fast way computes: a file may go partly the one way and partly the other.
        plain = len(row) == 1 and all([len(message) == 2 for message in messages])
        self._census.note_hash(hash((roles, *texts) if plain else text))
