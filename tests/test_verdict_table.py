"""Everything people drop by mistake, and everything odd that is none: the verdict of the whole check, and its words.

The tables of the tests beside this one say what each layer finds; here the same inputs go through the check stage as
files of a drop, and what is said of them must name a way out.
"""

import codecs
import gzip
import json
import os
import re
import socket
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.errors import InputError, Problem, Reason
from appliance.job import Outcome, Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages import check
from appliance.texts.why import Why, why_markdown
from tests import test_dataset_file, test_dataset_reading, test_formats, test_recipe_yaml
from tests.door import RECIPE, Door
from tests.jobs import make_job, run_stages
from tests.labelled_rows import prepare

# What somebody can do, in the words of the messages. A message without one of them leaves its reader alone.
WAYS_OUT = re.compile(
    r"\b(add|ask|break|call|change|choose|close|copy|correct|cut|did you mean|double|download|drop|give|in quotes|join|"
    r"keep|leave|let|look|make|must be|name|pack|pull|put|read|remove|rename|run|save|serve|set|split|the bare name|"
    r"they are called|unpack|use|wants|write|written|would work|comes? with a later release|is called|it is called|"
    r"a row is an object|is worked out from|lines such as|indent)\b"
)
SETTINGS = Settings()


class Bad(NamedTuple):
    """The files of a drop, and what is found first of this code: file, line, and words of the way out."""

    files: dict[str, str | bytes]
    code: str
    line: int | None
    says: str


def bad_files() -> Iterator[tuple[str, Bad]]:
    for name, data in test_dataset_reading.BAD.items():
        yield f"file: {name}", Bad({f"support{data.suffix}": data.data}, data.code, data.line, data.says)
    for name, (table, code, line, says) in test_dataset_file.BAD_TABLES.items():
        yield f"table: {name}", Bad({"support.csv": table}, code, line, says)


def bad_rows() -> Iterator[tuple[str, Bad]]:
    tables = (test_formats.BAD_MESSAGES, test_formats.BAD_OTHERS, test_formats.BAD_PREFERENCES)
    for name, row in ((name, row) for table in tables for name, row in table.items()):
        # A row that nothing is known by needs others from which the format is found.
        line = json.dumps(row.row) + "\n"
        needs_label = row.code == "bad_label"
        first = json.dumps({"prompt": "a", "completion": "b", "label": True}) + "\n" if needs_label else ""
        yield f"row: {name}", Bad({"support.jsonl": first + line}, row.code, 2 if needs_label else 1, row.says)


def bad_recipes() -> Iterator[tuple[str, Bad]]:
    for name, recipe in test_recipe_yaml.BAD.items():
        files = {"support.jsonl": '{"text": "a"}\n', "support.yaml": recipe.text}
        yield f"recipe: {name}", Bad(files, recipe.code, recipe.line, recipe.says)


BAD = dict([*bad_files(), *bad_rows(), *bad_recipes()])


def problems_of(folder: Path, files: dict[str, str | bytes]) -> tuple[Problem, ...]:
    own_recipe = any(name.endswith(".yaml") for name in files)
    job = make_job(folder, files, library_recipe=None if own_recipe else "default")
    if not own_recipe:
        job.library_recipe.write_text(RECIPE)
    with pytest.raises(InputError) as caught:
        check.run(job, SETTINGS)
    assert not (job.path / "check" / "rows.jsonl").exists()
    return caught.value.problems


def test_the_table_is_long():
    assert len(BAD) + len(BAD_NAMES) >= 150
    assert len(GOOD) >= 40


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_rejected_with_its_place_and_a_way_out(tmp_path: Path, bad: Bad):
    problems = problems_of(tmp_path, bad.files)
    first = next(problem for problem in problems if problem.code == bad.code)
    assert (first.line, first.file in bad.files) == (bad.line, True)
    assert bad.says in first.message
    for problem in problems:
        read_aloud(problem)
    why = why_markdown(Why("0001-test", "test", Outcome.REJECTED, 0.0, stage=Stage.CHECK, problems=problems))
    assert "## What to do" in why
    assert len(why) < 100_000


def read_aloud(problem: Problem) -> None:
    """A sentence in plain words, without its place, that says what would work."""
    message = problem.message
    if message.startswith("... and "):
        return
    assert WAYS_OUT.search(message), message
    first = message.split()[0].strip(",;:")
    assert not first.istitle() or first in (problem.key, "Parquet", "None", "True", "False", "-Infinity"), message
    assert not re.search(r"\b(invalid|[Ee]rror|illegal|exception|Traceback|NoneType)\b(?! page)", message), message
    assert all(character.isprintable() for character in message), message
    assert len(message) < 700, message


# Names and kinds of files: refused at the door


def put_link(inbox: Path) -> None:
    (inbox.parent / "secret").write_text("secret")
    (inbox / "a.jsonl").symlink_to(inbox.parent / "secret")


def put_linked_folder(inbox: Path) -> None:
    (inbox / "f").symlink_to("/etc")


def put_hard_link(inbox: Path) -> None:
    (inbox.parent / "other").write_text("{}")
    (inbox / "a.jsonl").hardlink_to(inbox.parent / "other")


def put_pipe(inbox: Path) -> None:
    os.mkfifo(inbox / "a.jsonl")


def put_socket(inbox: Path) -> None:
    here = Path.cwd()
    os.chdir(inbox)
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("a.jsonl")
    finally:
        os.chdir(here)


def putting(*names: str) -> Callable[[Path], None]:
    def put(inbox: Path) -> None:
        for name in names:
            (inbox / name).parent.mkdir(parents=True, exist_ok=True)
            (inbox / name).write_text('{"text": "a"}\n' if not name.endswith(".yaml") else RECIPE)

    return put


def put_huge(inbox: Path) -> None:
    with (inbox / "a.jsonl").open("wb") as file:
        file.truncate(10**12)


BAD_NAMES: dict[str, tuple[Callable[[Path], None], str, Reason]] = {
    "a link": (put_link, "unsafe_file", Reason.UNSAFE_FILE),
    "a linked folder": (put_linked_folder, "unsafe_file", Reason.UNSAFE_FILE),
    "a hard link": (put_hard_link, "unsafe_file", Reason.UNSAFE_FILE),
    "a pipe": (put_pipe, "unsafe_file", Reason.UNSAFE_FILE),
    "a socket": (put_socket, "unsafe_file", Reason.UNSAFE_FILE),
    "a spreadsheet": (putting("budget.XLSX"), "spreadsheet", Reason.DATASET_FORMAT),
    "an old spreadsheet": (putting("budget.xls"), "spreadsheet", Reason.DATASET_FORMAT),
    "a document": (putting("letter.docx"), "unknown_suffix", Reason.DATASET_FORMAT),
    "text": (putting("rows.txt"), "unknown_suffix", Reason.DATASET_FORMAT),
    "no ending": (putting("rows"), "unknown_suffix", Reason.DATASET_FORMAT),
    "another packer": (putting("rows.jsonl.zst"), "unknown_suffix", Reason.DATASET_FORMAT),
    "a packed table": (putting("rows.csv.gz"), "unknown_suffix", Reason.DATASET_FORMAT),
    "a picture in a folder": (putting("f/train.jsonl", "f/cat.png"), "unknown_suffix", Reason.DATASET_FORMAT),
    "two datasets in a folder": (putting("f/a.jsonl", "f/b.jsonl"), "several_datasets", Reason.OTHER),
    "two recipes in a folder": (putting("f/a.jsonl", "f/a.yaml", "f/b.yaml"), "several_recipes", Reason.OTHER),
    "a folder in a folder": (putting("f/train.jsonl", "f/more/a.jsonl"), "folder_in_folder", Reason.OTHER),
    "two datasets of one name and a recipe": (
        putting("a.jsonl", "a.csv", "a.yaml"), "several_datasets", Reason.OTHER,
    ),
    "a terabyte": (put_huge, "too_large", Reason.TOO_LARGE),
}  # fmt: skip


@pytest.mark.parametrize(("put", "code", "reason"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_what_is_no_drop_is_refused_at_the_door(tmp_path: Path, put: Callable[[Path], None], code: str, reason: Reason):
    door = Door(tmp_path)
    put(door.inbox.path)
    (drop,) = door.drops()
    (job,) = door.take_in(drop)
    assert job.outcome is Outcome.REJECTED
    problems = JobDir(door.places.jobs / job.id).problems(Stage.CHECK)
    first = next(problem for problem in problems if problem.code == code)
    assert (first.reason, first.line) == (reason, None)
    for problem in problems:
        assert WAYS_OUT.search(problem.message.lower()), problem.message


# Good, but odd: checked, labelled, and (in the long tier) trained


def messages(*texts: str, **fields: object) -> dict:
    roles = ["user", "assistant"] * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)], **fields}


def jsonl(*rows: dict, end: str = "\n", ascii_only: bool = True) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows).encode()


HELLO = messages("Hello", "Good day to you.")
PAIR = {"prompt": "Hello", "completion": "Good day to you."}
TURN = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day to you."}]
CALL = {"type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def parquet_bytes(*rows: dict) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()


GOOD: dict[str, tuple[str, bytes]] = {
    "a byte-order mark": ("a.jsonl", codecs.BOM_UTF8 + jsonl(HELLO)),
    "CRLF": ("a.jsonl", jsonl(HELLO, HELLO, end="\r\n")),
    "upper-case ending": ("SUPPORT.JSONL", jsonl(HELLO)),
    "a name with blanks": ("my own data (2).jsonl", jsonl(HELLO)),
    "a name from a Mac": (unicodedata.normalize("NFD", "Überblick.jsonl"), jsonl(HELLO)),
    "a name in Chinese": ("数据.jsonl", jsonl(HELLO)),
    "a leading dash": ("-rf.jsonl", jsonl(HELLO)),
    "many dots": ("v1.2.final.jsonl", jsonl(HELLO)),
    "one row": ("a.jsonl", jsonl(HELLO)),
    "no newline at the end": ("a.jsonl", jsonl(HELLO).rstrip()),
    "blank lines": ("a.jsonl", b"\n\n" + jsonl(HELLO) + b" \n\r\n" + jsonl(HELLO) + b"\n\n"),
    "U+2028": ("a.jsonl", jsonl(messages("a\u2028b", "c\u2029d\u0085e"), ascii_only=False)),
    "a row of a megabyte": ("a.jsonl", jsonl(messages("Shorten: " + "word " * 200_000, "It is shortened."), HELLO)),
    "escaped pairs": ("a.jsonl", jsonl(messages("😀", "🎉 done"))),
    "an escaped NUL": ("a.jsonl", jsonl(messages("a\0b", "fine, thanks"))),
    "right-to-left text": ("a.jsonl", jsonl(messages("שלום", "مرحبا بك"), ascii_only=False)),
    "a space before each colon": ("a.jsonl", json.dumps(HELLO, separators=(" , ", " : ")).encode()),
    "keys in another order": (
        "a.jsonl", b'{"messages": [{"content": "Hello", "role": "user"}, {"content": "Hi all", "role": "assistant"}]}',
    ),
    "texts that look like JSON": ("a.jsonl", jsonl(messages('{"role": "user"}', '{"a": [1, 2], "b": "\\""}'))),
    "extra columns": ("a.jsonl", jsonl({**HELLO, "id": 7, "meta": {"deep": [1, {"x": None}]}})),
    "a number of 30 digits beside it": ("a.jsonl", b'{"id": 123456789012345678901234567890, ' + jsonl(HELLO)[1:]),
    "a final question": ("a.jsonl", jsonl(messages("Hello", "Good day to you.", "And now?"))),
    "system prompts in some rows": (
        "a.jsonl", jsonl(HELLO, {"messages": [{"role": "system", "content": "Be kind."}, *HELLO["messages"]]}),
    ),
    "the same row twice": ("a.jsonl", jsonl(HELLO, HELLO)),
    "weights": ("a.jsonl", jsonl({"messages": [*HELLO["messages"][:1], {**HELLO["messages"][1], "weight": 1}]})),
    "content in parts": (
        "a.jsonl",
        jsonl({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, HELLO["messages"][1]]}),
    ),
    "an array": ("a.json", json.dumps([HELLO, HELLO]).encode()),
    "a pretty array": ("a.json", json.dumps([PAIR, PAIR], indent=2).encode()),
    "objects a line in a .json": ("a.json", jsonl(HELLO, HELLO)),
    "an array with a mark and CRLF": (
        "a.json", codecs.BOM_UTF8 + json.dumps([PAIR], indent=1).replace("\n", "\r\n").encode(),
    ),
    "packed": ("a.jsonl.gz", gzip.compress(jsonl(HELLO))),
    "packed twice in one file": ("a.JSONL.GZ", gzip.compress(jsonl(HELLO)) + gzip.compress(jsonl(HELLO))),
    "Alpaca without input": (
        "a.json", json.dumps([{"instruction": "Greet.", "input": "", "output": "Hello there"}]).encode(),
    ),
    "Alpaca with input null": ("a.jsonl", jsonl({"instruction": "Greet.", "input": None, "output": "Hello there"})),
    "question and answer": ("a.jsonl", jsonl({"question": "2 + 2?", "answer": "It is 4."})),
    "prompt and response": ("a.jsonl", jsonl({"prompt": "2 + 2?", "response": "It is 4."})),
    "prompt and completion as messages": (
        "a.jsonl", jsonl({"prompt": HELLO["messages"][:1], "completion": HELLO["messages"][1:]}),
    ),
    "ShareGPT": ("a.json", json.dumps([{"conversations": TURN, "system": ""}]).encode()),
    "ShareGPT with a system prompt": ("a.jsonl", jsonl({"conversations": TURN, "system": "Be kind."})),
    "plain text": ("a.jsonl", jsonl({"text": "Once upon a time there was a drop."})),
    "commas": ("a.csv", b"prompt,completion\nHello,Good day\n"),
    "Excel in German": ("a.csv", "prompt;completion\r\nGrüße;Schöne Grüße zurück\r\n".encode("windows-1252")),
    "Excel in UTF-8": ("A.CSV", codecs.BOM_UTF8 + b'"prompt","completion"\r\n"Hello, you","Good\nday"\r\n'),
    "a table with an index": ("a.csv", b",question,answer\n0,2 + 2?,It is 4.\n1,3 + 3?,It is 6.\n"),
    "Parquet": ("a.parquet", parquet_bytes(HELLO, HELLO)),
    "Parquet with columns of its own": ("A.Parquet", parquet_bytes({**PAIR, "id": 1, "score": 0.5, "tags": ["a"]})),
}  # fmt: skip


def check_good(folder: Path, name: str, data: bytes) -> tuple[JobDir, dict]:
    job = make_job(folder, {name: data}, library_recipe="default")
    job.library_recipe.write_text("base_model: demo\nmax_steps: 1\nlong_examples: truncate\n")
    return job, check.run(job, SETTINGS)


@pytest.mark.parametrize(("name", "data"), GOOD.values(), ids=GOOD)
def test_what_is_only_odd_is_checked_and_labelled(tmp_path: Path, name: str, data: bytes):
    job, result = check_good(tmp_path, name, data)
    rows = [json.loads(line) for line in (job.path / "check" / "rows.jsonl").read_text().split("\n") if line.strip()]
    assert len(rows) == result["rows"] >= 1
    facts = prepare(tmp_path / "labels", rows, long_examples="truncate")
    assert facts is not None


@pytest.mark.soak
@pytest.mark.train
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "data"), GOOD.values(), ids=GOOD)
def test_what_is_only_odd_trains(tmp_path: Path, name: str, data: bytes):
    job = make_job(tmp_path, {name: data}, library_recipe="default")
    job.library_recipe.write_text("base_model: demo\nmax_steps: 1\nlong_examples: truncate\n")
    run_stages(job, Stage.CHECK, Stage.FETCH, Stage.PREPARE, Stage.TRAIN)
    assert (job.path / "train" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.train
def test_everything_odd_at_once_trains(tmp_path: Path):
    """A mark, CRLF, blank lines, U+2028, extra columns, copies, and a name from a Mac in upper case."""
    rows = [messages(f"a\u2028{n}", f"It is {n}, of course.", id=n) for n in range(12)]
    data = codecs.BOM_UTF8 + b"\r\n" + jsonl(*rows, *rows[:3], end="\r\n", ascii_only=False) + jsonl(HELLO).rstrip()
    job = make_job(tmp_path, {unicodedata.normalize("NFD", "ÜBERBLICK.JSONL"): data}, library_recipe="default")
    job.library_recipe.write_text("base_model: demo\nmax_steps: 2\n")
    run_stages(job, Stage.CHECK, Stage.FETCH, Stage.PREPARE, Stage.TRAIN)
    assert (job.path / "train" / "adapter" / "adapter_model.safetensors").exists()
