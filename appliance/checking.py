"""Checking files somebody wants to train on, with or without a daemon: every problem of recipe and rows at once."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Final

from appliance.allow_list import allowed_base_models, is_allowed
from appliance.dataset.findings import Findings
from appliance.dataset.rows import Summary
from appliance.dataset_file import check_dataset
from appliance.errors import InputError, Problem, Reason
from appliance.files import sync
from appliance.recipe import Recipe
from appliance.recipe_yaml import ReadRecipe, read_recipe
from appliance.settings import Settings
from appliance.settling import rows_elsewhere
from appliance.sources import Source
from appliance.yaml_text import LARGEST as LARGEST_RECIPE

_MODELS_NAMED: Final = 10


@dataclass(frozen=True)
class Files:
    """What was given together; any part may be missing. `library` is the recipe that `recipe` inherits from."""

    dataset: Source | None = None
    held_out: Source | None = None
    recipe: Source | None = None
    library: Source | None = None
    checksum: Source | None = None
    borrowed: bool = False
    """The dataset is that of an earlier job: no file of this drop."""


@dataclass(frozen=True)
class Checked:
    """What the files hold, as far as they could be read, and everything that is wrong with them."""

    recipe: Recipe | None = None
    dataset: Summary | None = None
    held_out: Summary | None = None
    dataset_sha256: str | None = None
    problems: tuple[Problem, ...] = ()


def check_files(
    files: Files,
    settings: Settings,
    *,
    rows_folder: Path | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Checked:
    """Check a recipe and its datasets together; never raises for what is in them.

    With `rows_folder` and without a problem, it holds the rows in their one form, `rows.jsonl` and `eval.jsonl`.
    `progress` is called with the number of rows done.
    """
    problems: list[Problem] = []
    read = _check_recipe(files, settings, problems)
    check = _DatasetCheck(settings, rows_folder, progress, problems)
    dataset = check.run(files.dataset, "rows.jsonl") if files.dataset else None
    held_out = check.run(files.held_out, "eval.jsonl") if files.held_out else None
    sha256 = _check_hash(files, read, problems) if dataset else None
    if files.held_out and dataset and held_out:
        problems += _check_same_type(files.held_out, dataset, held_out)
    return Checked(read.recipe if read else None, dataset, held_out, sha256, tuple(problems))


def _check_recipe(files: Files, settings: Settings, problems: list[Problem]) -> ReadRecipe | None:
    own = _recipe_text(files.recipe, problems)
    library = _recipe_text(files.library, problems)
    if own is None and (library is None or files.recipe):
        return None
    # Without one of its own, the library recipe alone is the recipe.
    name, text = own or library or ("", b"")
    read = read_recipe(text, name=name, library=library if own else None)
    problems += [
        *read.problems,
        *_check_base_model(read, settings),
        *_check_dataset_name(read, None if files.borrowed else files.dataset),
    ]
    return read


def _recipe_text(source: Source | None, problems: list[Problem]) -> tuple[str, bytes] | None:
    if source is None:
        return None
    try:
        return source.name, b"".join(islice(source.chunks(LARGEST_RECIPE + 1), 1))
    except InputError as error:
        problems += error.problems
        return None


def _check_base_model(read: ReadRecipe, settings: Settings) -> Iterator[Problem]:
    base_model = read.tree.values.get("base_model")
    has_problem = any(problem.key == "base_model" for problem in read.problems)
    if not isinstance(base_model, str) or has_problem or is_allowed(base_model, settings):
        return
    allowed = list(dict.fromkeys(["demo", *allowed_base_models(settings)]))
    more = f" and {len(allowed) - _MODELS_NAMED} more" if len(allowed) > _MODELS_NAMED else ""
    expected = ", ".join(allowed[:_MODELS_NAMED]) + more
    message = f"base_model is {base_model}, which is not allowed here; these are: {expected}"
    reason = Reason.MODEL_NOT_ALLOWED
    yield read.tree.problem(("base_model",), "model_not_allowed", message, reason, expected=expected)


def _check_dataset_name(read: ReadRecipe, dataset: Source | None) -> Iterator[Problem]:
    asked = read.recipe.dataset if read.recipe else None
    if dataset is None or asked is None:
        return
    given = PurePath(dataset.name).name
    if rows_elsewhere(asked):
        message = f"dataset is {asked}, but {given} came with the recipe; leave out the file, or the line"
        yield read.tree.problem(("dataset",), "other_dataset", message, Reason.DATASET_MISSING, expected=given)
    elif unicodedata.normalize("NFC", asked) != unicodedata.normalize("NFC", given):
        message = f"dataset is {asked}, but the file that came with the recipe is {given}; correct the one or the other"
        yield read.tree.problem(("dataset",), "other_dataset", message, Reason.DATASET_MISSING, expected=given)


@dataclass
class _DatasetCheck:
    """Checks one file after the other; counts rows over all of them."""

    settings: Settings
    rows_folder: Path | None
    progress: Callable[[int], object]
    problems: list[Problem]
    rows: int = 0

    def run(self, source: Source, target_name: str) -> Summary | None:
        """Check one file and write its rows, if they are wanted. None when it cannot be read at all."""
        target = self.rows_folder / target_name if self.rows_folder else None
        findings, before = Findings(source.name), self.rows
        try:
            with ExitStack() as stack:
                summary = check_dataset(
                    source,
                    findings,
                    write=stack.enter_context(target.open("wb")).write if target else None,
                    progress=lambda done: self.progress(before + done),
                    most_bytes=self.settings.max_drop_bytes,
                )
        except InputError as error:
            self.problems += error.problems
            return None
        self.problems += findings.problems()
        self.rows += summary.rows
        if target:
            sync(target)
        return summary


def _check_same_type(source: Source, dataset: Summary, held_out: Summary) -> Iterator[Problem]:
    ours, theirs = dataset.format, held_out.format
    if ours and theirs and ours.type != theirs.type:
        message = f"the held-out rows are {theirs.name}, the dataset is {ours.name}; write both in the same format"
        yield Problem(
            "mixed_formats", message, Reason.DATASET_FORMAT, source.name, found=theirs.name, expected=ours.name
        )


def _check_hash(files: Files, read: ReadRecipe | None, problems: list[Problem]) -> str | None:
    """The dataset's SHA-256, compared with the one in the recipe and the one beside the file."""
    if files.dataset is None:
        return None
    sha256 = files.dataset.sha256 or _digest(files.dataset)
    asked = read.recipe.sha256 if read and read.recipe else None
    if read and asked and asked != sha256:
        message = _mismatch(sha256, asked)
        problems.append(read.tree.problem(("sha256",), "sha256_mismatch", message, Reason.TRUNCATED, expected=sha256))
    if files.checksum:
        problems += _check_checksum_file(files.checksum, files.dataset, sha256)
    return sha256


def _digest(source: Source) -> str:
    digest = hashlib.sha256()
    for chunk in source.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _mismatch(sha256: str, asked: str) -> str:
    return (
        f"the dataset's SHA-256 begins with {sha256[:12]}, not with {asked[:12]}: the file was changed or not copied"
        " whole; copy it again, or correct the hash"
    )


def _check_checksum_file(checksum: Source, dataset: Source, sha256: str) -> Iterator[Problem]:
    try:
        text = b"".join(islice(checksum.chunks(LARGEST_RECIPE), 1)).decode("utf-8", "replace")
    except InputError as error:
        yield from error.problems
        return
    entries = [match.groups() for match in re.finditer(r"^\W*([0-9a-fA-F]{64})\b[ \t*]*(.*?)\s*$", text, re.MULTILINE)]
    named = [digest for digest, name in entries if PurePath(name).name == PurePath(dataset.name).name]
    asked = (named or [digest for digest, _ in entries] or [""])[0].lower()
    if not asked:
        message = "there is no SHA-256 in it; it must begin with 64 hexadecimal digits, as sha256sum writes them"
        yield Problem("bad_checksum_file", message, Reason.OTHER, checksum.name, expected=sha256)
    elif asked != sha256:
        yield Problem(
            "sha256_mismatch", _mismatch(sha256, asked), Reason.TRUNCATED, checksum.name,
            found=asked, expected=sha256,
        )  # fmt: skip
