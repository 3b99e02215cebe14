"""The folders of an installation, and what lies where in them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from appliance.errors import ApplianceError
from appliance.names import job_number
from appliance.settings import Settings


@dataclass(frozen=True)
class Places:
    """The folders that intake works with. `state` is one file system, so that renames inside it are atomic."""

    state: Path
    outbox: Path
    recipes: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the installation that the settings name."""
        return cls(*map(resolved, (settings.state, settings.outbox, settings.recipes)))

    @property
    def incoming(self) -> Path:
        return self.state / "incoming"

    @property
    def jobs(self) -> Path:
        """Where the job directories lie."""
        return self.state / "jobs"


def resolved(folder: Path) -> Path:
    """Where a folder lies, links followed. Looked up once: a share that hangs would hang whoever looks again."""
    return _resolved(folder.absolute())


@cache
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def highest_number(folder: Path) -> int:
    """The highest job number that anything in a folder is called by; 0 when there is none. Raises OSError."""
    numbers = (job_number(name) for name in os.listdir(folder))
    return max((number for number in numbers if number is not None), default=0)


def library_recipes(folder: Path) -> tuple[str, ...]:
    """The names of the ready-made recipes, in order."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml") if not path.name.startswith(".")))


def is_recipe(folder: Path, name: str) -> bool:
    """Whether a ready-made recipe has this name at this moment."""
    return (folder / f"{name}.yaml").is_file()


def is_library_recipe(named: Path, folder: Path) -> bool:
    """Whether the name of a ready-made recipe was given where a file may be, too. A file of that name wins."""
    return not named.exists() and str(named) in library_recipes(folder)


def how_to_name_a_recipe(folder: Path) -> str:
    """The hint for who named neither a file nor a ready-made recipe."""
    return f"Name a recipe file, or one of the library: {', '.join(library_recipes(folder))}."


def make_folders(folders: Iterable[Path]) -> None:
    """Make those that are not there. Raises ApplianceError with what to do about the first that cannot be made."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ApplianceError(
                f"the folder {folder} cannot be made: {error.strerror}",
                hint=f"Make it yourself, or check who may write {folder.parent}.",
            ) from error
