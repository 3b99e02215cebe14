"""Rows labelled as the prepare stage does it, without its process."""

import json

import pyarrow as pa
import pytest

from appliance.errors import InputError, Reason
from appliance.recipe import Recipe
from appliance.stages.training.labels.dataset import Request, label_dataset
from tests.families import DEMO, assistant, user
from tests.jobs import jsonl


def rows_of(count: int, words: str = "word ") -> list[dict]:
    return [{"messages": [user(f"Say {n}"), assistant(words + str(n))]} for n in range(count)]


def prepare(folder, rows: list[dict], *, cap: int = 512, model=DEMO, held_out: list[dict] | None = None, **keys):
    """Label rows as the stage does, without its process: returns the facts and the folder."""
    folder.mkdir(exist_ok=True)
    for name, content in (("rows.jsonl", rows), ("held-out.jsonl", held_out)):
        if content is not None:
            (folder / name).write_text(jsonl([{"row": n, **row} for n, row in enumerate(content, 1)]))
    request = Request(
        recipe=Recipe(base_model="demo", **keys),
        name="data.jsonl",
        conversational="messages" in rows[0],
        rows=folder / "rows.jsonl",
        held_out=folder / "held-out.jsonl" if held_out is not None else None,
        model=model,
        created=1_790_000_000.0,
        cap=cap,
        folder=folder,
    )
    return label_dataset(request, lambda rows, tokens: None)


def problems_of(folder, rows: list[dict], **how) -> list:
    with pytest.raises(InputError) as caught:
        prepare(folder, rows, **how)
    assert all(problem.reason is Reason.LABELS for problem in caught.value.problems)
    assert not list(folder.glob("*.arrow"))
    return list(caught.value.problems)


def read(path) -> list[dict]:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
        return [row for batch in stream for row in batch.to_pylist()]


def labels_json(folder) -> dict:
    return json.loads((folder / "labels.json").read_text())
