"""What the stages leave of a job that ended well, small enough to write by hand, and true to their form."""

from dataclasses import replace
from functools import cache

from appliance.job import DroppedFile, Job, JobState, Role
from appliance.recipe import Recipe
from appliance.recipe_yaml import recipe_as_yaml
from appliance.texts.model_card import Card
from appliance.texts.plots import training_figures
from appliance.texts.report import Figure, Report

RECIPE = Recipe(base_model="Qwen/Qwen3-8B", learning_rate=2e-4)
COMMIT = "b968826d9c46dd6066d109eabc6255188de91218"
SHA256 = "58f0a67e9f71d7e4cec9250cea6c0ce1e98ae4ff89b8c2b4bf281d632dc4531e"
VERSIONS = {"appliance": "0.1.0", "torch": "2.13.0", "peft": "0.21.2"}

CHECK = {
    "format": "messages",
    "type": "conversational",
    "dataset": "support.jsonl",
    "dataset_sha256": SHA256,
    "rows": 500,
    "eval_rows": None,
    "warnings": [],
    "notes": [],
}
FETCH = {"base_model": "Qwen/Qwen3-8B", "base_model_loaded": "Qwen/Qwen3-8B", "base_model_commit": COMMIT}
LABELS = {
    "rows_in": 500,
    "rows_kept": 497,
    "rows_truncated": 0,
    "rows_dropped": {"over_long": 3},
    "rows_held_out": 50,
    "duplicate_rows": 2,
    "leaked_rows": 0,
    "tokens_total": 61_393,
    "tokens_trained": 22_911,
    "tokens_p50": 123,
    "tokens_p95": 134,
    "tokens_max": 142,
    "histogram": [
        {"from": 100, "to": 109, "rows": 20},
        {"from": 110, "to": 119, "rows": 170},
        {"from": 120, "to": 129, "rows": 260},
        {"from": 130, "to": 139, "rows": 46},
        {"from": 140, "to": 142, "rows": 1},
    ],
}
LABELS_TEXT = """\
The first rows, exactly as the model sees them.

──── row 1: 12 tokens, 5 trained ────
<|im_start|>user
Where is it?<|im_end|>
<|im_start|>assistant
⟦On its way.<|im_end|>⟧

──── row 2: 9 tokens, 3 trained ────
<|im_start|>user
Thanks<|im_end|>
⟦Welcome.<|im_end|>⟧
"""
PLAN = {
    "fits": True,
    "total_steps": 20,
    "seconds_estimate": 90.0,
    "tokens_per_second_estimate": 989.4,
    "machine_kind": "gpu",
    "notes": ["packing is off: without variable-length attention, packed examples would see each other"],
    "memory": {
        "weights_bytes": 5_000_000_000,
        "adapter_bytes": 300_000_000,
        "optimizer_bytes": 90_000_000,
        "activations_bytes": 2_000_000_000,
        "logits_bytes": 600_000_000,
        "overhead_bytes": 1_500_000_000,
        "total_bytes": 9_490_000_000,
    },
}
TRAIN = {
    "steps": 20,
    "epochs": 1.0,
    "adapter_step": 20,
    "best_step": 20,
    "best_loss": 2.2,
    "stopped_early": False,
    "content_tokens": 19_799,
    "seconds": 103.6,
    "tokens_per_second": 191.1,
    "peak_memory_bytes": 4_000_000_000,
    "peak_cuda_reserved_bytes": 8_800_000_000,
    "trainable_parameters": 43_646_976,
    "quantization": {"load_in_4bit": True},
    "adapter": {"adapter_model.safetensors": {"bytes": 1_252_376, "sha256": "d834" + "0" * 60}},
}
EVALUATION = {
    "verdict": "improved",
    "reasons": ["the loss on 50 held-out rows changed by -4.1355 (-4.2045 to -4.0694)"],
    "warnings": [],
    "base_loss": 6.2490,
    "tuned_loss": 2.1135,
    "difference": -4.1355,
    "interval": [-4.2045, -4.0694],
    "held_out_rows": 50,
    "held_out_tokens": 2_308,
    "general_base_loss": 3.169,
    "general_tuned_loss": 3.135,
    "stop_rate_base": 0.25,
    "stop_rate_tuned": 1.0,
}
SAMPLE = {
    "row": 40,
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}],
    "answer": "On its way.",
    "base": "Dear customer, it",
    "tuned": "On its way!",
    "base_stopped": False,
    "tuned_stopped": True,
}


def step_events(count: int) -> list[dict]:
    """`step` events of a loss that falls, two a second, 1,000 tokens each."""
    return [
        {
            "event": "step",
            "step": step,
            "loss": 0.5 + 5 / step + 0.1 * (step % 3),
            "learning_rate": 2e-4 * (1 - step / (count + 1)),
            "content_tokens": 1_000 * step,
            "seconds": 0.5,
            "memory_bytes": 4_000_000_000 + step,
            "cuda_reserved_bytes": 8_000_000_000,
        }
        for step in range(1, count + 1)
    ]


def eval_events(*losses: float, every: int = 10) -> list[dict]:
    return [
        {"event": "eval", "step": every * number, "loss": loss, "rows": 50} for number, loss in enumerate(losses, 1)
    ]


EVALS = eval_events(2.4, 2.2)


@cache
def _figures() -> tuple[Figure, ...]:
    return training_figures(step_events(20), EVALS)


def finished_job(**changes) -> Job:
    file = DroppedFile("support.jsonl", Role.DATASET, "dropped/support.jsonl", 59_000, SHA256, "inbox", 1, 2, 3)
    job = Job(7, "0007-support", "0" * 32, "support", JobState.SUCCEEDED, 1_790_000_000.0, files=(file,))
    return replace(job, **changes)


def finished_report(**changes) -> Report:
    report = Report(
        job=finished_job(),
        finished=1_790_000_300.0,
        recipe_yaml=recipe_as_yaml(RECIPE),
        labels=LABELS,
        labels_text=LABELS_TEXT,
        plan=PLAN,
        check=CHECK,
        fetch=FETCH,
        train=TRAIN,
        evaluation=EVALUATION,
        samples=(SAMPLE,),
        evals=EVALS,
        figures=_figures(),
        versions=VERSIONS,
        rank=16,
    )
    return replace(report, **changes)


def checked_report(**changes) -> Report:
    """The report of a dry run."""
    nothing = {"train": None, "evaluation": None, "samples": (), "evals": (), "figures": ()}
    return finished_report(**nothing | changes)


def finished_card(**changes) -> Card:
    card = Card(
        name="support",
        recipe=RECIPE,
        recipe_yaml=recipe_as_yaml(RECIPE),
        check=CHECK,
        fetch=FETCH,
        labels=LABELS,
        train=TRAIN,
        evaluation=EVALUATION,
        versions=VERSIONS,
    )
    return replace(card, **changes)
