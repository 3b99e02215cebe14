"""Dataset files on the disk: large ones in parts on every core, tables, Parquet. The verdict is always the same."""

import io
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance import dataset_file
from appliance.dataset import census
from appliance.dataset.findings import Findings
from appliance.dataset.rows import Summary
from appliance.dataset_file import check_dataset
from appliance.errors import Problem
from appliance.sources import Source

U = {"role": "user", "content": "What is 6 times 7?"}
A = {"role": "assistant", "content": "It is 42, always."}
S = {"role": "system", "content": "Be brief."}


def check(path: Path, *, most_bytes: int = 10**9) -> tuple[Summary, list[Problem], list[dict]]:
    """What is said of a file, and the rows that are written."""
    findings, written = Findings(path.name), io.BytesIO()
    summary = check_dataset(
        Source(path.name, path), findings, write=written.write, progress=lambda rows: None, most_bytes=most_bytes
    )
    lines = written.getvalue().split(b"\n")
    return summary, findings.problems(), [] if findings else [json.loads(line) for line in lines if line.strip()]


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Large files in parts


def plain_row(rng: random.Random) -> str:
    turns = [S] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 3)):
        turns += [
            {**U, "content": rng.choice("äb\u2028") * rng.randrange(1, 40)},
            {**A, "content": f'"{rng.random()}"'},
        ]
    return json.dumps({"messages": turns}, ensure_ascii=rng.random() < 0.5)


ODD_ROWS = {
    "blank": "",
    "CRLF": json.dumps({"messages": [U, A]}) + "\r",
    "extra": json.dumps({"messages": [U, A], "id": 7}),
    "weights": json.dumps({"messages": [U, {**A, "weight": 0}, U, {**A, "weight": 1}]}),
    "the same again": json.dumps({"messages": [U, A]}),
    "short": json.dumps({"messages": [U, {**A, "content": "no"}]}),
    "keys in a text": json.dumps({"messages": [{**U, "content": '{"role": 1, "a\\\\": 2}'}, A]}),
    "blank question": json.dumps({"messages": [{**U, "content": " "}, A]}),
    "unanswered": json.dumps({"messages": [U, A, U]}),
}
BAD_ROWS = {
    "key twice": '{"messages": [{"role": "assistant", "content": "a", "role": "assistant"}]}',
    "space before a colon": '{"messages" : [], "messages": [{"role": "user", "content": "a"}]}',
    "syntax": "{'messages': []}",
    "role": json.dumps({"messages": [{**U, "role": "human"}, A]}),
    "two questions": json.dumps({"messages": [U, U, A]}),
    "empty answer": json.dumps({"messages": [U, {**A, "content": ""}]}),
    "half a character": '{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "NUL": '{"messages": "\0"}',
    "no row": "7",
}


def many_lines(rng: random.Random, *, odd: list[str]) -> bytes:
    lines = [plain_row(rng) for _ in range(600)]
    for row in odd:
        for _ in range(rng.randrange(1, 3)):
            lines.insert(rng.randrange(len(lines)), row)
    return "\n".join(lines).encode() + rng.choice([b"", b"\n", b"\n\n"])


@pytest.mark.parametrize("odd", [[], list(ODD_ROWS.values()), [*ODD_ROWS.values(), *BAD_ROWS.values()]])
def test_a_file_in_parts_gets_the_verdict_of_the_whole_file(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, odd: list[str]
):
    for number in range(4):
        path = put(tmp_path / f"{number}.jsonl", many_lines(rng, odd=odd))
        whole = check(path)
        monkeypatch.setattr(dataset_file, "WORTH_PARTING", 0)
        monkeypatch.setattr(dataset_file, "BLOCK_BYTES", rng.choice([700, 5000, 40_000]))
        parted = check(path)
        monkeypatch.undo()
        assert whole == parted
        assert bool(whole[1]) == any(row in odd for row in BAD_ROWS.values())


@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS)
def test_the_fast_way_lets_nothing_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str):
    rows = [json.dumps({"messages": [U, {**A, "content": str(n) * 9}]}) for n in range(30)]
    path = put(tmp_path / "a.jsonl", "\n".join([*rows, bad, *rows[:9]]) + "\n")
    slow = check(path)[1]
    monkeypatch.setattr(dataset_file, "WORTH_PARTING", 0)
    monkeypatch.setattr(dataset_file, "BLOCK_BYTES", 1000)
    assert check(path)[1] == slow
    assert [problem.line for problem in slow] == [31]


def test_a_line_that_is_too_long_to_part_at_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset_file, "WORTH_PARTING", 0)
    row = json.dumps({"messages": [U, A]}).encode() + b"\n"
    path = put(tmp_path / "a.jsonl", row * 3 + b'{"messages": "' + b"x" * 20_000_000 + b'"}\n' + row)
    (problem,) = check(path)[1]
    assert (problem.code, problem.line) == ("row_too_long", 4)


@pytest.mark.parametrize("in_a_set", [0, 1000])
def test_copies_are_counted_over_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_a_set: int):
    monkeypatch.setattr(census, "_HASHES_IN_A_SET", in_a_set)
    monkeypatch.setattr(dataset_file, "WORTH_PARTING", 0)
    monkeypatch.setattr(dataset_file, "BLOCK_BYTES", 500)
    rows = [json.dumps({"messages": [U, {**A, "content": str(n) * 9}]}) for n in range(40)]
    summary, problems, _ = check(put(tmp_path / "a.jsonl", "\n".join([*rows, *rows[:7]])))
    assert problems == []
    (warning,) = summary.warnings
    assert (warning.code, warning.count) == ("duplicate_rows", 7)
    assert warning.message.startswith("7 of 47 rows are exact copies of others")


# Tables

GOOD_TABLES = {
    "commas": (b"prompt,completion\nhi,there\n", []),
    "semicolons": (b"prompt;completion\r\nhi;there\r\n", ["its columns are separated by semicolons"]),
    "tabs": (b"prompt\tcompletion\nhi\tthere\n", ["its columns are separated by tabs"]),
    "Excel's hint": (b"sep=;\r\nprompt;completion\r\nhi;there\r\n", ["its columns are separated by semicolons"]),
    "quotation marks": (b'"prompt","completion"\n"hi","there"\n', []),
    "a mark": (b"\xef\xbb\xbfprompt,completion\nhi,there\n", []),
    "no newline at the end": (b"prompt,completion\nhi,there", []),
    "blank lines": (b"\nprompt,completion\n\nhi,there\n\n,\n", []),
    "empty columns at the end": (b"prompt,completion,,\nhi,there,,\n", []),
    "carriage returns only": (b"prompt,completion\rhi,there\r", []),
    "spaces around the names": (b"prompt , completion\nhi,there\n", []),
}


@pytest.mark.parametrize(("data", "notes"), GOOD_TABLES.values(), ids=GOOD_TABLES)
def test_tables_as_programs_write_them(tmp_path: Path, data: bytes, notes: list[str]):
    summary, problems, rows = check(put(tmp_path / "a.CSV", data))
    assert problems == []
    assert rows == [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]}]
    assert summary.notes == notes


def test_line_breaks_and_separators_in_quotation_marks_belong_to_the_text(tmp_path: Path):
    _, problems, rows = check(put(tmp_path / "a.csv", b'prompt,completion\n"a\nb, ""c""",d\n'))
    assert problems == []
    assert rows[0]["messages"][0]["content"] == 'a\nb, "c"'


def test_windows_1252_is_read_and_said(tmp_path: Path):
    text = "prompt;completion\n" + "plain;words\n" * 200_000 + "Größe “süß”;5 €\n"
    summary, problems, rows = check(put(tmp_path / "a.csv", text.encode("windows-1252")))
    assert problems == []
    assert rows[-1]["messages"][0]["content"] == "Größe “süß”"
    assert any("Windows-1252" in note for note in summary.notes)


def test_lists_in_a_cell_are_json(tmp_path: Path):
    cell = json.dumps([U, A]).replace('"', '""')
    _, problems, rows = check(put(tmp_path / "a.csv", f'messages\n"{cell}"\n'))
    assert (problems, rows) == ([], [{"messages": [U, A]}])


BAD_TABLES = {
    "a text that is never closed": (b'prompt,completion\na,b\n"c,d\n', "unclosed_quote", 3, "is never closed"),
    "a quotation mark inside": (b'prompt,completion\n"a"b,c\nd,e\n', "quote_in_text", 2, "double it"),
    "a field too few": (b"prompt,completion\na\nb,c\n", "field_count", 2, "in quotation marks"),
    "a field too many": (b"prompt,completion\na,b,c\n", "field_count", 2, "3 fields and the first line names 2"),
    "a name twice": (b"text,text\na,b\n", "duplicate_column", 1, "rename or remove one"),
    "no names": (b"Hello,Good day\nBye,So long\n", "unknown_format", 2, "what would work: messages"),
    "an empty answer": (b"prompt,completion\na,\n", "empty_answer", 2, "write the answer"),
    "only names": (b"prompt,completion\n", "empty", None, "add at least one"),
    "half UTF-8": ("prompt,completion\nä,b\n".encode() + b"\xe4,c\n", "not_utf8", 3, "save the file as UTF-8"),
    "neither": (b"prompt,completion\n\x81\xe4,b\n", "not_utf8", 2, "save the file as UTF-8"),
    "UTF-16": ("prompt,completion\na,b\n".encode("utf-16"), "not_utf8", None, "save the file as UTF-8"),
    "NUL bytes": (b"prompt,completion\na,b\n" + b"\0" * 99, "nul_bytes", 3, "from byte 22"),
}


@pytest.mark.parametrize(("data", "code", "line", "says"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_tables_that_cannot_be_used(tmp_path: Path, data: bytes, code: str, line: int | None, says: str):
    problem = check(put(tmp_path / "a.csv", data))[1][0]
    assert (problem.code, problem.line) == (code, line)
    assert says in problem.message


def test_every_bad_row_of_a_table_is_found(tmp_path: Path):
    data = b'prompt,completion\na,b\nc\nd,\n"e"f,g\nh,i\n'
    assert [problem.line for problem in check(put(tmp_path / "a.csv", data))[1]] == [3, 4, 5]


# Parquet


def parquet(path: Path, rows: list[dict], **options) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_parquet_is_read_with_tools_and_columns_that_only_some_rows_have(tmp_path: Path):
    call = {"type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
    turns = [U, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "found"}, A]
    summary, problems, rows = check(parquet(tmp_path / "a.parquet", [{"messages": [U, A]}, {"messages": turns}]))
    assert problems == []
    assert rows[0] == {"messages": [U, A]}
    assert rows[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"at": "it"}
    assert summary.rows == 2


def test_rows_of_parquet_are_named_by_their_number(tmp_path: Path):
    rows = [{"prompt": "a", "completion": str(n) if n != 2500 else ""} for n in range(3000)]
    (problem,) = check(parquet(tmp_path / "a.parquet", rows, row_group_size=700))[1]
    assert (problem.code, problem.line) == ("empty_answer", 2501)


def test_half_a_parquet_file_looks_cut_off(tmp_path: Path):
    whole = parquet(tmp_path / "whole.parquet", [{"text": "a" * 1000}] * 50).read_bytes()
    for size, code in ((len(whole) // 2, "cut_off"), (0, "empty"), (3, "bad_parquet")):
        (problem,) = check(put(tmp_path / "a.parquet", whole[:size]))[1]
        assert problem.code == code
    (problem,) = check(put(tmp_path / "a.parquet", b"PAR1" + b"\1" * 100 + b"PAR1"))[1]
    assert (problem.code, "save its rows as .jsonl" in problem.message) == ("bad_parquet", True)
    (problem,) = check(put(tmp_path / "a.parquet", b'{"text": "a"}\n'))[1]
    assert "let the name end in what it is" in problem.message


def one_text(rows: int) -> pa.Array:
    """The same megabyte in every row, once in the file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 10**6])


def one_answer(rows: int) -> pa.Array:
    """The same megabyte as the answer of every conversation."""
    contents = pa.DictionaryArray.from_arrays(pa.array([0, 1] * rows, pa.int32()), ["Why?", "x" * 10**6])
    turns = pa.StructArray.from_arrays([pa.array(["user", "assistant"] * rows), contents], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(range(0, 2 * rows + 1, 2), pa.int32()), turns)


@pytest.mark.parametrize("store_schema", [True, False], ids=["as written", "decoded"])
@pytest.mark.parametrize(("column", "values"), [("text", one_text), ("messages", one_answer)])
def test_one_value_in_every_row_of_a_parquet_file_is_not_held_in_memory_for_each(
    tmp_path: Path, column: str, values: Callable[[int], pa.Array], store_schema: bool
):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({column: values(3000)}), path, store_schema=store_schema)
    assert path.stat().st_size < 10**6
    findings = Findings(path.name)
    summary = check_dataset(
        Source(path.name, path), findings, write=None, progress=lambda rows: None, most_bytes=10**10
    )
    assert summary.rows == 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
    assert check(path, most_bytes=10**8)[1][0].code == "too_large_unpacked"


def test_one_value_many_times_in_one_row_of_a_parquet_file_is_a_row_too_long(tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": pa.ListArray.from_arrays([0, 3000], one_text(3000))}), path)
    (problem,) = check(path, most_bytes=10**10)[1]
    assert (problem.code, problem.line) == ("row_too_long", 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
