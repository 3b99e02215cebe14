"""Why something in the inbox cannot be a drop, in words a person can act on. Pure."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from appliance.dataset.content import foreign_suffix
from appliance.errors import Problem, Reason
from appliance.job import Role
from appliance.names import printable


def unsafe_file(path: str, what: str) -> Problem:
    """A link, a pipe or a device in the place of a file: it is never opened."""
    return Problem(
        code="unsafe_file",
        reason=Reason.UNSAFE_FILE,
        message=f"this is a {what}; only ordinary files are taken, so it was removed and does not come back."
        " Copy the file itself into the inbox.",
        file=printable(PurePosixPath(path).name),
        found=what,
        expected="an ordinary file",
    )


def not_a_dataset(path: str) -> Problem:
    """A file whose ending says that it holds no rows. Its words are those of the check."""
    name = PurePosixPath(path).name
    fault = foreign_suffix(PurePosixPath(name).suffix.lower())
    assert fault is not None, "only files that are no datasets come here"
    return Problem(fault.code, fault.message, fault.reason, printable(name), found=fault.found, expected=fault.expected)


def full_button(path: str) -> Problem:
    """A file that is called like a button and holds something."""
    name = printable(PurePosixPath(path).name)
    message = (
        "a file of this name is a button, and buttons are empty; this one has content, so nothing was done."
        " To press it, make an empty file of that name; if it holds rows, give it another name."
    )
    return Problem("button_with_content", message, Reason.OTHER, name, found="content", expected="an empty file")


def ambiguous(datasets: Iterable[tuple[str, Role]], partners: Iterable[tuple[str, Role]]) -> Problem:
    """Datasets of one name, and something that could belong to any of them."""
    names = [printable(PurePosixPath(path).name) for path, _ in datasets]
    others = [printable(PurePosixPath(path).name) for path, _ in partners]
    message = (
        f"{' and '.join(names)} have the same name, so {' and '.join(others)} could belong to either."
        " Rename one of them, or write dataset: and the file's name into the recipe."
    )
    found = ", ".join(names)
    return Problem("several_datasets", message, Reason.OTHER, found=found, expected="one dataset of that name")


def odd_in_folder(path: str, what: str) -> Problem:
    """Something in a dropped folder that is not an ordinary file."""
    is_folder = what == "folder"
    left = (
        f"It was left in the inbox with all that lies in it, as {printable(path)}. Drop its files beside the others, or"
        " by themselves."
        if is_folder
        else "It was removed and does not come back. Leave it out and drop again."
    )
    return Problem(
        code="folder_in_folder" if is_folder else "unsafe_file",
        reason=Reason.OTHER if is_folder else Reason.UNSAFE_FILE,
        message=f"a dropped folder holds ordinary files only, and this is a {what}. {left}",
        file=printable(PurePosixPath(path).name),
        found=what,
        expected="one dataset, and perhaps a recipe and an eval file",
    )


def too_many(files: Iterable[tuple[str, Role]]) -> Iterator[Problem]:
    """Several files in a folder where one is allowed."""
    files = list(files)
    for role, what in ((Role.DATASET, "datasets"), (Role.RECIPE, "recipes"), (Role.EVAL, "eval files")):
        names = [printable(PurePosixPath(path).name) for path, its_role in files if its_role is role]
        if len(names) > 1:
            yield Problem(
                code=f"several_{what.replace(' ', '_')}",
                message=f"the folder holds {len(names)} {what}: {', '.join(names)}. Leave one, or drop each alone.",
                found=", ".join(names),
                expected="one dataset (or train.* and eval.*) and at most one recipe",
            )
