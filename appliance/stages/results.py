"""What a result in the outbox holds, for each way that a job can end."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from appliance import __version__
from appliance.errors import Problem
from appliance.files import sha256_of, write_json, write_whole
from appliance.job import FailureClass, Job, Outcome, Stage
from appliance.job_dir import JobDir
from appliance.names import printable
from appliance.progress import last_of_each_step, parse_lines
from appliance.recipe import Recipe
from appliance.revision import version_and_commit
from appliance.stages.training.checkpoints import (
    ADAPTER_FILES,
    COMPLETE,
    assemble_adapter,
    complete_checkpoints,
    is_unreadable,
    newest_good_checkpoint,
)
from appliance.texts.model_card import Card, model_card
from appliance.texts.plots import loss_png, training_figures
from appliance.texts.report import Report, render_report
from appliance.texts.why import Why, why_html, why_markdown

LOG_LINES: Final = 400
# Copied as the stages left them: the result's name, and where it lies in the job directory.
OF_PREPARE: Final = {
    "labels.json": "prepare/labels.json",
    "labels.txt": "prepare/labels.txt",
    "plan.json": "prepare/plan.json",
}
OF_VERIFY: Final = {"eval.json": "verify/eval.json", "samples.jsonl": "verify/samples.jsonl"}
OF_CHECK: Final = {"recipe.yaml": "check/recipe.yaml"}


@dataclass(frozen=True)
class Ending:
    """A job that is about to end, and what is known of how."""

    job: Job
    dir: JobDir
    outcome: Outcome
    facts: Mapping[str, Any]
    finished: float
    with_dataset: bool

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The dropped files that are gone from the job directory: what is left is given back without them."""
        return tuple(file.name for file in self.job.files if not (self.dir.path / file.path).exists())

    def json(self, path: str) -> Any:  # noqa: ANN401
        """A JSON file of the job directory, or None when no stage got as far as writing it."""
        try:
            return json.loads((self.dir.path / path).read_text())
        except FileNotFoundError:
            return None

    def text(self, path: str) -> str:
        try:
            return (self.dir.path / path).read_text()
        except FileNotFoundError:
            return ""

    def events(self) -> list[dict[str, Any]]:
        """Everything that the training reported."""
        return parse_lines(self.text("train/progress.jsonl"))


def fill(staging: Path, ending: Ending) -> None:
    """Write the files of a result into an empty directory."""
    match ending.outcome:
        case Outcome.SUCCEEDED:
            _fill_success(staging, ending)
        case Outcome.CHECKED:
            _fill_dry_run(staging, ending)
        case _:
            _fill_refusal(staging, ending)
    if ending.with_dataset or ending.outcome is not Outcome.SUCCEEDED:
        _return_dropped(staging, ending)


def manifest_facts(ending: Ending) -> dict[str, Any]:
    """The fields of `manifest.json` besides the files."""
    job = ending.job
    check, fetch = ending.json("check/result.json") or {}, ending.json("fetch/result.json") or {}
    train = ending.json("train/result.json") or {}
    return {
        "job": job.id,
        "job_uuid": job.uuid,
        "installation": job.installation,
        "outcome": ending.outcome,
        "base_model": check.get("base_model"),
        "base_model_loaded": fetch.get("base_model_loaded"),
        "base_model_commit": fetch.get("base_model_commit"),
        "dataset_sha256": check.get("dataset_sha256"),
        "rows": check.get("rows"),
        "dropped_by": list(job.dropped_by),
        "versions": versions(train),
        "started": job.started,
        "finished": ending.finished,
        "tokens": train.get("content_tokens"),
        "tokens_per_second": train.get("tokens_per_second"),
        "attempts": job.trainings,
    }


def versions(train: Mapping[str, Any]) -> dict[str, str]:
    """The appliance's version and those of the libraries that trained."""
    return {"appliance": version_and_commit(), **train.get("versions", {})}


def _fill_success(staging: Path, ending: Ending) -> None:
    _copy(staging, ending, OF_PREPARE | OF_VERIFY | OF_CHECK)
    shutil.copytree(ending.dir.path / "train" / "adapter", staging / "adapter")
    write_whole(staging / "adapter" / "README.md", model_card(_card(ending)))
    job = ending.job
    write_json(
        staging / "adapter" / "appliance.json",
        {"installation": job.installation, "job": job.id, "job_uuid": job.uuid, "appliance": __version__},
    )
    events = ending.events()
    steps, evals = last_of_each_step(events), _last_of_each_eval(events)
    write_whole(staging / "metrics.jsonl", "".join(json.dumps(event) + "\n" for event in _by_step(steps, evals)))
    write_whole(staging / "loss.png", loss_png(steps, evals))
    write_whole(staging / "report.html", render_report(_report(ending, steps, evals)))


def _fill_dry_run(staging: Path, ending: Ending) -> None:
    _copy(staging, ending, OF_PREPARE | OF_CHECK)
    write_whole(staging / "report.html", render_report(_report(ending, [], [])))
    warnings = [*(ending.json("check/result.json") or {}).get("warnings", [])]
    warnings += (ending.json("prepare/result.json") or {}).get("warnings", [])
    write_json(staging / "problems.json", warnings)


def _fill_refusal(staging: Path, ending: Ending) -> None:
    """Rejected, failed or cancelled: why, and what there is to save."""
    stage = Stage(ending.facts["stage"]) if ending.facts["stage"] else None
    problems = tuple(ending.dir.problems(stage)) if stage and ending.outcome is Outcome.REJECTED else ()
    if ending.outcome is Outcome.REJECTED:
        write_json(staging / "problems.json", [problem.as_json() for problem in problems])
    has_log = ending.outcome is Outcome.FAILED and stage is not None and _save_log(staging, ending, stage)
    why = _why(ending, stage, problems, has_adapter=_save_adapter(staging, ending), has_log=has_log)
    write_whole(staging / "WHY.md", why_markdown(why))
    write_whole(staging / "WHY.html", why_html(why))


def _why(
    ending: Ending, stage: Stage | None, problems: tuple[Problem, ...], *, has_adapter: bool, has_log: bool
) -> Why:
    facts = ending.facts
    return Why(
        job_id=ending.job.id,
        name=ending.job.name,
        outcome=ending.outcome,
        finished=ending.finished,
        stage=stage,
        failure=FailureClass(facts["failure"]) if facts["failure"] else None,
        message=facts["message"],
        hint=facts["hint"],
        problems=problems,
        files=tuple(file.name for file in ending.job.files if file.name not in ending.missing),
        missing=ending.missing,
        renamed=dict(_renamed(ending.job)),
        has_adapter=has_adapter,
        adapter_lost=not has_adapter and _had_adapter(ending),
        log_tail=has_log,
        attempts=ending.job.attempt,
    )


def _renamed(job: Job) -> Iterator[tuple[str, str]]:
    for file in job.files:
        called = printable(PurePosixPath(file.source).name)
        if called not in ("", file.name):
            yield file.name, called


def _save_adapter(staging: Path, ending: Ending) -> bool:
    """The adapter of the last good checkpoint, if the training got that far and the disk gives it back."""
    checkpoint = newest_good_checkpoint(ending.dir.path / "train" / "checkpoints")
    if checkpoint is None:
        return False
    tokenizer = ending.dir.path / "prepare" / "tokenizer"
    try:
        assemble_adapter(checkpoint, tokenizer, staging / "adapter")
    except OSError as error:
        # It may be the outbox that refuses: that is tried again.
        if not is_unreadable(error) or (checkpoint.is_undamaged(ADAPTER_FILES) and _can_be_read(tokenizer)):
            raise
        # Whatever became of it, the dropped files go back.
        shutil.rmtree(staging / ".adapter.partial", ignore_errors=True)
        return False
    return True


def _can_be_read(folder: Path) -> bool:
    try:
        return all(sha256_of(path) for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        return not is_unreadable(error)


def _had_adapter(ending: Ending) -> bool:
    """Whether the training had written a checkpoint to give back: one with numbers in it, or one that says nothing."""
    checkpoints = ending.dir.path / "train" / "checkpoints"
    try:
        complete = complete_checkpoints(checkpoints)
        return len(complete) < len(list(checkpoints.glob(f"step-*/{COMPLETE}"))) or any(c.is_finite for c in complete)
    except OSError:
        return True


def _save_log(staging: Path, ending: Ending, stage: Stage) -> bool:
    lines = ending.text(f"{stage}/stage.log").splitlines(keepends=True)
    if lines:
        write_whole(staging / "worker.log", "".join(lines[-LOG_LINES:]))
    return bool(lines)


def _return_dropped(staging: Path, ending: Ending) -> None:
    folder = staging / "dropped"
    folder.mkdir()
    for file in (file for file in ending.job.files if file.name not in ending.missing):
        shutil.copyfile(ending.dir.path / file.path, folder / file.name)


def _copy(staging: Path, ending: Ending, names: Mapping[str, str]) -> None:
    for name, source in names.items():
        shutil.copyfile(ending.dir.path / source, staging / name)


def _card(ending: Ending) -> Card:
    train = ending.json("train/result.json")
    return Card(
        name=ending.job.name,
        recipe=Recipe.model_validate(ending.json("check/recipe.json")),
        recipe_yaml=ending.text("check/recipe.yaml"),
        check=ending.json("check/result.json"),
        fetch=ending.json("fetch/result.json"),
        labels=ending.json("prepare/labels.json"),
        train=train,
        evaluation=ending.json("verify/eval.json"),
        versions=versions(train),
    )


def _report(ending: Ending, steps: list[Mapping[str, Any]], evals: list[Mapping[str, Any]]) -> Report:
    train = ending.json("train/result.json")
    samples = [json.loads(line) for line in ending.text("verify/samples.jsonl").split("\n") if line]
    recipe = ending.json("check/recipe.json") or {}
    return Report(
        job=ending.job,
        finished=ending.finished,
        recipe_yaml=ending.text("check/recipe.yaml"),
        labels=ending.json("prepare/labels.json"),
        labels_text=ending.text("prepare/labels.txt"),
        plan=ending.json("prepare/plan.json"),
        check=ending.json("check/result.json"),
        fetch=ending.json("fetch/result.json"),
        prepare=ending.json("prepare/result.json"),
        train=train,
        evaluation=ending.json("verify/eval.json"),
        samples=samples,
        evals=evals,
        figures=training_figures(steps, evals) if steps else (),
        versions=versions(train or {}),
        rank=recipe.get("lora", {}).get("r"),
        missing=ending.missing if ending.with_dataset else (),
    )


def _last_of_each_eval(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    by_step = {event["step"]: event for event in events if event["event"] == "eval"}
    return [by_step[step] for step in sorted(by_step)]


def _by_step(steps: list[Mapping[str, Any]], evals: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Step and held-out events together, each held-out event after its step."""
    return sorted([*steps, *evals], key=lambda event: (event["step"], event["event"] != "step"))
