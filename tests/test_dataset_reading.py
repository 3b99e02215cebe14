"""How the bytes of a dataset become rows, and what is said of those that do not."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.dataset.findings import SHOWN, Fault, Findings
from appliance.dataset.reading import read_rows
from appliance.errors import Problem, Reason

ROW = b'{"text": "a"}\n'
LONG_ROW = b'{"text": "' + b"x" * 100_000 + b'"}\n'
DEEP_ROW = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, *, suffix: str = ".jsonl", size: int = 2**20) -> tuple[list[tuple[int, dict]], list[Problem]]:
    """The rows with their lines, and the problems, of a file that arrives in pieces of `size` bytes."""
    findings = Findings(f"support{suffix}")
    rows = list(read_rows(pieces(data, size), suffix=suffix, findings=findings))
    return rows, findings.problems()


PRETTY = json.dumps([{"text": "a", "meta": {"n": n}} for n in range(3)], indent=2).encode()
GOOD = {
    "one row": (".jsonl", ROW, [1]),
    "no newline at the end": (".jsonl", ROW + ROW.strip(), [1, 2]),
    "byte-order mark": (".jsonl", b"\xef\xbb\xbf" + ROW, [1]),
    "CRLF": (".jsonl", b'{"text": "a"}\r\n' * 2, [1, 2]),
    "blank lines": (".jsonl", b"\n \n" + ROW + b"\r\n\n" + ROW + b"\n", [3, 6]),
    "U+2028 and U+0085 in a text": (".jsonl", '{"text": "a\u2028b\u0085c"}\n'.encode() * 2, [1, 2]),
    "a character of two halves": (".jsonl", b'{"text": "\\ud83d\\ude00"}\n', [1]),
    "an escaped NUL": (".jsonl", b'{"text": "\\u0000"}\n', [1]),
    "texts that look like keys": (".jsonl", b'{"text": "{\\"text\\": 1, \\"text\\": 2}"}\n', [1]),
    "a key that ends in a backslash": (".jsonl", b'{"a\\\\": 1, "b": 2}\n', [1]),
    "equal keys in different objects": (".jsonl", b'{"a": {"k": 1}, "b": [{"k": 1}, {"k": [{"k": 2}]}]}\n', [1]),
    "a space before the colon": (".jsonl", b'{"text" : "a"}\n', [1]),
    "a row of one megabyte": (".jsonl", b'{"text": "' + b"x" * 2**20 + b'"}\n' + ROW, [1, 2]),
    "a number of 30 digits": (".jsonl", b'{"text": "a", "id": ' + b"9" * 30 + b"}\n", [1]),
    "objects in a .json": (".json", ROW * 2, [1, 2]),
    "an array on one line": (".json", b'[{"text": "a"}, {"text": "b"}]', [1, 1]),
    "an array over many lines": (".json", PRETTY, [2, 8, 14]),
    "an array with a mark and CRLF": (".json", b"\xef\xbb\xbf" + PRETTY.replace(b"\n", b"\r\n"), [2, 8, 14]),
    "an empty array": (".json", b" [ ]\n", []),
    "gzip": (".jsonl.gz", gzip.compress(ROW * 3), [1, 2, 3]),
    "gzip of two members, padded": (".jsonl.gz", gzip.compress(ROW) + gzip.compress(ROW) + b"\0" * 600, [1, 2]),
    "an empty file": (".jsonl", b"", []),
}


@pytest.mark.parametrize("size", [7, 2**20], ids=["in small pieces", "at once"])
@pytest.mark.parametrize(("suffix", "data", "lines"), GOOD.values(), ids=GOOD)
def test_good_but_odd_files(suffix, data, lines, size):
    rows, problems = read(data, suffix=suffix, size=max(size, len(data) // 1000))
    assert problems == []
    assert [line for line, _ in rows] == lines


class Bad(NamedTuple):
    data: bytes
    code: str
    line: int | None
    says: str
    good_rows: int = 0
    suffix: str = ".jsonl"
    reason: Reason = Reason.DATASET_FORMAT


BAD = {
    # what is no text at all
    "UTF-16": Bad(ROW.decode().encode("utf-16"), "not_utf8", None, "UTF-16", reason=Reason.ENCODING),
    "UTF-16 without a mark": Bad(ROW.decode().encode("utf-16-le"), "not_utf8", None, "UTF-16", reason=Reason.ENCODING),
    "gzip named .jsonl": Bad(gzip.compress(ROW), "gzip_content", None, "name it .jsonl.gz"),
    "zip named .jsonl": Bad(b"PK\x03\x04....", "zip_content", None, "drop the .jsonl inside it"),
    "Parquet named .jsonl": Bad(b"PAR1....", "parquet_content", None, "let its name end in .parquet"),
    "PDF named .jsonl": Bad(b"%PDF-1.7", "pdf_content", None, "save its rows as .jsonl"),
    "Git LFS pointer": Bad(b"version https://git-lfs.github.com/spec/v1\noid", "git_lfs_pointer", None, "git lfs pull"),
    "error page": Bad(b"\n<!DOCTYPE html><html>", "html_content", None, "download the file again"),
    "spreadsheet": Bad(b"PK\x03\x04", "spreadsheet", None, "choose Save as, CSV UTF-8", suffix=".xlsx"),
    "gzip of something": Bad(gzip.compress(ROW), "unknown_suffix", None, "name it .jsonl.gz", suffix=".gz"),
    "no suffix": Bad(ROW, "unknown_suffix", None, "save its rows as .jsonl", suffix=""),
    "no gzip": Bad(ROW, "bad_gzip", None, "pack it again", suffix=".jsonl.gz"),
    "damaged gzip": Bad(gzip.compress(ROW)[:-8] + b"12345678", "bad_gzip", None, "pack it again", suffix=".jsonl.gz"),
    "half a gzip": Bad(
        gzip.compress(ROW * 999)[:-9], "cut_off", None, "copy it again", suffix=".jsonl.gz", reason=Reason.TRUNCATED
    ),
    "gzip bomb": Bad(
        gzip.compress(LONG_ROW * 1200), "gzip_bomb", None, "drop it unpacked", 1048, ".jsonl.gz", Reason.TOO_LARGE
    ),
    # rows that cannot be read
    "NUL bytes at the end": Bad(
        ROW + b'{"text": "a' + b"\0" * 9000, "nul_bytes", 2, "NUL bytes from byte 25: the file looks cut off", 1,
        reason=Reason.TRUNCATED,
    ),
    "NUL bytes behind a mark": Bad(
        b"\xef\xbb\xbf" + ROW + b"\0" * 9, "nul_bytes", 2, "from byte 17", 1, reason=Reason.TRUNCATED
    ),
    "NUL bytes in the middle": Bad(
        ROW + b'{"text": "\0"}\n' + ROW, "nul_bytes", 2, "from byte 24", 2, reason=Reason.TRUNCATED
    ),
    "40 MB of NUL bytes": Bad(
        ROW + b"\0" * 40_000_000, "nul_bytes", 2, "from byte 14", 1, reason=Reason.TRUNCATED
    ),
    "cut last row": Bad(ROW + b'{"text": "a', "cut_off", 2, "copy it again", 1, reason=Reason.TRUNCATED),
    "Latin-1": Bad(
        b'{"text": "caf\xe9"}\n' + ROW, "not_utf8", 1, "byte 0xe9 at column 14 is not UTF-8; save the file", 1,
        reason=Reason.ENCODING,
    ),
    "lone surrogate": Bad(
        b'{"text": "\\ud800"}\n' + ROW, "lone_surrogate", 1, "\\ud800 is half a character", 1, reason=Reason.ENCODING
    ),
    "surrogate as bytes": Bad(b'{"text": "\xed\xa0\x80"}\n', "not_utf8", 1, "0xed", reason=Reason.ENCODING),
    "NaN": Bad(b'{"text": "a", "n": NaN}\n' + ROW, "not_a_number", 1, "NaN is not JSON; write null", 1),
    "Infinity": Bad(b'{"n": -Infinity}\n' + ROW, "not_a_number", 1, "-Infinity is not JSON", 1),
    "5,000 digits": Bad(b'{"n": ' + b"9" * 5000 + b"}\n" + ROW, "huge_number", 1, "5,000 digits", 1),
    "a number beyond all numbers": Bad(b'{"n": 1e999}\n', "huge_number", 1, "write it as text"),
    "nested 100,000 deep": Bad(ROW + DEEP_ROW + ROW, "too_deep", 2, "deep", 2),
    "opened 100,000 times": Bad(ROW + b'{"a": ' * 100_000 + b"\n" + ROW, "too_deep", 2, "deep", 2),
    "duplicate key": Bad(ROW + b'{"text": "a", "text": "b"}\n', "duplicate_key", 2, "the key text is there twice", 1),
    "duplicate key in a message": Bad(b'{"m": [{"role": 1, "role": 1}]}\n', "duplicate_key", 1, "the key role"),
    "duplicate key far down": Bad(b'{"a": {"b": [[{"c": 1, "c": 2}]]}}\n', "duplicate_key", 1, "the key c"),
    "duplicate key beside an escaped quote": Bad(
        b'{"a": "\\":", "b": 1, "b": 2}\n', "duplicate_key", 1, "the key b"
    ),
    "duplicate key behind a backslash": Bad(b'{"a\\\\": 1, "b": 1, "b": 2}\n', "duplicate_key", 1, "the key b"),
    "row of 20 MB": Bad(
        ROW + b'{"text": "' + b"x" * 20_000_000 + b'"}\n' + ROW, "row_too_long", 2, "more than 16 MiB", 2,
        reason=Reason.TOO_LARGE,
    ),
    "array per line": Bad(b'["a"]\n["b"]\n' + ROW, "row_not_an_object", 1, "this row is an array", 1),
    "bare messages per line": Bad(b'[{"role": 1}]\n[{"role": 1}]\n', "row_not_an_object", 1, '{"messages": [...]}'),
    "text per line": Bad(b'"hello"\n' + ROW, "row_not_an_object", 1, "this row is a text", 1),
    "null per line": Bad(b"null\n", "row_not_an_object", 1, "this row is null"),
    "array in a .jsonl": Bad(b'[{"text": "a"},\n{"text": "b"}]\n', "array_in_jsonl", 1, "name it .json"),
    "pretty array in a .jsonl": Bad(PRETTY, "array_in_jsonl", 1, "name it .json"),
    "rows over several lines": Bad(json.dumps({"text": "a"}, indent=1).encode(), "row_over_lines", 1, "on one line"),
    "one object over many lines": Bad(
        json.dumps({"data": [1, 2]}, indent=1).encode(), "row_over_lines", 1, "on one line", suffix=".json"
    ),
    # JSON, almost
    "single quotes": Bad(b"{'text': 'a'}\n" + ROW, "json_syntax", 1, "JSON wants double ones", 1),
    "trailing comma": Bad(b'{"text": "a",}\n' + ROW, "json_syntax", 1, "a comma too many", 1),
    "None": Bad(b'{"text": None}\n' + ROW, "json_syntax", 1, "None at column 10 is not JSON; write null", 1),
    "True": Bad(b'{"text": True}\n' + ROW, "json_syntax", 1, "write null, true or false", 1),
    "two rows on a line": Bad(b'{"text": "a"} {"text": "b"}\n' + ROW, "json_syntax", 1, "on a line of its own", 1),
    "a comma behind the row": Bad(b'{"text": "a"},\n' + ROW, "json_syntax", 1, "behind the row; remove it", 1),
    "no colon": Bad(b'{"text" "a"}\n' + ROW, "json_syntax", 1, "a colon is missing at column 9", 1),
    "quote in a text": Bad(b'{"text": "a"b"}\n' + ROW, "json_syntax", 1, "lacks its backslash", 1),
    "raw tab": Bad(b'{"text": "a\tb"}\n' + ROW, "json_syntax", 1, "a raw tab", 1),
    "raw control character": Bad(b'{"text": "a\x1bb"}\n' + ROW, "json_syntax", 1, "U+001B", 1),
    "Windows path": Bad(b'{"text": "C:\\data"}\n' + ROW, "json_syntax", 1, "a single backslash", 1),
    "no value": Bad(b'{"text": }\n' + ROW, "json_syntax", 1, "a value is missing", 1),
    "no quotes": Bad(b"{text: 1}\n" + ROW, "json_syntax", 1, "not in double quotation marks", 1),
    "plain text": Bad(b"hello\n" + ROW, "json_syntax", 1, "put it in double quotation marks", 1),
    "unclosed row": Bad(b'{"text": "a"\n' + ROW, "row_ends_early", 1, "close its brackets", 1),
    # arrays
    "cut array": Bad(PRETTY[:-30], "cut_off", 14, "copy it again", 2, ".json", Reason.TRUNCATED),
    "array without its end": Bad(PRETTY[:-1], "cut_off", 20, "copy it again", 3, ".json", Reason.TRUNCATED),
    "text behind an array": Bad(PRETTY + b"x", "json_syntax", 20, "behind the array's ]", 3, ".json"),
    "comma at the array's end": Bad(b'[{"a": 1},\n]', "json_syntax", 2, "a comma too many", 1, ".json"),
    "two commas": Bad(b'[{"a": 1},,{"a": 2}]', "json_syntax", 1, "a comma too many between two rows", 2, ".json"),
    "comma missing": Bad(b'[{"a": 1}\n{"a": 2}]', "json_syntax", 2, "a comma is missing", 2, ".json"),
    "broken element": Bad(PRETTY.replace(b"1", b"1x"), "json_syntax", 11, "a comma is missing", 2, ".json"),
    "broken first element": Bad(PRETTY.replace(b"0", b"0x"), "json_syntax", 5, "a comma is missing", 2, ".json"),
    "unclosed text": Bad(b'[{"a": "x},\n{"a": "y"}]', "json_syntax", 1, "runs over the end of the line", 1, ".json"),
    "unknown rest": Bad(b'[{"a": 1}, {"a": x}, {"b": 2}]', "rest_unread", 1, "drop the file again", 1, ".json"),
    "bad bytes in an array": Bad(
        b'[{"a": "x"},\n{"a": "\xff"},\n{"a": "z"}]', "not_utf8", 2, "0xff", 2, ".json", Reason.ENCODING
    ),
    "NaN in an array": Bad(b'[{"a": NaN}, {"a": 1}]', "not_a_number", 1, "write null", 1, ".json"),
    "duplicate key in an array": Bad(b'[{"a": 1, "a": 2}, {"a": 1}]', "duplicate_key", 1, "twice", 1, ".json"),
    "number in an array": Bad(b'[{"a": 1}, 34]', "row_not_an_object", 1, "this row is a number", 1, ".json"),
    "deep array": Bad(b'[{"a": 1}, ' + b"[" * 100_000, "too_deep", 1, "deep", 1, ".json"),
    "NUL bytes in an array": Bad(
        b'[{"a": 1},\n{"a' + b"\0" * 99, "nul_bytes", 2, "copy it again", 1, ".json", Reason.TRUNCATED
    ),
    "element of 20 MB": Bad(
        b'[{"a": "' + b"x" * 20_000_000 + b'"}]', "row_too_long", 1, "16 MiB", 0, ".json", Reason.TOO_LARGE
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_files(bad):
    findings = Findings(f"support{bad.suffix}")
    good_rows = sum(1 for _ in read_rows(pieces(bad.data, 2**20), suffix=bad.suffix, findings=findings))
    first = next(problem for problem in findings.problems() if problem.code == bad.code)
    assert (first.line, first.reason) == (bad.line, bad.reason)
    assert bad.says in first.message
    assert good_rows == bad.good_rows


def test_every_bad_row_is_found_in_one_pass():
    rows, problems = read(ROW + b"{'text': 1}\n" + ROW + b'{"text": "a", "text": "b"}\n' + b'{"text": NaN}\n' + ROW)
    assert [(problem.line, problem.code) for problem in problems] == [
        (2, "json_syntax"),
        (4, "duplicate_key"),
        (5, "not_a_number"),
    ]
    assert [line for line, _ in rows] == [1, 3, 6]
    assert str(problems[1]) == "support.jsonl:4: the key text is there twice; keep one"


def test_of_many_like_faults_a_hundred_are_shown_and_all_are_counted():
    _, problems = read(b"{'text': 1}\n" * 412)
    assert len(problems) == SHOWN + 1
    assert (problems[-1].message, problems[-1].count) == ("... and 312 more like this", 312)


def test_a_rare_fault_is_not_hidden_by_a_common_one():
    findings = Findings("a.jsonl")
    for line in range(1, 100_001):
        findings.add(line, Fault("common", "again"))
    findings.add(100_001, Fault("rare", "once"))
    problems = findings.problems()
    assert [problem.line for problem in problems if problem.code == "rare"] == [100_001]
    assert sum(problem.count for problem in problems) == 100_001


def test_a_packed_file_may_not_unpack_beyond_the_size_limit():
    findings = Findings("a.jsonl.gz")
    rows = read_rows([gzip.compress(ROW * 1000)], suffix=".jsonl.gz", findings=findings, most_bytes=10_000)
    assert len(list(rows)) < 1000
    assert findings.problems()[0].code == "gzip_bomb"


def memory_peak(rows: Iterator) -> int:
    tracemalloc.start()
    for _ in rows:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_memory_does_not_grow_with_the_file(suffix):
    def chunks(count: int) -> Iterator[bytes]:
        row = json.dumps({"text": "x" * 10_000}).encode()
        if suffix == ".jsonl":
            return (row + b"\n" for _ in range(count))
        return iter([b"[" + row, *[b",\n" + row] * (count - 1), b"]"])

    small, large = (
        memory_peak(read_rows(chunks(count), suffix=suffix, findings=Findings("a"))) for count in (200, 3000)
    )
    assert large < small + 1_000_000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text('ab":\\', max_size=4), below, max_size=3),
    max_leaves=12,
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.text('ab":\\ü', max_size=4), JSON_VALUES, max_size=4), max_size=5)


@given(
    rows=ROWS, size=st.integers(1, 40), ascii_only=st.booleans(), compact=st.booleans(), indent=st.none() | st.just(1)
)
@settings(max_examples=150, deadline=None)
def test_what_json_writes_is_read_back_however_it_is_cut(rows, size, ascii_only, compact, indent):
    separators = (",", ":") if compact else None
    lines = [json.dumps(row, ensure_ascii=ascii_only, separators=separators) + "\n" for row in rows]
    read_rows_, problems = read("".join(lines).encode(), size=size)
    assert ([row for _, row in read_rows_], problems) == (rows, [])
    array = json.dumps(rows, ensure_ascii=ascii_only, separators=separators, indent=indent)
    read_rows_, problems = read(array.encode(), suffix=".json", size=size)
    assert ([row for _, row in read_rows_], problems) == (rows, [])


@given(rows=ROWS, key=st.text('ab":\\', max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_key_that_is_there_twice_is_always_noticed(rows, key):
    written = json.dumps(key)
    data = b"".join(b"%s\n" % json.dumps(row).encode() for row in rows)
    data += f'{{{written}: [{{{written}: {{}}, "c": "\\":", {written}: 1}}]}}\n'.encode()
    _, problems = read(data)
    assert [(problem.code, problem.line) for problem in problems] == [("duplicate_key", len(rows) + 1)]


@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".json", ".jsonl.gz"]))
@settings(max_examples=200, deadline=None)
def test_whatever_bytes_come_are_rows_or_problems(data, suffix):
    rows, problems = read(data, suffix=suffix)
    assert all(isinstance(row, dict) for _, row in rows)
    assert all(problem.message for problem in problems)
