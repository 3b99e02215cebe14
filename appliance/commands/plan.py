"""`appliance plan`: what a recipe needs, before anything is loaded."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from appliance.checking import Checked, Files, check_files
from appliance.commands.plan_table import print_plan
from appliance.errors import ApplianceError, InputError, NotReadyError
from appliance.fetching import Wanted, read_answers, start_download
from appliance.hardware import GPU_FLOPS, this_machine
from appliance.job import Waiting
from appliance.memory import memory_reserve_bytes
from appliance.models import canonical_id, find_config, read_config
from appliance.places import how_to_name_a_recipe, is_library_recipe
from appliance.planning.advice import does_not_fit, would_fit
from appliance.planning.architectures import read_shape
from appliance.planning.fitting import sequence_cap
from appliance.planning.machine import Machine
from appliance.planning.model_shape import ModelShape
from appliance.planning.plan import DataFacts, make_plan
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.sources import Source

UNITS: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "": 10**9}
# No machine has as much.
MOST_BYTES: Final = 10**18
# Before a tokenizer has seen the rows: English and code take about this many bytes a token.
BYTES_PER_TOKEN: Final = 4


class MemorySizeError(ApplianceError):
    """`--memory` is not a size."""

    exit_code = 2


class NoSuchRecipeError(ApplianceError):
    """Neither a file nor the library has a recipe of that name."""

    exit_code = 2


def plan(recipe: Path, dataset: Path | None, memory: str | None, *, as_json: bool) -> None:
    """Print the plan. `recipe` is a file, or else the name of one of the library.

    Raises NoSuchRecipeError when it is neither, InputError for a wrong recipe, NotReadyError when the model is not
    here or nothing fits.
    """
    settings = Settings.load()
    machine = _machine(settings, memory)
    checked = _check(recipe, dataset, settings)
    if checked.recipe is None or checked.problems:
        raise InputError(checked.problems)
    shape = _shape(checked.recipe, settings)
    made = make_plan(checked.recipe, shape, _data(checked, dataset, checked.recipe, shape, machine), machine)
    advice = [] if made.fits else would_fit(checked.recipe, shape, machine, made.max_seq_length)
    if as_json:
        print(json.dumps(made.as_json() | {"would_fit": advice}, indent=2))
    else:
        print_plan(made, checked.recipe, advice)
    if not made.fits:
        raise NotReadyError(does_not_fit(made.memory, machine, advice).message, waiting=Waiting.MEMORY)


def _machine(settings: Settings, memory: str | None) -> Machine:
    machine = this_machine(settings)
    if memory is None:
        return machine
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", memory.strip())
    unit = UNITS.get(match.group(2).upper()) if match else None
    total = int(min(float(match.group(1)) * unit, MOST_BYTES)) if match and unit else 0
    if not 0 < total < MOST_BYTES:
        raise MemorySizeError(f"--memory is {memory}", hint="Write it like 128GB.")
    # Planning for another machine means planning for one like a Spark, which this appliance is made for.
    reserve = memory_reserve_bytes(settings, total, unified=True)
    speed = machine.flops_per_second if machine.kind == "gpu" else GPU_FLOPS
    return Machine(memory_bytes=total, reserve_bytes=reserve, kind="gpu", flops_per_second=speed, unified=True)


def _check(recipe: Path, dataset: Path | None, settings: Settings) -> Checked:
    rows = Source(dataset.name, dataset) if dataset else None
    return check_files(Files(dataset=rows, recipe=_recipe_file(recipe, settings)), settings)


def _recipe_file(recipe: Path, settings: Settings) -> Source:
    if is_library_recipe(recipe, settings.recipes):
        file = settings.recipes / f"{recipe}.yaml"
        return Source(file.name, file)
    if not recipe.exists():
        raise NoSuchRecipeError(f"there is no recipe {recipe}", hint=how_to_name_a_recipe(settings.recipes))
    return Source(recipe.name, recipe)


def _shape(recipe: Recipe, settings: Settings) -> ModelShape:
    """From the models folder, the cache, the figures in the package, or else the Hub."""
    config = find_config(recipe.base_model, recipe.revision, settings)
    return read_shape(_config_of_the_hub(recipe, settings) if config is None else config)


def _config_of_the_hub(recipe: Recipe, settings: Settings) -> Mapping[str, Any]:
    """Fetch `config.json` alone, by the program that fetches models. Raises NotReadyError when it cannot be had."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = Wanted(canonical_id(recipe.base_model), recipe.revision, config_to=folder / "config")
        with (
            Console(stderr=True).status(f"asking the Hub for the config.json of {recipe.base_model}"),
            (folder / "download.jsonl").open("wb") as out,
        ):
            start_download(wanted, settings, out, xet=False).wait()
        answers = read_answers(folder / "download.jsonl")
        said = answers[-1] if answers else {"message": "the Hub could not be asked"}
        if "path" in said:
            return read_config(folder / "config")
    raise NotReadyError(
        f"the config.json of {recipe.base_model} is not on this machine, and {said['message']}",
        waiting=Waiting.NETWORK,
        hint=f"Put the model, or only its config.json, into {settings.models}/{recipe.base_model.replace('/', '--')}/.",
    )


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
