"""What the plan and the speed claims are worth on this GPU. No download: models of true shape with random weights.

    python bench/gpu.py [--shapes 8b,32b,70b] [--folder /dev/shm] [--steps 6] [--json bench/results/gpu.json]

(a) Peak memory against the plan, for a grid of sequence length, micro-batch and gradient checkpointing; what the plan
    says does not fit is not tried. Bound: 10 % for every cell; 70B in 4 bits, r=16, 1 × 2048, under 48 GB.
(b) Real tokens a second (padding not counted) and MFU (4 N, of the card's own measured bf16 matrix rate) of the
    appliance's train stage, against plain transformers + PEFT + bitsandbytes as a widely read course writes it
    (bench/plain_course.py), on the same rows of realistic length. Bounds: 2.5 times as fast; MFU at least 40 % for 8B.
(c) The appliance in 4 bits with and without gradient checkpointing, and in 16 bits without.

Prints tables of memory and speed and writes JSON with hardware and versions. Ends with 1 when a bound is missed.
A model in 4 bits needs about 0.6 bytes a parameter in --folder (70B: 40 GB); one shape is written at a time, and
removed again. Without a GPU the script runs with `--shapes tiny`, to show that it works; its bounds then say nothing.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from conditions import conditions
from demo_job import run, run_stage
from matrix_rate import HAS_GPU
from rich.console import Console
from rich.table import Table
from synthetic import TINY, Rows, full_rows, prepared_job, realistic_rows, write_model

from appliance.hardware import this_machine
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.planning.memory_bill import CUDA_CONTEXT_BYTES
from appliance.planning.plan import Plan
from appliance.planning.published import PUBLISHED
from appliance.progress import last_of_each_step, parse_lines
from appliance.recipe import Recipe
from appliance.settings import Settings

GB = 10**9
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": TINY,
    "8b": PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"],
    # The layers of Qwen 3 32B under Llama's names: the same arithmetic but for the norms of queries and keys.
    "32b": {**PUBLISHED["Qwen/Qwen3-32B"], "model_type": "llama"},
    "70b": PUBLISHED["meta-llama/Llama-3.3-70B-Instruct"],
}
SEQUENCES, MICRO_BATCHES = (512, 2048, 8192), (1, 4)
LONGEST = 2048
WARM_UP_STEPS = 2
NEAR, FASTER, MFU, LARGEST = 0.10, 2.5, 0.40, 48 * GB
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "unsloth", "unsloth_zoo")
console = Console(stderr=True)


@dataclass(frozen=True)
class Cell:
    """Planned and measured memory of one setting."""

    shape: str
    sequence: int
    micro_batch: int
    gradient_checkpointing: bool
    planned_bytes: int
    measured_bytes: int | None
    """None: the plan says that it does not fit, or it ran out of memory all the same (`failed`)."""
    failed: bool = False

    @property
    def ratio(self) -> float | None:
        return self.planned_bytes / self.measured_bytes if self.measured_bytes else None

    @property
    def holds(self) -> bool:
        return not self.failed and (self.ratio is None or abs(self.ratio - 1) <= NEAR)


@dataclass(frozen=True)
class Speed:
    """How fast one way of training was."""

    shape: str
    way: str
    tokens_per_second: float
    mfu: float
    peak_bytes: int | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="8b,32b,70b" if HAS_GPU else "tiny")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--cells", type=int, help="only the first so many cells of each grid")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rate = json.loads(subprocess.check_output([sys.executable, Path(__file__).with_name("matrix_rate.py")]))
    cells: list[Cell] = []
    speeds: list[Speed] = []
    for shape in options.shapes.split(","):
        folder = Path(tempfile.mkdtemp(prefix="gpu-", dir=options.folder))
        try:
            bench = Bench(shape, SHAPES[shape], folder, options.steps)
            cells += [] if options.speed_only else bench.memory_grid(options.cells)
            speeds += bench.speeds(rate["flops_per_second"])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if options.json:
            # After every shape: an hour of measuring is not lost with the next one.
            write(options.json, cells, speeds, rate)
    show(cells, speeds, rate)
    sys.exit(bool(misses(cells, speeds)) and HAS_GPU)


class Bench:
    """All measurements of one shape, in a folder of its own."""

    def __init__(self, shape: str, figures: Mapping[str, Any], folder: Path, steps: int) -> None:
        self.shape, self.figures, self.folder, self.steps = shape, figures, folder, steps
        self.machine = this_machine(Settings(state=folder / "state", memory_reserve_gb=4))
        self.model = write_model(folder / "in 4 bits", figures, in_4_bits=True)
        self.jobs = 0

    def memory_grid(self, most: int | None) -> list[Cell]:
        longest = self.figures["max_position_embeddings"]
        sequences = [length for length in SEQUENCES if length <= longest] if HAS_GPU else [128]
        grid = list(product(sequences, MICRO_BATCHES, (True, False)))[:most]
        return [self._cell(*setting) for setting in grid]

    def speeds(self, peak_rate: float) -> Iterator[Speed]:
        """The plain script, then the appliance in every mode that fits."""
        yield self._plain(peak_rate)
        for in_4_bits, checkpointing in ((True, False), (True, True), (False, False)):
            speed = self._appliance(peak_rate, in_4_bits=in_4_bits, checkpointing=checkpointing)
            if speed is not None:
                yield speed

    def _cell(self, sequence: int, micro_batch: int, checkpointing: bool) -> Cell:
        console.print(f"{self.shape}: {micro_batch} × {sequence}{', recomputed' if checkpointing else ''} …")
        rows = full_rows(3 * micro_batch, sequence, self.figures["vocab_size"])
        keys = {"per_device_train_batch_size": micro_batch, "effective_batch_size": micro_batch, "max_steps": 3}
        keys |= {"gradient_checkpointing": checkpointing, "max_seq_length": sequence}
        _, plan, trained = self._train(rows, keys, self.model)
        measured = trained["training_peak_bytes"] if trained else None
        failed = plan.fits and trained is None
        return Cell(self.shape, sequence, micro_batch, checkpointing, plan.memory.total_bytes, measured, failed)

    def _appliance(self, peak_rate: float, *, in_4_bits: bool, checkpointing: bool) -> Speed | None:
        keys: dict[str, object] = {"effective_batch_size": 16, "max_steps": self.steps, "load_in_4bit": in_4_bits}
        keys |= {"gradient_checkpointing": checkpointing, "max_seq_length": self._longest}
        model = self.model if in_4_bits else self._in_16_bits()
        job, plan, trained = self._train(self._rows, keys, model)
        if trained is None:
            return None
        way = f"appliance, {'4' if in_4_bits else '16'} bit{', recomputed' if checkpointing else ''}"
        console.print(f"{self.shape}: {way}, {plan.per_device_train_batch_size} rows at once")
        steps = last_of_each_step(parse_lines((job.path / Stage.TRAIN / "progress.jsonl").read_text()))
        first, last = steps[min(WARM_UP_STEPS, len(steps) - 1) - 1], steps[-1]
        seconds = sum(step["seconds"] for step in steps[min(WARM_UP_STEPS, len(steps) - 1) :])
        speed = (last["content_tokens"] - first["content_tokens"]) / seconds
        return Speed(self.shape, way, speed, self._mfu(speed, plan, peak_rate), trained["training_peak_bytes"])

    def _plain(self, peak_rate: float) -> Speed:
        console.print(f"{self.shape}: the plain script …")
        recipe = Recipe.model_validate({"base_model": "demo", "max_steps": self.steps, "effective_batch_size": 16})
        job, plan = self._job(self._rows, recipe, self.model)
        spec = {
            "base": str(self.model),
            "rows": str(job.path / Stage.PREPARE / "train.arrow"),
            "tokenizer": str(job.path / Stage.PREPARE / "tokenizer"),
            "output": str(self.folder / "plain"),
            "load_in_4bit": True,
            "r": 16,
            "alpha": 16,
            "target_modules": list(plan.target_modules),
            "steps": self.steps,
        }
        (self.folder / "spec.json").write_text(json.dumps(spec))
        script = Path(__file__).with_name("plain_course.py")
        run([sys.executable, str(script), str(self.folder / "spec.json"), str(self.folder / "plain.json")], self.folder)
        result = json.loads((self.folder / "plain.json").read_text())
        steps = result["steps"][min(WARM_UP_STEPS, len(result["steps"]) - 1) :]
        speed = sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)
        peak = result["peak_reserved_bytes"]
        peak = None if peak is None else peak + CUDA_CONTEXT_BYTES
        return Speed(self.shape, "plain script, 4 bit, recomputed", speed, self._mfu(speed, plan, peak_rate), peak)

    def _mfu(self, tokens_per_second: float, plan: Plan, peak_rate: float) -> float:
        """4 FLOP a parameter and token, as QLoRA needs at least: no gradients of the frozen weights."""
        return 4 * plan.total_parameters * tokens_per_second / peak_rate

    @property
    def _longest(self) -> int:
        return LONGEST if HAS_GPU else 128

    @property
    def _rows(self) -> Rows:
        return realistic_rows(16 * self.steps, self._longest, self.figures["vocab_size"])

    def _in_16_bits(self) -> Path:
        return write_model(self.folder / "in 16 bits", self.figures, in_4_bits=False)

    def _train(self, rows: Rows, keys: Mapping[str, object], model: Path) -> tuple[JobDir, Plan, dict[str, Any] | None]:
        """The job, its plan, and the train stage's result; None when it does not fit, by the plan or in truth."""
        recipe = Recipe.model_validate({"base_model": "demo", **keys})
        job, plan = self._job(rows, recipe, model)
        if not plan.fits:
            return job, plan, None
        try:
            run_stage(Stage.TRAIN, job, self.folder)
        except SystemExit:
            failure = job.failure(Stage.TRAIN)
            if failure is None or failure.get("failure") != "out_of_memory":
                raise
            console.print(f"ran out of memory: {failure['message']}")
        return job, plan, job.result(Stage.TRAIN)

    def _job(self, rows: Rows, recipe: Recipe, model: Path) -> tuple[JobDir, Plan]:
        self.jobs += 1
        jobs = self.folder / f"job {self.jobs}"
        return prepared_job(jobs, self.shape, model, self.figures, rows, recipe, self.machine)


def misses(cells: list[Cell], speeds: list[Speed]) -> list[str]:
    """The bounds that do not hold, in words."""
    found = [
        f"{cell.shape} {cell.micro_batch} × {cell.sequence}: planned {cell.ratio}" for cell in cells if not cell.holds
    ]
    for cell in cells:
        is_the_claim = (cell.shape, cell.sequence, cell.micro_batch) == ("70b", 2048, 1) and cell.gradient_checkpointing
        if is_the_claim and (cell.measured_bytes or LARGEST) >= LARGEST:
            found.append("70b at 1 × 2048 does not stay under 48 GB")
    for shape in {speed.shape for speed in speeds}:
        plain, *ours = [speed for speed in speeds if speed.shape == shape]
        best = max((speed.tokens_per_second for speed in ours if "4 bit" in speed.way), default=0.0)
        if best < FASTER * plain.tokens_per_second:
            found.append(f"{shape}: {best / plain.tokens_per_second:.2f} times the plain script")
        if shape == "8b" and max(speed.mfu for speed in ours) < MFU:
            found.append("8b: MFU below 40 %")
    return found


def show(cells: list[Cell], speeds: list[Speed], rate: Mapping[str, Any]) -> None:
    table = Table(title=f"Planned against measured peak memory on {rate['device']}")
    for heading in ("shape", "rows × tokens", "recomputed", "planned", "measured", "ratio"):
        table.add_column(heading, justify="left" if heading == "shape" else "right")
    for cell in cells:
        measured = (
            f"{cell.measured_bytes / GB:.2f} GB" if cell.measured_bytes else "failed" if cell.failed else "not tried"
        )
        ratio = f"{cell.ratio:.2f}" if cell.ratio else "–"
        what = (cell.shape, f"{cell.micro_batch} × {cell.sequence}", "yes" if cell.gradient_checkpointing else "no")
        table.add_row(*what, f"{cell.planned_bytes / GB:.2f} GB", measured, ratio)
    Console().print(table)
    table = Table(title=f"Real tokens a second; bf16 matrices at {rate['flops_per_second'] / 1e12:.1f} TFLOP/s")
    for heading in ("shape", "way", "tokens/s", "against plain", "MFU (4N)", "peak"):
        table.add_column(heading, justify="left" if heading in ("shape", "way") else "right")
    plain = {speed.shape: speed.tokens_per_second for speed in speeds if speed.way.startswith("plain")}
    for speed in speeds:
        ratio = speed.tokens_per_second / plain[speed.shape]
        peak = f"{speed.peak_bytes / GB:.1f} GB" if speed.peak_bytes else "–"
        figures = (f"{speed.tokens_per_second:,.0f}", f"{ratio:.2f} ×", f"{speed.mfu:.1%}", peak)
        table.add_row(speed.shape, speed.way, *figures)
    Console().print(table)
    for miss in misses(cells, speeds):
        console.print(f"missed: {miss}" if HAS_GPU else f"(no GPU, says nothing) {miss}")


def write(path: Path, cells: list[Cell], speeds: list[Speed], rate: Mapping[str, Any]) -> None:
    measured = conditions(*PACKAGES)
    result = {
        "holds": not misses(cells, speeds) if HAS_GPU else None,
        "missed": misses(cells, speeds),
        "memory": [{**asdict(cell), "ratio": cell.ratio} for cell in cells],
        "speed": [asdict(speed) for speed in speeds],
        **measured,
        "machine": {**rate, **measured["machine"]},
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
