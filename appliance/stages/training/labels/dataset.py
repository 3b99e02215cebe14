"""A whole dataset labelled: read in one stream, checked, split, and written for training, evaluation and people."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.dataset.split import Hashes, Mask, Split, held_out_count, split, split_off
from appliance.errors import InputError
from appliance.files import write_json, write_whole
from appliance.planning.fitting import sequence_length
from appliance.recipe import Recipe
from appliance.stages.training.labels.examples_file import ExampleWriter, distribute, first_examples
from appliance.stages.training.labels.kit import Kit, conversation_kit, text_kit
from appliance.stages.training.labels.labelling import label
from appliance.stages.training.labels.problems import Labelled, blocking_problems, warnings
from appliance.stages.training.labels.report import RowCounts, held_out_notes, labels_json, labels_text, notes
from appliance.stages.training.labels.rows import Row, read_rows
from appliance.stages.training.labels.samples import choose
from appliance.stages.training.labels.sieve import Counts, Sieve, percentile

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Request:
    """What is to be labelled, and how. `held_out` is a file of rows that were given for evaluation."""

    recipe: Recipe
    name: str
    conversational: bool
    rows: Path
    held_out: Path | None
    model: Path
    created: float
    cap: int
    folder: Path
    held_out_name: str | None = None

    @property
    def masked(self) -> bool:
        """Whether part of every row is only read."""
        return self.conversational and self.recipe.train_on == "responses"


@dataclass(frozen=True)
class Division:
    """Which examples are trained on and which are held out, and the numbers of the held-out rows."""

    split: Split
    trained: Mask
    held_out: Mask
    held_out_rows: frozenset[int]


def label_dataset(request: Request, progress: Progress) -> dict[str, Any]:
    """Label a dataset into `request.folder` and return what `result.json` says about it.

    Raises InputError with every reason why the labels must not be trained on.
    """
    kit = _kit(request)
    examples, given = request.folder / "examples.arrow", request.folder / "eval.arrow"
    counts = _label(request, kit, request.rows, examples, progress)
    given_counts = _label(request, kit, request.held_out, given, _untold) if request.held_out else None
    try:
        _refuse(request, counts, given_counts)
    except InputError:
        examples.unlink()
        given.unlink(missing_ok=True)
        raise
    division = _divide(request, counts, given_counts)
    distribute(examples, _targets(request.folder, division))
    _report(request, kit, counts, given_counts, division, first_examples(examples, 3))
    examples.unlink()
    return _facts(request, kit, counts, given_counts, division)


def _untold(rows: int, tokens: int) -> None:
    """The held-out file is small: nobody waits for it."""


def _kit(request: Request) -> Kit:
    if request.conversational:
        return conversation_kit(request.model, request.recipe, created=request.created)
    return text_kit(request.model, request.cap)


def _label(request: Request, kit: Kit, rows: Path, target: Path, progress: Progress) -> Counts:
    sieve, tokens = Sieve(request.cap, request.recipe.long_examples, frozenset(kit.stop_ids)), 0
    with closing(ExampleWriter(target)) as writer, rows.open("rb") as lines:
        for outcome in label(lines, kit.labeller, kit.control, kit.tokenizer.backend):
            if example := sieve.sift(outcome):
                writer.write(example)
                tokens += sieve.counts.lengths[-1]
            progress(sieve.counts.rows, tokens)
    return sieve.counts


def _refuse(request: Request, counts: Counts, given: Counts | None) -> None:
    def labelled(name: str, counts: Counts) -> Labelled:
        return Labelled(name, counts, request.cap, request.recipe.long_examples, masked=request.masked)

    problems = [*blocking_problems(labelled(request.name, counts))]
    if given:
        problems += blocking_problems(labelled(request.held_out_name or request.name, given))
    if problems:
        raise InputError(problems)


def _divide(request: Request, counts: Counts, given: Counts | None) -> Division:
    """Decide row by row; the pieces of a long text stay together."""
    numbers, hashes, example_row = _by_row(counts)
    if given:
        division = split_off(hashes, _by_row(given)[1])
    else:
        count = held_out_count(len(hashes), request.recipe.eval_fraction, request.recipe.eval_max_rows)
        division = split(hashes, count)
    held_out = division.held_out[example_row]
    trained = ~(held_out | division.leaked[example_row])
    return Division(division, trained, held_out, frozenset(numbers[division.held_out].tolist()))


def _by_row(counts: Counts) -> tuple[NDArray[np.int64], Hashes, NDArray[np.intp]]:
    """The numbers and hashes of the kept rows, and for each example which of those rows it is of."""
    numbers = np.asarray(counts.row_numbers, dtype=np.int64)
    begins = np.ones(len(numbers), dtype=bool)
    begins[1:] = numbers[1:] != numbers[:-1]
    return numbers[begins], np.asarray(counts.hashes, dtype=np.uint64)[begins], np.cumsum(begins) - 1


def _targets(folder: Path, division: Division) -> dict[Path, Mask]:
    targets = {folder / "train.arrow": division.trained}
    return targets | ({folder / "eval.arrow": division.held_out} if division.held_out.any() else {})


def _report(
    request: Request, kit: Kit, counts: Counts, given: Counts | None, division: Division, first: list[dict[str, Any]]
) -> None:
    """Write everything that is for people, for `verify`, and the tokenizer as it was used."""
    folder = request.folder
    rows = RowCounts(
        rows_in=counts.rows,
        kept=len(division.split.held_out) - int(division.split.leaked.sum()),
        held_out=len(_by_row(given)[0]) if given else len(division.held_out_rows),
        duplicates=division.split.duplicates,
        leaked=int(division.split.leaked.sum()),
        trained_examples=int(division.trained.sum()),
    )
    write_json(folder / "labels.json", labels_json(rows, counts, kit.template, kit.habits, first))
    write_whole(folder / "labels.txt", labels_text(first, kit.hf))
    samples = choose(kit.prompts, request.recipe.sample_prompts, _sample_rows(request, division))
    write_whole(folder / "samples.jsonl", "".join(json.dumps(sample) + "\n" for sample in samples))
    kit.hf.save_pretrained(folder / "tokenizer")


def _sample_rows(request: Request, division: Division) -> Iterator[Row]:
    """Held-out rows; the first rows of the dataset where there are none."""
    if request.held_out:
        return read_rows(request.held_out)
    held_out = division.held_out_rows
    return (row for row in read_rows(request.rows) if not held_out or row.number in held_out)


def _facts(request: Request, kit: Kit, counts: Counts, given: Counts | None, division: Division) -> dict[str, Any]:
    lengths, trained = np.asarray(counts.lengths), np.asarray(counts.trained)
    longest = max(lengths.max(initial=0), np.asarray(given.lengths if given else ()).max(initial=0))
    auto = request.recipe.max_seq_length == "auto"
    return {
        "train_rows": int(division.trained.sum()),
        "eval_rows": len(given.lengths) if given else int(division.held_out.sum()),
        "max_seq_length": sequence_length(int(longest), request.cap) if auto else request.cap,
        "row_lengths": len({*counts.lengths, *(given.lengths if given else ())}),
        "tokens_total": int(lengths[division.trained].sum()),
        "tokens_trained": int(trained[division.trained].sum()),
        "stop_token_ids": list(kit.stop_ids),
        "pad_token_id": kit.tokenizer.pad_id,
        "chat_template": kit.template.source if kit.template else "",
        "answer_tokens_p95": percentile(np.asarray(counts.answers), 95) if request.masked else None,
        "type": "conversational" if request.conversational else "text",
        "warnings": [warning.as_json() for warning in warnings(request.name, counts)],
        "notes": [
            *held_out_notes(request.recipe, rows=len(division.split.held_out), held_out=len(division.held_out_rows)),
            *notes(kit.template, kit.habits),
        ],
    }
