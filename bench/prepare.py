"""What labelling costs: the appliance's prepare against TRL's own dataset preparation, same rows, same model.

    python bench/prepare.py [--rows 20000] [--rounds 3] [--json bench/results/prepare.json]

TRL prepares as `SFTTrainer` does for completion-only training, with `dataset_num_proc` None and 2; the better one
counts. Every run is a process of its own; they take turns. Timed is the work alone: for TRL its `_prepare_dataset` on
rows that are loaded already, for the appliance all of `label_dataset`, reading, proving, splitting and writing
included. Loading libraries is outside for both; so are tokenizer and model for TRL, while the appliance's tokenizer is
inside. Then a whole prepare stage is run twice on one dataset: the second finds the first one's labels. Ends with 1
when a bound is missed.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from conditions import conditions
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
DEMO = Path(str(files("appliance"))) / "demo"
SLOWEST_RATIO = 2.0
# How much higher the peak is than with a quarter of the rows: a few numbers a row are kept, its tokens are not.
MOST_GROWTH_MB = 30
SIDES = ("appliance", "trl", "trl, 2 processes")
PACKAGES = ("transformers", "tokenizers", "trl", "datasets", "pyarrow", "torch")
CREATED = 1_790_000_000.0
CAP = 8192


def main() -> None:
    """Measure, print the medians, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="prepare-") as folder:
        figures = compare(Path(folder), arguments.rows, arguments.rounds)
    Console(stderr=True).print(table(figures))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(text + "\n")
    sys.exit(0 if figures["holds"] else 1)


def compare(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    write_rows(folder / "all", rows)
    write_rows(folder / "quarter", rows // 4)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in track(range(rounds), "measuring", console=Console(stderr=True)):
        # The other way round every other time: whatever drifts on this machine drifts for all.
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            runs[side].append(run_side(side, folder / "all"))
    few = run_side("appliance", folder / "quarter")
    return summarise(runs, few) | {"repeat": repeat(folder, rows), "rows": rows, **conditions(*PACKAGES)}


def write_rows(folder: Path, count: int) -> None:
    """Distinct conversations of one to four tickets each, as `check` leaves them and as TRL documents them."""
    folder.mkdir()
    random = Random(3407)
    tickets = [json.loads(line)["messages"] for line in (DEMO / "support-tickets.jsonl").read_text().splitlines()]
    with (folder / "rows.jsonl").open("w") as ours, (folder / "trl.jsonl").open("w") as theirs:
        for number in range(1, count + 1):
            chosen = random.sample(tickets, random.randint(1, 4))
            question = f"Case {number}\n\n" + "\n\n".join(ticket[1]["content"] for ticket in chosen)
            answer = "\n".join(ticket[2]["content"] for ticket in chosen)
            prompt = [chosen[0][0], {"role": "user", "content": question}]
            completion = [{"role": "assistant", "content": answer}]
            ours.write(json.dumps({"row": number, "messages": prompt + completion}) + "\n")
            theirs.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


def run_side(side: str, folder: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    began = time.monotonic()
    output = run([sys.executable, __file__, "--side", side, "--folder", str(folder)], folder)
    return json.loads(output.splitlines()[-1]) | {"process_seconds": round(time.monotonic() - began, 2)}


def run(command: list[str], folder: Path) -> str:
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "APPLIANCE_STATE": str(folder / "state"),
    }
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def measure(side: str, folder: Path) -> dict[str, Any]:
    """Prepare the rows in `folder` in this process."""
    if side == "appliance":
        return measure_appliance(folder)
    return measure_trl(folder, processes=2 if "2" in side else None)


def measure_appliance(folder: Path) -> dict[str, Any]:
    from appliance.recipe import Recipe
    from appliance.stages.training.labels.tokenizer import hide_torch

    hide_torch()
    # The loader imports it when it is called.
    from transformers import AutoTokenizer  # noqa: F401

    from appliance.stages.training.labels.dataset import Request, label_dataset

    target = folder / "labels"
    target.mkdir()
    request = Request(
        recipe=Recipe(base_model="demo", eval_fraction=0),
        name="rows.jsonl",
        conversational=True,
        rows=folder / "rows.jsonl",
        held_out=None,
        model=DEMO / "model",
        created=CREATED,
        cap=CAP,
        folder=target,
    )
    began, worked = time.monotonic(), processor_seconds()
    facts = label_dataset(request, lambda rows, tokens: None)
    seconds, worked = time.monotonic() - began, processor_seconds() - worked
    shutil.rmtree(target)
    return figures_of(seconds, worked, facts["tokens_total"], facts["tokens_trained"])


def measure_trl(folder: Path, *, processes: int | None) -> dict[str, Any]:
    from datasets import Dataset, disable_caching, disable_progress_bars, load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    disable_caching()
    disable_progress_bars()
    timed: list[tuple[float, float]] = []

    class TimedTrainer(SFTTrainer):
        def _prepare_dataset(self, *given: object, **named: object) -> Dataset:
            began, worked = time.monotonic(), processor_seconds()
            prepared = super()._prepare_dataset(*given, **named)
            timed.append((time.monotonic() - began, processor_seconds() - worked))
            return prepared

    rows = load_dataset("json", data_files=str(folder / "trl.jsonl"), split="train")
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        completion_only_loss=True,
        dataset_num_proc=processes,
        max_length=CAP,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    model = AutoModelForCausalLM.from_pretrained(DEMO / "model")
    trainer = TimedTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    labels = trainer.train_dataset.with_format("arrow")["labels"].combine_chunks().flatten().to_numpy()
    return figures_of(*timed[0], len(labels), int((labels != -100).sum()))


def figures_of(seconds: float, worked: float, tokens: int, trained: int) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(worked, 2),
        "tokens": tokens,
        "trained": trained,
        "tokens_per_second": round(tokens / seconds),
        "peak_mb": round(peak_bytes() / 1e6, 1),
    }


def processor_seconds() -> float:
    """What this process and its finished children have computed, on all cores together."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_bytes() -> int:
    """The most memory this process and the largest of its children have had."""
    return 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def summarise(runs: dict[str, list[dict[str, Any]]], few: dict[str, Any]) -> dict[str, Any]:
    medians = {side: statistics.median(run["tokens_per_second"] for run in runs[side]) for side in SIDES}
    best = max(SIDES[1:], key=medians.__getitem__)
    ratio = medians["appliance"] / medians[best]
    growth = max(run["peak_mb"] for run in runs["appliance"]) - few["peak_mb"]
    counts = {side: sorted({(run["tokens"], run["trained"]) for run in runs[side]}) for side in SIDES}
    return {
        "holds": ratio >= SLOWEST_RATIO and growth <= MOST_GROWTH_MB,
        "ratio": round(ratio, 2),
        "best_of_trl": best,
        "tokens_per_second": {side: round(median) for side, median in medians.items()},
        "tokens_and_trained": counts,
        "peak_growth_from_a_quarter_of_the_rows_mb": round(growth, 1),
        "runs": runs,
        "quarter": few,
    }


def repeat(folder: Path, rows: int) -> dict[str, Any]:
    """The whole stage, process start included, the first time and with another learning rate."""
    dataset = (folder / "all" / "trl.jsonl").read_bytes()
    return {
        name: stage_seconds(folder, number, dataset, rate)
        for number, (name, rate) in enumerate((("first", "2e-4"), ("repeat", "1e-4")), start=1)
    }


def stage_seconds(folder: Path, number: int, dataset: bytes, rate: str) -> float:
    from appliance.job import DroppedFile, Job, JobState, Role, Stage
    from appliance.job_dir import JobDir

    path = folder / f"{number:04d}-bench"
    (path / "dropped").mkdir(parents=True)
    recipe = f"base_model: demo\nlearning_rate: {rate}\n".encode()
    dropped = []
    for name, role, content in (("bench.jsonl", Role.DATASET, dataset), ("bench.yaml", Role.RECIPE, recipe)):
        (path / "dropped" / name).write_bytes(content)
        digest = sha256(content).hexdigest()
        dropped.append(DroppedFile(name, role, f"dropped/{name}", len(content), digest, name, 0, 0, 0))
    job = Job(number, path.name, "bench", name="bench", state=JobState.QUEUED, created=CREATED, files=tuple(dropped))
    JobDir(path).write_job(job)
    for stage in (Stage.CHECK, Stage.FETCH):
        run([sys.executable, "-m", "appliance.stages", stage, str(path)], folder)
    began = time.monotonic()
    run([sys.executable, "-m", "appliance.stages", Stage.PREPARE, str(path)], folder)
    return round(time.monotonic() - began, 2)


def table(figures: dict[str, Any]) -> Table:
    title = f"{figures['ratio']} times as fast as {figures['best_of_trl']}"
    shown = Table("", "tokens per second", "seconds", "processor seconds", "peak MB", title=title)
    for side in SIDES:
        runs = figures["runs"][side]
        middle = [statistics.median(run[key] for run in runs) for key in ("seconds", "processor_seconds", "peak_mb")]
        shown.add_row(side, f"{figures['tokens_per_second'][side]:,}", *(f"{value:,.1f}" for value in middle))
    return shown


if __name__ == "__main__":
    main()
