"""What a person and other programs may want to know about the labels: `labels.txt` and `labels.json`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from appliance.recipe import Recipe
from appliance.stages.training.labels.examples import NOT_TRAINED
from appliance.stages.training.labels.habits import Habits
from appliance.stages.training.labels.rendering import ChatTemplate
from appliance.stages.training.labels.sieve import Counts, percentile

OPEN: Final = "⟦"
CLOSE: Final = "⟧"
# About as many columns as a chart of the rows' lengths has.
COLUMNS: Final = 20
LEGEND: Final = f"""\
The first rows, exactly as the model sees them. What stands between {OPEN} and {CLOSE} is trained; the model only
reads the rest. An answer is right when it is inside whole, and the token that ends it is the last thing inside.
"""


@dataclass(frozen=True)
class RowCounts:
    """What became of the dataset's rows."""

    rows_in: int
    kept: int
    held_out: int
    duplicates: int
    leaked: int
    trained_examples: int


def labels_json(
    rows: RowCounts,
    counts: Counts,
    template: ChatTemplate | None,
    habits: Habits | None,
    examples: list[dict[str, Any]],
) -> dict[str, Any]:
    """The object of `labels.json`. Tokens are those of every kept row, held-out ones included."""
    lengths = np.asarray(counts.lengths, dtype=np.int32)
    total, trained = int(lengths.sum()), int(np.asarray(counts.trained, dtype=np.int64).sum())
    dropped = counts.dropped | ({"leaked": rows.leaked} if rows.leaked else {})
    return {
        "rows_in": rows.rows_in,
        "rows_kept": rows.kept,
        "rows_truncated": counts.truncated,
        "rows_dropped": dict(dropped),
        "rows_held_out": rows.held_out,
        "duplicate_rows": rows.duplicates,
        "leaked_rows": rows.leaked,
        "examples_trained": rows.trained_examples,
        "tokens_total": total,
        "tokens_trained": trained,
        "tokens_trained_share": round(trained / total, 4) if total else 0.0,
        "tokens_p50": percentile(lengths, 50),
        "tokens_p95": percentile(lengths, 95),
        "tokens_max": int(lengths.max(initial=0)),
        "histogram": histogram(lengths),
        "control_tokens_as_text": counts.control_tokens,
        "thoughts_left_out": counts.thoughts_left_out,
        "chat_template": template.source if template else None,
        "template_date": template.frozen_date if template else None,
        "template_adds": habits.adds if habits else "",
        "template_thinks": habits.thinks if habits else "",
        "examples": [
            {"row": entry["row"], "input_ids": entry["input_ids"], "labels": entry["labels"]} for entry in examples
        ],
    }


def histogram(lengths: NDArray[np.int32]) -> list[dict[str, int]]:
    """How many rows have how many tokens: ranges of one width, and one for the longest hundredth of the rows."""
    if not len(lengths):
        return []
    shortest, most = int(lengths.min()), percentile(lengths, 99)
    width = _round_width(-(-(most + 1 - shortest) // COLUMNS))
    edges = list(range(shortest // width * width, most + width, width))
    if (longest := int(lengths.max())) >= edges[-1]:
        edges.append(max(longest + 1, edges[-1] + width))
    rows, _ = np.histogram(lengths, edges)
    # The last range of NumPy's takes its upper edge too; no length is there.
    return [{"from": a, "to": b - 1, "rows": int(n)} for a, b, n in zip(edges, edges[1:], rows, strict=False)]


def _round_width(least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 and so on that is at least this."""
    ten = int(10 ** (len(str(least)) - 1))
    return next(factor * ten for factor in (1, 2, 5, 10) if factor * ten >= least)


def notes(template: ChatTemplate | None, habits: Habits | None) -> Iterator[str]:
    """What the chat template does to every row that nobody asked for, in sentences."""
    if template and template.frozen_date:
        yield f"the chat template stamps the date; it is {template.frozen_date}, the day of the job, in every row"
    if habits and _has_words(habits.adds):
        yield f"the chat template adds this to conversations without a system message: {habits.adds!r}"
    if habits and habits.thinks:
        yield f"the chat template puts {habits.thinks!r} before answers that come without a thought, and it is trained"


def held_out_notes(recipe: Recipe, *, rows: int, held_out: int) -> Iterator[str]:
    """A small dataset gives more of its rows than the recipe's share of them."""
    if held_out > round(recipe.eval_fraction * rows):
        yield (
            f"{held_out} of {rows:,} rows are held out, more than eval_fraction: {recipe.eval_fraction:g} comes to: "
            "fewer would be too few to compare on; eval_fraction: 0 holds none out"
        )


def labels_text(examples: Sequence[dict[str, Any]], tokenizer: Any) -> str:  # noqa: ANN401 - any Transformers tokenizer
    """The text of `labels.txt`."""
    parts = [LEGEND]
    for entry in examples:
        trained = sum(label != NOT_TRAINED for label in entry["labels"])
        parts.append(f"\n──── row {entry['row']}: {len(entry['labels'])} tokens, {trained} trained ────\n")
        parts.append(_marked(entry["input_ids"], entry["labels"], tokenizer) + "\n")
    return "".join(parts)


def _marked(ids: list[int], labels: list[int], tokenizer: Any) -> str:  # noqa: ANN401
    """The text of the tokens, with brackets around what is trained."""
    pieces, before, position = [], "", 0
    for trained, run in groupby(labels, key=lambda label: label != NOT_TRAINED):
        position += len(list(run))
        # Decoded from the beginning: a token's text can depend on those before it.
        text = tokenizer.decode(ids[:position], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        piece = text[len(before) :]
        pieces.append(f"{OPEN}{piece}{CLOSE}" if trained else piece)
        before = text
    return "".join(pieces)


def _has_words(text: str) -> bool:
    return len(text.split()) > 3
