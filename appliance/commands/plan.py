"""`appliance plan`: what a recipe needs, before anything is loaded."""

import json
import re
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from appliance.checking import Checked, Files, check_files
from appliance.errors import ApplianceError, InputError, NotReadyError
from appliance.hardware import GPU_FLOPS, this_machine
from appliance.job import Waiting
from appliance.models import find_config
from appliance.planning.advice import does_not_fit, would_fit
from appliance.planning.architectures import read_shape
from appliance.planning.fitting import sequence_cap
from appliance.planning.machine import Machine
from appliance.planning.model_shape import ModelShape
from appliance.planning.plan import DataFacts, Plan, make_plan
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.sources import Source
from appliance.texts.wording import duration, size

UNITS: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "": 10**9}
# Before a tokenizer has seen the rows: English and code take about this many bytes a token.
BYTES_PER_TOKEN: Final = 4
BAR_WIDTH: Final = 40


class MemorySizeError(ApplianceError):
    """`--memory` is not a size."""

    exit_code = 2


def plan(recipe: Path, dataset: Path | None, memory: str | None, *, as_json: bool) -> None:
    """Print the plan.

    Raises InputError for a wrong recipe, NotReadyError when the model is not here or nothing fits.
    """
    settings = Settings.load()
    machine = _machine(settings, memory)
    checked = _check(recipe, dataset, settings)
    if checked.recipe is None or checked.problems:
        raise InputError(checked.problems)
    shape = _shape(checked.recipe, settings)
    made = make_plan(checked.recipe, shape, _data(checked, dataset, checked.recipe, shape, machine), machine)
    if as_json:
        print(json.dumps(made.as_json(), indent=2))
    else:
        _print(made, checked.recipe)
    if not made.fits:
        advice = would_fit(checked.recipe, shape, machine, made.max_seq_length)
        problem = does_not_fit(made.memory, machine, advice)
        raise NotReadyError(problem.message, waiting=Waiting.MEMORY)


def _machine(settings: Settings, memory: str | None) -> Machine:
    machine = this_machine(settings)
    if memory is None:
        return machine
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", memory.strip())
    unit = UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None:
        raise MemorySizeError(f"--memory is {memory}", hint="Write it like 128GB.")
    total = int(float(match.group(1)) * unit)
    # Planning for another machine means planning for one with a GPU, as this appliance is made for.
    reserve = min(int(settings.memory_reserve_gb * 10**9), total // 2)
    speed = machine.flops_per_second if machine.kind == "gpu" else GPU_FLOPS
    return Machine(memory_bytes=total, reserve_bytes=reserve, kind="gpu", flops_per_second=speed)


def _check(recipe: Path, dataset: Path | None, settings: Settings) -> Checked:
    files = Files(dataset=Source(dataset.name, dataset) if dataset else None, recipe=Source(recipe.name, recipe))
    return check_files(files, settings)


def _shape(recipe: Recipe, settings: Settings) -> ModelShape:
    config = find_config(recipe.base_model, recipe.revision, settings)
    if config is None:
        raise NotReadyError(
            f"the config.json of {recipe.base_model} is not on this machine",
            waiting=Waiting.NETWORK,
            hint=f"Put the model, or only its config.json, into {settings.models}/"
            f"{recipe.base_model.replace('/', '--')}/.",
        )
    return read_shape(config)


def _data(
    checked: Checked, dataset: Path | None, recipe: Recipe, shape: ModelShape, machine: Machine
) -> DataFacts | None:
    """The rows are counted, their tokens guessed from the size: only `prepare` counts those."""
    if dataset is None or checked.dataset is None or checked.dataset.rows == 0:
        return None
    rows = checked.dataset.rows
    tokens = max(rows, dataset.stat().st_size // BYTES_PER_TOKEN)
    longest = min(sequence_cap(recipe, shape, machine), 4 * tokens // rows + 64)
    return DataFacts(rows=rows, examples=rows, tokens=tokens, max_seq_length=longest)


def _print(made: Plan, recipe: Recipe) -> None:
    console = Console(highlight=False)
    share = made.trainable_parameters / made.total_parameters
    console.print(
        f"[bold]{recipe.base_model}[/bold]  {made.total_parameters:,} parameters,"
        f" {made.trainable_parameters:,} of them trained ({share:.2%})\n"
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, count in _bill(made):
        table.add_row(label, size(count))
    console.print(table)
    console.print(_bar(made))
    console.print()
    for line in _lines(made):
        console.print(line)


def _bill(made: Plan) -> list[tuple[str, int]]:
    bill = made.memory
    return [
        ("weights of the base model", bill.weights_bytes),
        ("adapter and its gradients", bill.adapter_bytes),
        ("optimizer", bill.optimizer_bytes),
        ("activations", bill.activations_bytes),
        ("logits", bill.logits_bytes),
        ("overhead", bill.overhead_bytes),
        ("[bold]together[/bold]", bill.total_bytes),
        ("this machine", made.machine.memory_bytes),
        ("kept in reserve", made.machine.reserve_bytes),
    ]


def _bar(made: Plan) -> str:
    """How much of the machine is taken, kept in reserve, and left."""
    total = made.machine.memory_bytes
    used = min(BAR_WIDTH, round(BAR_WIDTH * made.memory.total_bytes / total))
    reserved = min(BAR_WIDTH - used, round(BAR_WIDTH * made.machine.reserve_bytes / total))
    left = BAR_WIDTH - used - reserved
    verdict = "[green]fits[/green]" if made.fits else "[red]does not fit[/red]"
    return f"\\[{'█' * used}{'·' * left}{'▒' * reserved}] {verdict}"


def _lines(made: Plan) -> list[str]:
    checkpointing = "with" if made.gradient_checkpointing else "without"
    lines = [
        f"micro-batch {made.per_device_train_batch_size} × accumulation {made.gradient_accumulation_steps}"
        f" = effective batch size {made.effective_batch_size}, {checkpointing} gradient checkpointing",
        f"at most {made.max_seq_length:,} tokens a row",
    ]
    if made.total_steps is not None:
        lines.append(f"{made.total_steps:,} steps, {made.num_train_epochs} epochs")
    if made.seconds_estimate is not None:
        lines.append(f"estimate: about {duration(made.seconds_estimate)}")
    return lines + [f"note: {note}" for note in made.notes]
