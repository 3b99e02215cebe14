"""How far the time estimate of a second demo job is from its real time, once a first one has shown how fast it goes.

    python bench/estimate.py [--steps 120] [--json bench/results/estimate.json]

Works on the demo's dataset with the real stages, the train stage in a process of its own each time: first half as many
steps, then, planned anew with what that one has shown, all of them. Compared is the plan's estimate with the time from
the start of the train stage to its end. Ends with 1 when the second estimate is further off than 25 %.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from conditions import conditions
from demo_job import prepared_job, run_stage
from rich.console import Console
from rich.table import Table

from appliance.job import Stage
from appliance.measurements import record_measurement
from appliance.store import DATABASE, Store

AIM = 0.25
RECIPE = "base_model: demo\nlearning_rate: 4e-3\nmax_steps: {steps}\n"


@dataclass(frozen=True)
class Trial:
    """One training: what was estimated, and what it took."""

    name: str
    steps: int
    estimated_seconds: float
    real_seconds: float
    estimated_tokens_per_second: float
    real_tokens_per_second: float

    @property
    def off(self) -> float:
        return self.estimated_seconds / self.real_seconds - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state").mkdir()
        store = Store(Path(folder) / "state" / DATABASE)
        trials = [
            train(Path(folder), store, "before anything was measured", max(2, options.steps // 2)),
            train(Path(folder), store, "after one training", options.steps),
        ]
        store.close()
    show(trials)
    if options.json:
        write(options.json, trials)
    sys.exit(abs(trials[-1].off) > AIM)


def train(folder: Path, store: Store, name: str, steps: int) -> Trial:
    """Plan and train a job; what it has shown goes into the store, where the next plan looks."""
    job = prepared_job(folder, f"job-of-{steps}", RECIPE.format(steps=steps))
    plan = json.loads(job.plan_file.read_text())
    began = time.monotonic()
    run_stage(Stage.TRAIN, job, folder)
    seconds = time.monotonic() - began
    record_measurement(store, job, now=time.time())
    trained = job.result(Stage.TRAIN)
    assert trained is not None
    return Trial(
        name=name,
        steps=steps,
        estimated_seconds=plan["seconds_estimate"],
        real_seconds=round(seconds, 1),
        estimated_tokens_per_second=plan["tokens_per_second_estimate"],
        real_tokens_per_second=round(trained["tokens_per_second"], 1),
    )


def show(trials: list[Trial]) -> None:
    table = Table(title="Estimated against real time of the train stage")
    for heading in ("", "steps", "estimate", "real", "off", "tokens/s estimated", "tokens/s real"):
        table.add_column(heading, justify="left" if not heading else "right")
    for trial in trials:
        table.add_row(
            trial.name,
            str(trial.steps),
            f"{trial.estimated_seconds:.0f} s",
            f"{trial.real_seconds:.0f} s",
            f"{trial.off:+.0%}",
            f"{trial.estimated_tokens_per_second:.0f}",
            f"{trial.real_tokens_per_second:.0f}",
        )
    Console().print(table)


def write(path: Path, trials: list[Trial]) -> None:
    result = {
        "holds": abs(trials[-1].off) <= AIM,
        "trials": [{**asdict(trial), "off": round(trial.off, 3)} for trial in trials],
        **conditions("torch", "transformers", "unsloth", "bitsandbytes"),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
