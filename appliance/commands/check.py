"""`appliance check`: the verdict on a dataset, a recipe or both, without a daemon and without training."""

import json
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from appliance.checking import Checked, Files, check_files
from appliance.dataset.rows import Summary
from appliance.errors import ApplianceError, InputError
from appliance.job import Role
from appliance.names import printable, role_of
from appliance.settings import Settings
from appliance.sources import Source
from appliance.texts.wording import plural, sentence

# Every file that a drop may hold, and where the check wants it.
FIELDS: Final = {
    Role.DATASET: "dataset",
    Role.OTHER: "dataset",
    Role.EVAL: "held_out",
    Role.RECIPE: "recipe",
    Role.CHECKSUM: "checksum",
}


class CheckUsageError(ApplianceError):
    """The files given cannot be one drop."""

    exit_code = 2


def check(paths: list[Path], *, as_json: bool) -> None:
    """Print every problem of the files, as `file:line: problem`. Raises InputError when there is any."""
    files = _files(paths)
    with Progress(
        TextColumn("checking"),
        TextColumn("{task.completed:,.0f} rows"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        # No thread of its own: a large file is checked by forked copies of this process.
        auto_refresh=False,
        disable=as_json or not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=None)
        checked = check_files(
            files, Settings.load(), progress=lambda rows: bar.update(task, completed=rows, refresh=True)
        )
    if as_json:
        print(json.dumps(_facts(checked), indent=2))
    else:
        _print(checked)
    if checked.problems:
        raise InputError([] if as_json else checked.problems)


def _files(paths: list[Path]) -> Files:
    found: dict[str, Source] = {}
    for path in paths:
        if not path.is_file():
            raise CheckUsageError(f"{printable(str(path))} is not a file", hint="Name a dataset, a recipe, or both.")
        field = FIELDS[role_of(path.name)[1]]
        if field in found:
            raise CheckUsageError(
                f"{printable(path.name)} and {found[field].name} are both a {field.replace('_', '-')} file",
                hint="Check one drop at a time.",
            )
        found[field] = Source(printable(path.name), path)
    return Files(
        dataset=found.get("dataset"),
        held_out=found.get("held_out"),
        recipe=found.get("recipe"),
        checksum=found.get("checksum"),
    )


def _facts(checked: Checked) -> dict[str, object]:
    return {
        "usable": not checked.problems,
        "problems": [problem.as_json() for problem in checked.problems],
        "dataset": _summary(checked.dataset),
        "held_out": _summary(checked.held_out),
        "dataset_sha256": checked.dataset_sha256,
        "recipe": checked.recipe.model_dump(mode="json") if checked.recipe else None,
    }


def _summary(summary: Summary | None) -> dict[str, object] | None:
    if summary is None:
        return None
    warnings = [problem.as_json() for problem in summary.warnings]
    name = summary.format.name if summary.format else None
    return {"format": name, "rows": summary.rows, "notes": summary.notes, "warnings": warnings}


def _print(checked: Checked) -> None:
    console = Console(highlight=False)
    for what, summary in (("dataset", checked.dataset), ("held-out file", checked.held_out)):
        if summary is None:
            continue
        form = summary.format.name if summary.format else "no known format"
        console.print(f"{what}: {plural(summary.rows, 'row')}, {form}")
        for line in [*summary.notes, *(str(warning) for warning in summary.warnings)]:
            console.print(f"  note: {escape(line)}")
    if checked.recipe:
        console.print(f"recipe: {escape(checked.recipe.base_model)}")
    if not checked.problems:
        console.print(sentence("nothing is wrong with it"))
        if checked.recipe:
            console.print("Not looked at: what the base model and this machine allow. `appliance plan` says that.")
