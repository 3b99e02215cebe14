"""`appliance submit`: put files into the inbox, each whole from the moment it is visible there."""

import shutil
import uuid
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.files import rename_new, sync
from appliance.names import ignored
from appliance.places import library_recipes
from appliance.settings import Settings


class SubmitError(ApplianceError):
    """The files cannot be put into the inbox."""

    exit_code = 2


def submit(paths: list[Path], recipe: str | None) -> None:
    """Copy files into the inbox, or into the folder of a library recipe."""
    settings = Settings.load()
    known = library_recipes(settings.recipes)
    if recipe is not None and recipe not in known:
        raise SubmitError(f"there is no recipe {recipe} in {settings.recipes}", hint=f"There are: {', '.join(known)}.")
    folder = settings.inbox / recipe if recipe else settings.inbox
    if not settings.inbox.is_dir():
        raise SubmitError(f"the inbox {settings.inbox.resolve()} is not there", hint="Set APPLIANCE_INBOX.")
    _must_differ(paths)
    for path in paths:
        _must_fit(path, folder / path.name)
    folder.mkdir(exist_ok=True)
    for path in paths:
        _put(path, folder / path.name)
        print(f"{path.name} is in the inbox")


def _must_differ(paths: list[Path]) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        if path.name in first:
            raise SubmitError(f"{first[path.name]} and {path} have one name", hint="Rename one of them.")
        first[path.name] = path


def _must_fit(path: Path, target: Path) -> None:
    if not path.is_file():
        raise SubmitError(f"{path} is not a file", hint="Name a dataset, a recipe, or both.")
    if ignored(path.name, folder=False):
        raise SubmitError(f"{path.name} is a name that the inbox ignores", hint="Rename it.")
    if target.exists():
        raise _there_already(target)


def _there_already(target: Path) -> SubmitError:
    return SubmitError(f"{target} is there already", hint="Wait until it is taken in, or rename yours.")


def _put(path: Path, target: Path) -> None:
    # A dot-file is ignored by the inbox; the rename makes the whole file appear at once.
    hidden = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        shutil.copyfile(path, hidden)
        sync(hidden)
        rename_new(hidden, target)
    except FileExistsError as error:
        # Somebody else's, since it was looked for.
        hidden.unlink(missing_ok=True)
        raise _there_already(target) from error
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise SubmitError(f"{path} cannot be copied into {target.parent}: {error.strerror}") from error
