"""Judge the adapter from its files: does it work, does it fit the held-out rows better than the base, does it stop?"""

import json
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from appliance.errors import StageFailure
from appliance.files import write_json, write_whole
from appliance.job import Verdict
from appliance.job_dir import ProgressWriter
from appliance.stages.training.evaluate import Row, both_losses, broken, check_files, load_tuned_model, read_rows
from appliance.stages.training.generation import Answer, Prompt, answers, read_prompts, stop_rate
from appliance.stages.training.prepared import Prepared
from appliance.stages.training.verdict import Comparison, RowLoss, compare, has_forgotten, judge

GENERAL_TEXT = Path(__file__).with_name("general_text.txt")
FEWEST_SECONDS = 300.0
SHARE_OF_TRAINING = 0.05
# Of the time there is; the rest is for the samples.
SHARE_FOR_ROWS = 0.6
PROGRESS_SECONDS = 0.25
HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True)
class GeneralText:
    """The mean loss on text that has nothing to do with the dataset."""

    base_loss: float
    tuned_loss: float


@dataclass(frozen=True)
class Samples:
    """How many of the sampled answers came to an end; None where that would not mean anything."""

    stop_rate_base: float | None = None
    stop_rate_tuned: float | None = None


def verify(folder: Path, prepared: Prepared, adapter: Path, trained: dict[str, Any]) -> dict[str, Any]:
    """Compare base and tuned model, write `eval.json`, `rows.jsonl` and `samples.jsonl`, return the stage's result.

    Raises broken_adapter, with that verdict in `eval.json`, for an adapter that must not be published.
    """
    try:
        return _verify(folder, prepared, adapter, trained)
    except StageFailure as failure:
        write_json(folder / "eval.json", _evaluation(Verdict.BROKEN, failure.message))
        raise


def _verify(folder: Path, prepared: Prepared, adapter: Path, trained: dict[str, Any]) -> dict[str, Any]:
    check_files(adapter, trained["adapter"])
    model = load_tuned_model(prepared.base, adapter, trained)
    began = time.monotonic()
    seconds = max(FEWEST_SECONDS, trained["seconds"] * SHARE_OF_TRAINING)
    tokenizer = AutoTokenizer.from_pretrained(adapter)

    ids = tokenizer.encode(GENERAL_TEXT.read_text())
    general = score_general_text(model, ids, must_change=was_to_change(prepared, trained))
    rows = score_held_out_rows(folder, model, prepared, until=began + seconds * SHARE_FOR_ROWS)
    comparison = compare(rows) if rows else None
    samples = take_samples(folder, model, tokenizer, prepared, until=began + seconds)

    verdict, reason = judge(comparison)
    evaluation = _evaluation(verdict, reason, comparison, general, samples)
    if prepared.eval_rows is None and prepared.recipe.early_stopping_patience:
        evaluation["warnings"].append("without held-out rows, early_stopping_patience had nothing to go by")
    if len(rows) < prepared.facts["eval_rows"]:
        evaluation["warnings"].append(f"there was time for {len(rows)} of {prepared.facts['eval_rows']} held-out rows")
    write_json(folder / "eval.json", evaluation)
    return evaluation | {"seconds": time.monotonic() - began}


def was_to_change(prepared: Prepared, trained: dict[str, Any]) -> bool:
    """Whether the adapter took a step at a learning rate above zero; a warm-up's first step is taken at zero."""
    idle_steps = 1 if prepared.plan.warmup_steps else 0
    return prepared.recipe.learning_rate > 0 and bool(trained["adapter_step"] > idle_steps)


def score_general_text(model: PeftModel, ids: list[int], *, must_change: bool) -> GeneralText:
    """Losses on the project's own text. Raises broken_adapter when the adapter yields no numbers or changes nothing."""
    base, tuned = both_losses(model, ids, ids)
    if not torch.isfinite(base + tuned).all():
        raise broken("with it the model's loss is not a number")
    if must_change and torch.equal(base, tuned):
        raise broken("it changes nothing: base and tuned model agree to the last bit")
    return GeneralText(base.mean().item(), tuned.mean().item())


def score_held_out_rows(folder: Path, model: PeftModel, prepared: Prepared, *, until: float) -> list[RowLoss]:
    """The losses of as many held-out rows as the time allows, also written to `rows.jsonl`."""
    if prepared.eval_rows is None:
        return []
    rows: list[RowLoss] = []
    reported = 0.0
    with closing(ProgressWriter(folder)) as progress:
        for row in read_rows(prepared.eval_rows):
            rows.append(score_row(model, row))
            now = time.monotonic()
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                progress.write("progress", done=len(rows), total=prepared.facts["eval_rows"], unit="rows")
            if now > until:
                break
    write_whole(folder / "rows.jsonl", _lines(asdict(row) for row in rows))
    return rows


def score_row(model: PeftModel, row: Row) -> RowLoss:
    """The losses of one row. Raises broken_adapter when they are not numbers."""
    base, tuned = both_losses(model, row.input_ids, row.labels)
    if not torch.isfinite(base + tuned).all():
        raise broken(f"with it the loss of held-out row {row.row} is not a number")
    return RowLoss(row.row, len(base), base.sum().item(), tuned.sum().item())


class Heartbeat:
    """Tells who watches for stalls that answers are being written, at most once a second."""

    def __init__(self, progress: ProgressWriter) -> None:
        self._progress = progress
        self._last = float("-inf")

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= HEARTBEAT_SECONDS:
            self._last = now
            self._progress.write("sampling")


def take_samples(
    folder: Path, model: PeftModel, tokenizer: PreTrainedTokenizerBase, prepared: Prepared, *, until: float
) -> Samples | None:
    """Answers of base and tuned model side by side, also written to `samples.jsonl`; None without prompts."""
    prompts, facts = read_prompts(prepared.samples), prepared.facts
    if not prompts:
        return None
    with closing(ProgressWriter(folder)) as progress:
        answer = partial(
            answers,
            model,
            tokenizer,
            prompts,
            stop_token_ids=facts["stop_token_ids"],
            pad_token_id=facts["pad_token_id"],
            answer_tokens_p95=facts["answer_tokens_p95"],
            max_seconds=(until - time.monotonic()) / 2,
            show_life=Heartbeat(progress).beat,
        )
        with model.disable_adapter():
            base = answer()
        tuned = answer()
    write_whole(folder / "samples.jsonl", _lines(map(_side_by_side, prompts, base, tuned)))

    rates = stop_rate(base), stop_rate(tuned)
    # A text has no end that the model was asked to find, and one rate says nothing without the other.
    return Samples() if facts["type"] == "text" or None in rates else Samples(*rates)


def _side_by_side(prompt: Prompt, base: Answer, tuned: Answer) -> dict[str, Any]:
    return {
        "row": prompt.entry["row"],
        "messages": prompt.entry["messages"],
        "answer": prompt.entry["answer"],
        "base": base.text,
        "tuned": tuned.text,
        "base_stopped": base.stopped,
        "tuned_stopped": tuned.stopped,
    }


def _evaluation(
    verdict: Verdict,
    reason: str,
    comparison: Comparison | None = None,
    general: GeneralText | None = None,
    samples: Samples | None = None,
) -> dict[str, Any]:
    """The object of `eval.json`; what was not measured is null."""
    samples = samples or Samples()
    return {
        "verdict": verdict,
        "reasons": [reason],
        "warnings": _warnings(general, samples),
        "base_loss": comparison and comparison.base_loss,
        "tuned_loss": comparison and comparison.tuned_loss,
        "difference": comparison and comparison.difference,
        "interval": comparison and list(comparison.interval),
        "held_out_rows": comparison.rows if comparison else 0,
        "held_out_tokens": comparison.tokens if comparison else 0,
        "general_base_loss": general and general.base_loss,
        "general_tuned_loss": general and general.tuned_loss,
        "stop_rate_base": samples.stop_rate_base,
        "stop_rate_tuned": samples.stop_rate_tuned,
    }


def _warnings(general: GeneralText | None, samples: Samples) -> list[str]:
    warnings = []
    if general and has_forgotten(general.base_loss, general.tuned_loss):
        warnings.append(
            f"forgetting: on a general English text the loss rose from {general.base_loss:.3f} "
            f"to {general.tuned_loss:.3f}; fewer epochs or a lower learning_rate keep more of what the base knew"
        )
    if samples.stop_rate_tuned == 0:
        warnings.append("no sample of the tuned model came to an end; look at labels.txt for its stop token")
    return warnings


def _lines(entries: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
