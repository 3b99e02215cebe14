"""Does the appliance train what it says? Its train stage against QLoRA written plainly, and 4 bits against 16.

    python bench/parity.py [--steps 100] [--seed 3407] [--json bench/results/parity.json]

With the demo's model, dataset and recipe. For so many steps, loss by loss against bench/plain_reference.py
(transformers, PEFT and bitsandbytes, no Unsloth), same seed, order and schedule; the reference runs twice to show what
two runs of one script differ by, and renders, labels and counts for itself. Then the whole recipe in NF4 and in 16
bits: held-out losses are compared at its end, because on the steep part of the curve a lag of a few steps is ten
percent. Ends with 1 when a bound is missed.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from conditions import conditions
from datasets import Dataset
from demo_job import DATASET, numbers, prepared_job, run, run_stage
from rich.console import Console
from rich.table import Table

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.progress import last_of_each_step, parse_lines

PLAIN = Path(__file__).with_name("plain_reference.py")
RECIPE = DATASET.with_suffix(".yaml").read_text()
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "unsloth", "unsloth_zoo", "accelerate")
FARTHEST_LOSS = 0.005
DEAREST_QUANTISATION = 0.02


@dataclass(frozen=True)
class Training:
    """What one run says about itself: by step, loss and tokens predicted so far; then the rest.

    The held-out losses are those after each epoch, or, of the reference, at the end.
    """

    losses: list[float]
    target_tokens: list[int]
    tokens_trained: int
    held_out_losses: list[float]

    @classmethod
    def of(cls, job: JobDir) -> Self:
        """What the appliance left."""
        events = parse_lines((job.path / Stage.TRAIN / "progress.jsonl").read_text())
        steps = last_of_each_step(events)
        return cls(
            losses=[step["loss"] for step in steps],
            target_tokens=[step["target_tokens"] for step in steps],
            tokens_trained=json.loads((job.path / Stage.PREPARE / "labels.json").read_text())["tokens_trained"],
            held_out_losses=[event["loss"] for event in events if event["event"] == "eval"],
        )


@dataclass(frozen=True)
class Claim:
    """Something that was measured, and the bound it has to keep."""

    what: str
    found: str
    bound: str
    holds: bool


def main() -> None:
    """Train five times, compare, print one table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="parity-") as folder, Console(stderr=True).status("") as status:
        trainings = train_all(Path(folder), arguments.steps, arguments.seed, status.update)
    claims = list(compare(**trainings))
    Console(stderr=True).print(table(claims))
    text = lists_on_one_line(json.dumps(figures(claims, trainings), indent=2))
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(text + "\n")
    sys.exit(0 if all(claim.holds for claim in claims) else 1)


def train_all(folder: Path, steps: int, seed: int, say: Callable[[str], None]) -> dict[str, Training]:
    """One after the other: the steps by appliance and reference, the reference twice, then the whole recipe twice."""
    whole = f"{RECIPE}seed: {seed}\n"
    say("the appliance")
    job = trained_job(folder, "steps", changed(whole, "num_train_epochs: 5", f"max_steps: {steps}"))
    say("the reference")
    reference = run_reference(job, folder)
    say("the reference once more")
    repeated = run_reference(job, folder)
    say("the whole recipe, NF4")
    nf4 = trained_job(folder, "nf4", whole)
    say("the whole recipe, 16 bits")
    bf16 = trained_job(folder, "bf16", changed(whole, "load_in_4bit: true", "load_in_4bit: false"))
    return {
        "appliance": Training.of(job),
        "reference": reference,
        "repeated": repeated,
        "whole_nf4": Training.of(nf4),
        "whole_bf16": Training.of(bf16),
    }


def changed(recipe: str, line: str, other: str) -> str:
    assert line in recipe, line
    return recipe.replace(line, other)


def trained_job(folder: Path, name: str, recipe: str) -> JobDir:
    job = prepared_job(folder, name, recipe)
    run_stage(Stage.TRAIN, job, folder)
    return job


def run_reference(job: JobDir, folder: Path) -> Training:
    spec, result = folder / "spec.json", folder / "reference.json"
    spec.write_text(json.dumps(reference_spec(job, folder)))
    run([sys.executable, str(PLAIN), str(spec), str(result)], folder)
    return Training(**json.loads(result.read_text()))


def reference_spec(job: JobDir, folder: Path) -> dict[str, Any]:
    """The numbers of recipe and plan; rows as text, and how they were split."""
    prepare = job.path / Stage.PREPARE
    return numbers(job) | {
        # A CPU has no 8-bit optimizer; this is the one that took its place.
        "optim": json.loads((job.path / Stage.TRAIN / "result.json").read_text())["optim"],
        "rows": str(job.path / Stage.CHECK / "rows.jsonl"),
        "train_rows": Dataset.from_file(str(prepare / "train.arrow"))["row"][:],
        "eval_rows": Dataset.from_file(str(prepare / "eval.arrow"))["row"][:],
        "output": str(folder / "plain"),
    }


def compare(
    appliance: Training, reference: Training, repeated: Training, whole_nf4: Training, whole_bf16: Training
) -> Iterator[Claim]:
    """Every claim of the table, with what was found."""
    apart, alone = difference(appliance, reference), difference(reference, repeated)
    yield Claim(
        f"Step losses, appliance against reference: mean absolute difference over {len(appliance.losses)} steps",
        f"{apart:.5f}",
        f"at most {alone + FARTHEST_LOSS:.5f}: between two reference runs ({alone:.5f}) + {FARTHEST_LOSS}",
        apart <= alone + FARTHEST_LOSS,
    )
    nf4, bf16 = whole_nf4.held_out_losses[-1], whole_bf16.held_out_losses[-1]
    cost = nf4 / bf16 - 1
    yield Claim(
        f"Held-out loss after the whole recipe ({len(whole_nf4.losses)} steps), NF4 against 16 bits",
        f"{nf4:.4f} against {bf16:.4f} ({100 * cost:+.2f} %)",
        f"within {100 * DEAREST_QUANTISATION:g} %",
        abs(cost) <= DEAREST_QUANTISATION,
    )
    yield Claim(
        "Trained tokens in the dataset, appliance against reference",
        f"{appliance.tokens_trained:,} against {reference.tokens_trained:,}",
        "equal",
        appliance.tokens_trained == reference.tokens_trained,
    )
    pairs = list(zip(appliance.target_tokens, reference.target_tokens, strict=True))
    yield Claim(
        "Tokens predicted in training, appliance against reference",
        f"{pairs[-1][0]:,} against {pairs[-1][1]:,}, equal after {sum(a == b for a, b in pairs)} of {len(pairs)} steps",
        "equal after every step",
        all(a == b for a, b in pairs),
    )


def difference(one: Training, other: Training) -> float:
    """Mean absolute difference of the losses, step by step."""
    return statistics.fmean(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def table(claims: Sequence[Claim]) -> Table:
    """What was found, the bound beside it."""
    shown = Table("", "found", "bound", "", title="demo model, dataset and recipe")
    for claim in claims:
        shown.add_row(claim.what, claim.found, claim.bound, "holds" if claim.holds else "missed")
    return shown


def figures(claims: Sequence[Claim], trainings: dict[str, Training]) -> dict[str, Any]:
    """The claims, what they rest on, and where it was measured."""
    return {
        "holds": all(claim.holds for claim in claims),
        "claims": [asdict(claim) for claim in claims],
        "trainings": {name: asdict(training) for name, training in trainings.items()},
        "hardware": hardware(),
        **conditions(*PACKAGES),
    }


def lists_on_one_line(text: str) -> str:
    """JSON with every list of numbers on a line of its own, for readers of files and of diffs."""
    return re.sub(r"\[[\d\s.,e+-]*\]", lambda numbers: " ".join(numbers[0].split()), text)


def hardware() -> dict[str, Any]:
    cpu = torch.cpu.get_capabilities()
    return {
        "cpu": cpu.get("cpu_name"),
        "avx512_bf16": cpu.get("avx512_bf16", False),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    main()
