"""Planned against measured memory of the train stage, on the machine that this runs on.

    python bench/memory.py [--settings 6] [--large] [--repeats 3] [--json bench/results/memory.json]

Trains the demo model for a few steps in each setting, and with `--large` a model of 300 million parameters that is made
on the spot; every training in a process of its own, on rows that are all as long as the plan counts with (and once on
rows of many lengths). Counted is what comes on top of the memory in use after the imports, and of several trainings in
the same setting the median: what malloc keeps differs by a tenth from one to the next. Ends with 1 when a setting
misses its bound: 25 % or 40 MB for the demo model, 15 % for the large one.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from conditions import conditions
from demo_job import run_stage
from rich.console import Console
from rich.progress import track
from rich.table import Table
from synthetic import full_rows, prepared_job, realistic_rows, write_model

from appliance.hardware import this_machine
from appliance.job import Stage
from appliance.models import demo_folder, read_config
from appliance.recipe import Recipe
from appliance.settings import Settings

MB = 10**6
STEPS = 4
LARGE = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Setting:
    """One training. `varied` rows have many lengths, the others all the same."""

    sequence: int
    micro_batch: int
    gradient_checkpointing: bool = False
    load_in_4bit: bool = True
    rank: int = 16
    varied: bool = False

    def __str__(self) -> str:
        mode = ("4 bit" if self.load_in_4bit else "16 bit") + (", recomputed" if self.gradient_checkpointing else "")
        return f"{self.micro_batch} × {self.sequence}, r={self.rank}, {mode}{', many lengths' if self.varied else ''}"


@dataclass(frozen=True)
class Cell:
    """What one setting was planned to need, and needed."""

    model: str
    setting: Setting
    planned_bytes: int
    every_measured_bytes: tuple[int, ...]

    @property
    def measured_bytes(self) -> int:
        return statistics.median_low(self.every_measured_bytes)

    @property
    def ratio(self) -> float:
        return self.planned_bytes / self.measured_bytes

    @property
    def holds(self) -> bool:
        off = abs(self.planned_bytes - self.measured_bytes)
        if self.model == "demo":
            return off <= max(0.25 * self.measured_bytes, 40 * MB)
        return off <= 0.15 * self.measured_bytes


DEMO = (
    Setting(1024, 4),
    Setting(1024, 4, gradient_checkpointing=True),
    Setting(1024, 4, load_in_4bit=False),
    Setting(256, 4),
    Setting(64, 8, rank=64),
    Setting(512, 4, varied=True),
)
LARGE_SETTINGS = (
    Setting(512, 1),
    Setting(512, 1, gradient_checkpointing=True),
    Setting(512, 2, load_in_4bit=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=len(DEMO))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wanted = [("demo", demo_folder(), setting) for setting in DEMO[: options.settings]]
        if options.large:
            large = write_model(Path(folder) / "large", LARGE, in_4_bits=False)
            wanted += [("300 M", large, setting) for setting in LARGE_SETTINGS]
        work = enumerate(track(wanted, description="training", console=Console(stderr=True)))
        cells = [measure(Path(folder) / str(number), *what, repeats=options.repeats) for number, what in work]
    show(cells)
    if options.json:
        write(options.json, cells)
    sys.exit(not all(cell.holds for cell in cells))


def measure(folder: Path, name: str, model: Path, setting: Setting, *, repeats: int) -> Cell:
    """Train for a few steps, as often as asked for, and ask what it needed."""
    trained = [train(folder / str(number), model, setting) for number in range(repeats)]
    return Cell(name, setting, trained[0][0], tuple(needed for _, needed in trained))


def train(folder: Path, model: Path, setting: Setting) -> tuple[int, int]:
    """One training. Returns planned and measured bytes."""
    figures = read_config(model)
    count = STEPS * setting.micro_batch * (20 if setting.varied else 1)
    rows = (realistic_rows if setting.varied else full_rows)(count, setting.sequence, figures["vocab_size"])
    recipe = Recipe.model_validate(
        {
            "base_model": "demo",
            "load_in_4bit": setting.load_in_4bit,
            "max_seq_length": setting.sequence,
            "per_device_train_batch_size": setting.micro_batch,
            "effective_batch_size": setting.micro_batch,
            "gradient_checkpointing": setting.gradient_checkpointing,
            "lora": {"r": setting.rank},
            "max_steps": count // setting.micro_batch,
        }
    )
    machine = this_machine(Settings(state=folder / "state"))
    job, plan = prepared_job(folder, "memory", model, figures, rows, recipe, machine)
    run_stage(Stage.TRAIN, job, folder)
    trained = job.result(Stage.TRAIN)
    assert trained is not None
    return plan.memory.total_bytes, trained["training_peak_bytes"]


def show(cells: list[Cell]) -> None:
    table = Table(title="Planned against measured memory of the train stage")
    for heading in ("model", "setting", "planned", "measured", "ratio", ""):
        table.add_column(heading, justify="right" if heading in ("planned", "measured", "ratio") else "left")
    for cell in cells:
        sizes = (f"{cell.planned_bytes / MB:,.0f} MB", f"{cell.measured_bytes / MB:,.0f} MB")
        table.add_row(cell.model, str(cell.setting), *sizes, f"{cell.ratio:.2f}", "" if cell.holds else "off")
    Console().print(table)


def write(path: Path, cells: list[Cell]) -> None:
    result = {
        "holds": all(cell.holds for cell in cells),
        "cells": [
            {**asdict(cell), "measured_bytes": cell.measured_bytes, "ratio": round(cell.ratio, 3), "holds": cell.holds}
            for cell in cells
        ],
        "kind": this_machine(Settings()).kind,
        **conditions("torch", "transformers", "unsloth", "bitsandbytes"),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
