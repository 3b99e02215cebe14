"""What the appliance costs: its train stage against a bare Unsloth script, same rows, same seed, same numbers.

    python bench/overhead.py [--pairs 7] [--steps 200] [--json bench/results/overhead.json]

Runs both in alternating pairs, each in a process of its own, and compares steps per second (from the end of the first
step to the end of the last) and the time from the start of the process to the end of the first step. The bare script
(bench/bare_unsloth.py) gets rows that are tokenised already. Ends with 1 when a median misses its bound.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conditions import conditions
from demo_job import numbers, prepared_job, run, run_stage
from rich.console import Console
from rich.progress import track
from rich.table import Table

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.progress import last_of_each_step, parse_lines

BARE = Path(__file__).with_name("bare_unsloth.py")
PACKAGES = ("unsloth", "torch", "transformers", "trl", "peft", "bitsandbytes")
SLOWEST_RATE = 0.97
LATEST_START = 1.1


@dataclass(frozen=True)
class Timing:
    """One run: how fast it stepped, and how long until the first step was done."""

    steps_per_second: float
    seconds_to_first_step: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """A ratio, appliance over bare script, over all pairs."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, ratios: list[float]) -> "Spread":
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.lowest:.3f} to {self.highest:.3f})"


@dataclass(frozen=True)
class Pair:
    """One run of each, one right after the other."""

    appliance: Timing
    bare: Timing


def main() -> None:
    """Measure, print the medians, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        # No held-out rows: the script has none.
        recipe = f"base_model: demo\nlearning_rate: 2e-3\neval_fraction: 0\nmax_steps: {arguments.steps}\n"
        job = prepared_job(Path(folder), "overhead", recipe)
        # The first pair warms the page cache and is thrown away.
        runs = track(range(arguments.pairs + 1), "measuring", console=console)
        pairs = [measure_pair(job, Path(folder), number) for number in runs][1:]
    figures = summarise(pairs) | {"steps": arguments.steps, **conditions(*PACKAGES)}
    console.print(table(figures))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    sys.exit(0 if figures["holds"] else 1)


def measure_pair(job: JobDir, folder: Path, number: int) -> Pair:
    """Both, the other one first every other time: whatever drifts on this machine drifts for both."""
    if number % 2:
        bare = measure_bare_script(job, folder, number)
        return Pair(measure_appliance(job, folder, number), bare)
    return Pair(measure_appliance(job, folder, number), measure_bare_script(job, folder, number))


def measure_appliance(prepared: JobDir, folder: Path, number: int) -> Timing:
    path = folder / f"appliance-{number}"
    shutil.copytree(prepared.path, path)
    began = time.time()
    run_stage(Stage.TRAIN, JobDir(path), folder)
    events = parse_lines((path / Stage.TRAIN / "progress.jsonl").read_text())
    return timing(began, [(event["time"], event["loss"]) for event in last_of_each_step(events)])


def measure_bare_script(prepared: JobDir, folder: Path, number: int) -> Timing:
    spec, result = folder / "spec.json", folder / f"bare-{number}.json"
    spec.write_text(json.dumps(bare_spec(prepared, folder)))
    began = time.time()
    run([sys.executable, str(BARE), str(spec), str(result)], folder)
    return timing(began, [(step["time"], step["loss"]) for step in json.loads(result.read_text())])


def bare_spec(prepared: JobDir, folder: Path) -> dict[str, Any]:
    """The numbers of recipe and plan, and where the rows are."""
    return numbers(prepared) | {
        "rows": str(prepared.path / "prepare" / "train.arrow"),
        "output": str(folder / "bare"),
    }


def timing(began: float, steps: list[tuple[float, float]]) -> Timing:
    times, losses = zip(*steps, strict=True)
    return Timing((len(times) - 1) / (times[-1] - times[0]), times[0] - began, losses)


def summarise(pairs: list[Pair]) -> dict[str, Any]:
    """Ratios of each pair and their spread, and how far the losses of the two are apart."""
    rate = Spread.of([pair.appliance.steps_per_second / pair.bare.steps_per_second for pair in pairs])
    start = Spread.of([pair.appliance.seconds_to_first_step / pair.bare.seconds_to_first_step for pair in pairs])
    apart = [abs(a - b) for pair in pairs for a, b in zip(pair.appliance.losses, pair.bare.losses, strict=True)]
    return {
        "holds": rate.median >= SLOWEST_RATE and start.median <= LATEST_START,
        "steps_per_second_ratio": asdict(rate),
        "seconds_to_first_step_ratio": asdict(start),
        "steps_per_second": both(pairs, "steps_per_second"),
        "seconds_to_first_step": both(pairs, "seconds_to_first_step"),
        "mean_loss_difference": statistics.mean(apart),
        "pairs": len(pairs),
    }


def both(pairs: list[Pair], field: str) -> dict[str, list[float]]:
    sides = ("appliance", "bare")
    return {side: [round(getattr(getattr(pair, side), field), 3) for pair in pairs] for side in sides}


def table(figures: dict[str, Any]) -> Table:
    """The two medians against their bounds."""
    shown = Table("", "ratio (all pairs)", "bound", "appliance", "bare script", title="appliance against bare Unsloth")
    for name, bound in (("steps_per_second", f"at least {SLOWEST_RATE}"), ("seconds_to_first_step", "at most 1.1")):
        medians = (f"{statistics.median(figures[name][side]):.2f}" for side in ("appliance", "bare"))
        shown.add_row(name.replace("_", " "), str(Spread(**figures[f"{name}_ratio"])), bound, *medians)
    return shown


if __name__ == "__main__":
    main()
