"""`report.html`: everything worth knowing about one job on one self-contained page, the verdict first. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from appliance.job import Job
from appliance.pages import render

# A JSON object as a stage left it.
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A drawing inside the page: `svg` is the mark-up we drew ourselves, `summary` says the same in words."""

    title: str
    summary: str
    svg: str


@dataclass(frozen=True)
class Report:
    """One finished job, or a dry run: then there is neither `train` nor `evaluation`, and there are no figures.

    `labels`, `plan`, `check`, `fetch`, `train` and `evaluation` are the objects of the files of that name (`eval.json`
    for the last); `samples` those of verify/samples.jsonl, `evals` the `eval` events of train/progress.jsonl. `figures`
    come from plots.training_figures. Without a
    `zone`, times are the machine's own.
    """

    job: Job
    finished: float
    recipe_yaml: str
    labels: Facts
    labels_text: str
    plan: Facts
    check: Facts | None = None
    fetch: Facts | None = None
    train: Facts | None = None
    evaluation: Facts | None = None
    samples: Sequence[Facts] = ()
    evals: Sequence[Facts] = ()
    figures: Sequence[Figure] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    zone: tzinfo | None = None


def render_report(report: Report) -> str:
    """The text of `report.html`."""
    return render("report.html.j2", {"report": report})
