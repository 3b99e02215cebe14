"""All rows of one file: checked, put into one form, counted. One pass, constant memory. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

import msgspec

from appliance.dataset.findings import Fault, Findings
from appliance.dataset.formats import Format, Row, find_format, unknown_format, wrong_format
from appliance.dataset.json_faults import too_deep
from appliance.dataset.reading import NumberedRow
from appliance.dataset.texts import MEDIA_COLUMNS, media_fault
from appliance.errors import Problem, Reason

_ROWS_TO_FIND_FORMAT: Final = 20
_BYTES_A_WRITE: Final = 2**20
_ROWS_A_REPORT: Final = 200
_EXTRA_COLUMNS_NAMED: Final = 20

_encode_into: Final = msgspec.json.Encoder().encode_into


@dataclass
class Summary:
    """What a file holds. `notes` are good to know, `warnings` most likely mistakes; neither rejects it."""

    format: Format | None = None
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def check_rows(
    rows: Iterator[NumberedRow],
    findings: Findings,
    *,
    write: Callable[[bytes | bytearray], object],
    progress: Callable[[int], object],
) -> Summary:
    """Check every row and write those in order as JSON lines, as long as there is no finding.

    `progress` is called with the number of rows done, now and then.
    """
    first = list(islice(rows, _ROWS_TO_FIND_FORMAT))
    form = find_format([row for _, row in first])
    if not first and not findings:
        findings.add(None, Fault("empty", "there are no rows in it; add at least one", reason=Reason.DATASET_EMPTY))
    elif first and form is None:
        findings.add(first[0][0], unknown_format(first[0][1]))
    elif form is not None and form.read is None:
        message = f"the rows are in the format {form}, not yet: {form.later}"
        findings.add(first[0][0], Fault("not_yet", message, found=form.name, expected="messages"))
    elif form is not None:
        return _Check(form, findings).run(chain(first, rows), write, progress)
    return Summary(format=form)


@dataclass
class _Tally:
    """How many rows have something worth a warning, and where the first of them stands."""

    rows: int = 0
    first_line: int | None = None

    def count(self, line: int) -> None:
        self.rows += 1
        self.first_line = self.first_line or line


class _Check:
    """One pass over the rows of one file."""

    def __init__(self, form: Format, findings: Findings) -> None:
        self._form = form
        self._findings = findings
        self._extra: set[str] = set()
        self._unanswered = _Tally()
        self._empty_prompts = _Tally()
        self._without_system = _Tally()

    def run(
        self,
        rows: Iterator[NumberedRow],
        write: Callable[[bytes | bytearray], object],
        progress: Callable[[int], object],
    ) -> Summary:
        total, encoded = 0, bytearray()
        for total, (line, source) in enumerate(rows, start=1):
            self._take(total, line, source, encoded)
            if total % _ROWS_A_REPORT == 0:
                progress(total)
            if len(encoded) >= _BYTES_A_WRITE:
                write(encoded)
                encoded.clear()
        write(encoded)
        progress(total)
        return Summary(self._form, total, self._notes(), self._warnings(total))

    def _take(self, number: int, line: int, source: Row, encoded: bytearray) -> None:
        """Check one row and, while there is no finding, append it to what is to be written."""
        try:
            row = self._read(line, source)
            if row is not None and not self._findings:
                _encode_into({"row": number, **row}, encoded, -1)
                encoded += b"\n"
        except RecursionError:
            self._findings.add(line, too_deep())

    def _read(self, line: int, source: Row) -> Row | None:
        """The row in its one form, or None and its faults in the findings."""
        form = self._form
        faults: list[Fault] = []
        if not form.columns <= source.keys():
            faults.append(wrong_format(source, form))
        else:
            row = form.read(source, faults)  # type: ignore[misc]
            if len(source) > len(form.columns):
                self._note_extra_columns(source, faults)
        if faults:
            self._findings.add_all(line, faults)
            return None
        if form.type == "conversational":
            self._tally(line, row["messages"])
        return row

    def _note_extra_columns(self, source: Row, faults: list[Fault]) -> None:
        extra = source.keys() - self._form.columns - self._form.optional
        faults += [
            media_fault(f"the column {name} holds image, audio or video content", key=name)
            for name in extra & MEDIA_COLUMNS
            if source[name]
        ]
        if len(self._extra) <= _EXTRA_COLUMNS_NAMED:
            self._extra |= extra

    def _tally(self, line: int, messages: list[Row]) -> None:
        if messages[-1]["role"] != "assistant":
            self._unanswered.count(line)
        if messages[0]["role"] != "system":
            self._without_system.count(line)
        if not messages[0]["content"] or messages[0]["content"].isspace():
            self._empty_prompts.count(line)

    def _notes(self) -> list[str]:
        notes = [self._form.note] if self._form.note else []
        if self._extra:
            named = sorted(self._extra)[:_EXTRA_COLUMNS_NAMED]
            more = " and more" if len(self._extra) > len(named) else ""
            notes.append(f"these columns are kept out of training: {', '.join(named)}{more}")
        return notes

    def _warnings(self, total: int) -> list[Problem]:
        ends = "end without an answer; what stands behind the last answer is read but not trained"
        warnings = [
            self._warning("unanswered_turn", self._unanswered, total, ends),
            self._warning("empty_prompt", self._empty_prompts, total, "begin with an empty text"),
        ]
        if self._without_system.rows != total:
            lacking = "have no system prompt, the others have one; serve the adapter as most of your rows are"
            warnings.append(self._warning("mixed_system_prompts", self._without_system, total, lacking))
        return [warning for warning in warnings if warning]

    def _warning(self, code: str, tally: _Tally, total: int, what: str) -> Problem | None:
        if not tally.rows:
            return None
        message = f"{tally.rows:,} of {total:,} rows {what}"
        return Problem(code, message, Reason.OTHER, self._findings.file, tally.first_line, count=tally.rows)
