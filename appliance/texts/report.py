"""`report.html`: everything worth knowing about one job on one self-contained page, the verdict first. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, Final, TypeVar

from markupsafe import Markup, escape

from appliance.job import Job, Verdict
from appliance.names import slug
from appliance.texts.histogram import row_lengths
from appliance.texts.pages import render
from appliance.texts.usage import DEMO, base_model_commit, base_model_id, load_with_peft, serve_with_vllm
from appliance.texts.wording import (
    NOT_HELD_OUT,
    VERDICTS,
    clip,
    duration,
    gone,
    loss,
    percent,
    plural,
    rate,
    sentence,
    size,
    visible_block,
)

# A JSON object as a stage left it.
Facts = Mapping[str, Any]
T = TypeVar("T")

LONGEST_EXAMPLE: Final = 6_000
LONGEST_ANSWER: Final = 4_000
# The others are a click away.
SAMPLES_SHOWN: Final = 3
_EXAMPLE_HEADING: Final = re.compile(r"^──── row (\d+): (\d+) tokens, (\d+) trained ────$", re.MULTILINE)
_DROPPED: Final = {
    "over_long": "longer than the max sequence length",
    "nothing_trained": "without an answer to train on",
    "leaked": "the same as a held-out row",
}


@dataclass(frozen=True)
class Figure:
    """A drawing inside the page, as mark-up we made ourselves; `summary` says the same in words.

    `svg` is drawn for a phone or a column; `wide`, where there is one, takes its place on a wide screen.
    """

    title: str
    summary: str
    svg: str
    wide: str | None = None


@dataclass(frozen=True)
class Report:
    """One finished job, or a dry run: then there is neither `train` nor `evaluation`, and there are no figures.

    `check`, `fetch`, `prepare` and `train` are those stages' results; `labels`, `plan` and `evaluation` the objects of
    `labels.json`, `plan.json` and `eval.json`; `samples` those of verify/samples.jsonl; `evals` the `eval` events of
    train/progress.jsonl. `figures` come from plots.training_figures. `rank` is the adapter's, `missing`
    the dropped files that are gone. Without a `zone`, times are the machine's own.
    """

    job: Job
    finished: float
    recipe_yaml: str
    labels: Facts
    labels_text: str
    plan: Facts
    check: Facts | None = None
    fetch: Facts | None = None
    prepare: Facts | None = None
    train: Facts | None = None
    evaluation: Facts | None = None
    samples: Sequence[Facts] = ()
    evals: Sequence[Facts] = ()
    figures: Sequence[Figure] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    rank: int | None = None
    missing: Sequence[str] = ()
    zone: tzinfo | None = None


@dataclass(frozen=True)
class Row:
    """A line of a table: what it is about, and a text for every column."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A row as the model saw it, what was trained marked."""

    row: str
    tokens: str
    trained: str
    text: Markup
    cut: bool


def render_report(report: Report) -> str:
    """The text of `report.html`."""
    return render(
        "report.html.j2",
        {
            "report": report,
            "verdict": report.evaluation and report.evaluation["verdict"],
            "headline": _headline(report),
            "lead": _lead(report),
            "comparison": list(_comparison(report.evaluation)) if report.evaluation else [],
            "notes": list(dict.fromkeys(_notes(report))),
            "rows": list(_rows(report.labels)),
            "tokens": list(_tokens(report.labels)),
            "lengths": row_lengths(report.labels),
            "examples": list(_examples(report.labels_text)),
            "bill": list(_bill(report.plan)),
            "reality": list(_reality(report.plan, report.train)),
            "origin": list(_origin(report)),
            "code": _code(report),
            "serving": _serving(report),
            "in_4bit": bool(report.train and report.train["quantization"]),
            "longest": LONGEST_ANSWER,
            "shown": SAMPLES_SHOWN,
            "not_held_out": _not_held_out(report),
        },
    )


def _headline(report: Report) -> str:
    if report.evaluation:
        verdict = Verdict(report.evaluation["verdict"])
        return f"{verdict.replace('_', ' ').capitalize()}: {VERDICTS[verdict]}"
    return "Checked: this job can be trained" if report.plan["fits"] else "Checked: this job would not fit"


def _lead(report: Report) -> list[str]:
    """What the headline rests on, in plain words."""
    if report.evaluation is None:
        return [_cost(report.plan)]
    if report.evaluation["verdict"] == Verdict.IMPROVED:
        return [_improvement(report.evaluation)]
    return [sentence(reason) for reason in report.evaluation["reasons"]]


def _improvement(evaluation: Facts) -> str:
    rows, (low, high) = plural(evaluation["held_out_rows"], "row"), evaluation["interval"]
    fell = f"the loss fell from {loss(evaluation['base_loss'])} to {loss(evaluation['tuned_loss'])}"
    return f"On {rows} it was not trained on, {fell}; with 95 % confidence by {loss(-high)} to {loss(-low)}."


def _not_held_out(report: Report) -> str:
    """What to say of samples from rows that were not held out; empty where they were, or are the recipe's own."""
    of_rows = any(sample["row"] is not None for sample in report.samples)
    return NOT_HELD_OUT if of_rows and not report.labels["rows_held_out"] else ""


def _cost(plan: Facts) -> str:
    """What a dry run found out."""
    needs = f"It needs {size(plan['memory']['total_bytes'])} of memory"
    if (seconds := plan["seconds_estimate"]) is None:
        return f"{needs}. Nothing was trained."
    return f"{needs} and about {duration(seconds)} for {plural(plan['total_steps'], 'step')}. Nothing was trained."


def _comparison(evaluation: Facts) -> Iterator[Row]:
    """Base beside tuned, for everything that was measured of both."""
    base, tuned = evaluation["base_loss"], evaluation["tuned_loss"]
    if base is not None:
        rows, tokens = plural(evaluation["held_out_rows"], "row"), plural(evaluation["held_out_tokens"], "token")
        low, high = evaluation["interval"]
        change = f"{_signed(evaluation['difference'])} ({_signed(low)} to {_signed(high)})"
        yield Row(f"Loss on your held-out rows ({rows}, {tokens})", (loss(base), loss(tuned), change))
    base, tuned = evaluation["general_base_loss"], evaluation["general_tuned_loss"]
    if base is not None:
        yield Row("Loss on a general English text", (loss(base), loss(tuned), _signed(tuned - base)))
    base, tuned = evaluation["stop_rate_base"], evaluation["stop_rate_tuned"]
    if tuned is not None:
        change = f"{_signed(100 * (tuned - base), 0)} points"
        yield Row("Sampled answers that come to an end", (percent(base), percent(tuned), change))


def _signed(value: float, digits: int = 3) -> str:
    """With its sign, and a minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _notes(report: Report) -> Iterator[str]:
    """What the stages want a person to know, the gravest first."""
    yield from (report.evaluation or {}).get("warnings", ())
    yield from map(gone, report.missing)
    if report.train:
        yield from _course(report.plan, report.train)
    for stage in (report.check, report.prepare):
        for problem in (stage or {}).get("warnings", ()):
            place = ":".join(str(problem[key]) for key in ("file", "line") if problem.get(key) is not None)
            yield f"{place}: {problem['message']}" if place else problem["message"]
    for stage in (report.check, report.prepare):
        yield from (stage or {}).get("notes", ())
    yield from report.plan.get("notes", ())


def _course(plan: Facts, train: Facts) -> Iterator[str]:
    """What the held-out loss made of the training: where it ended, and which step's adapter this is."""
    steps, best = train["steps"], train["adapter_step"]
    if train["stopped_early"]:
        yield f"training ended early, after step {steps:,} of {plan['total_steps']:,}: the held-out loss fell no more"
    if train.get("best_damaged"):
        lowest = f"the held-out loss was lowest at step {train['best_step']:,} ({loss(train['best_loss'])})"
        yield f"{lowest}, but that checkpoint was damaged on the disk: the adapter is that of the last step, {best:,}"
    elif best != steps:
        yield f"the adapter is that of step {best:,}, where the held-out loss was lowest ({loss(train['best_loss'])})"


def _rows(labels: Facts) -> Iterator[Row]:
    """What became of the dataset's rows."""
    yield Row("Rows in the dataset", (f"{labels['rows_in']:,}",))
    for reason, count in labels["rows_dropped"].items():
        yield Row(f"Dropped: {_DROPPED.get(reason, reason.replace('_', ' '))}", (f"{count:,}",))
    yield Row("Kept", (f"{labels['rows_kept']:,}",))
    yield Row("Held out, never trained on", (f"{labels['rows_held_out']:,}",))
    yield Row("Cut to the max sequence length", (f"{labels['rows_truncated']:,}",))
    yield Row("Duplicates of another row", (f"{labels['duplicate_rows']:,}",))


def _tokens(labels: Facts) -> Iterator[Row]:
    """How long the kept rows are, and how much of them is trained."""
    total, trained = labels["tokens_total"], labels["tokens_trained"]
    share = f" ({percent(trained / total)})" if total else ""
    yield Row("Tokens in the kept rows", (f"{total:,}",))
    yield Row("In answers, which are trained", (f"{trained:,}{share}",))
    yield Row("Median of a row", (f"{labels['tokens_p50']:,}",))
    yield Row("95 % of the rows have at most", (f"{labels['tokens_p95']:,}",))
    yield Row("Longest row", (f"{labels['tokens_max']:,}",))


def _examples(labels_text: str) -> Iterator[Example]:
    """The rows of `labels.txt`."""
    _, *parts = _EXAMPLE_HEADING.split(labels_text)
    for row, tokens, trained, text in zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True):
        yield Example(row, tokens, trained, _marked(clip(text.strip(), LONGEST_EXAMPLE)), len(text) > LONGEST_EXAMPLE)


def _marked(text: str) -> Markup:
    """The text with `<mark>` for the brackets that `labels.txt` has around what is trained."""
    pieces, trained = [], False
    for piece in re.split("([⟦⟧])", visible_block(text)):
        if piece == ("⟧" if trained else "⟦"):
            trained = not trained
            pieces.append(Markup("<mark>") if trained else Markup("</mark>"))
        else:
            pieces.append(escape(piece))
    # Where the text was cut, a bracket may be missing.
    return Markup("").join([*pieces, Markup("</mark>") if trained else ""])


def _bill(plan: Facts) -> Iterator[Row]:
    """The memory that the plan counted with, line by line."""
    memory = plan["memory"]
    names = {
        "weights_bytes": "Base model",
        "adapter_bytes": "Adapter and its gradients",
        "optimizer_bytes": "Optimizer",
        "activations_bytes": "Activations",
        "logits_bytes": "Logits",
        "overhead_bytes": "Everything else",
        "total_bytes": "Sum",
    }
    for key, name in names.items():
        yield Row(name, (size(memory[key]),))


def _reality(plan: Facts, train: Facts | None) -> Iterator[Row]:
    """What the plan said, and what came of it."""
    took = train or {}
    yield Row("Steps", (_or_dash(plan["total_steps"], "{:,}".format), _or_dash(took.get("steps"), "{:,}".format)))
    estimate = _or_dash(plan["seconds_estimate"], lambda seconds: f"about {duration(seconds)}")
    # A training that was interrupted started more than once; then only its steps can be compared.
    at_once = took.get("attempt_steps") == took.get("steps")
    yield Row("Time of training", (estimate, _or_dash(took.get("stage_seconds" if at_once else "seconds"), duration)))
    speed = plan["tokens_per_second_estimate"]
    yield Row("Tokens per second", (rate(speed), rate(took.get("tokens_per_second"))))
    peak = took.get("training_peak_bytes") or took.get("peak_cuda_reserved_bytes") or took.get("peak_memory_bytes")
    yield Row("Memory at its peak", (size(plan["memory"]["total_bytes"]), _or_dash(peak, size)))


def _or_dash(value: T | None, say: Callable[[T], str]) -> str:
    return "–" if value is None else say(value)


def _origin(report: Report) -> Iterator[Row]:
    """Where everything comes from: names, commits and hashes."""
    if fetch := report.fetch:
        yield Row("Base model asked for", (fetch["base_model"],))
        yield Row("Base model loaded", (fetch["base_model_loaded"],))
        yield Row("Commit", (fetch["base_model_commit"] or "none: it was a directory on this machine",))
    if report.check:
        yield Row("Dataset", (report.check["dataset"],))
        yield Row("SHA-256 of the dataset", (report.check["dataset_sha256"],))
    if adapter := (report.train or {}).get("adapter"):
        yield Row("SHA-256 of the adapter", (adapter["adapter_model.safetensors"]["sha256"],))


def _code(report: Report) -> str | None:
    """How the adapter is loaded; None where there is none."""
    if not (report.train and report.fetch):
        return None
    base, commit = base_model_id(report.fetch), base_model_commit(report.fetch)
    return load_with_peft(base, commit=commit, in_4bit=bool(report.train["quantization"]))


def _serving(report: Report) -> str | None:
    """How vLLM serves it; None where there is no adapter, or a base that only the appliance has."""
    if not (report.train and report.fetch and report.rank) or base_model_id(report.fetch) == DEMO:
        return None
    base, commit = base_model_id(report.fetch), base_model_commit(report.fetch)
    return serve_with_vllm(base, commit=commit, name=slug(report.job.name), rank=report.rank)
