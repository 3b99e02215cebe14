"""Which repositories this installation meant to create, written down before it asked for them. Loads no Hub library."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from appliance.files import write_json


@dataclass(frozen=True)
class Intentions:
    """A folder with a file for each repository, by its name `org/name`."""

    folder: Path

    @classmethod
    def in_state(cls, state: Path) -> Self:
        """Those of the installation with this state folder."""
        return cls(state.resolve() / "hub")

    def note(self, repository: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(repository), {"repository": repository})

    def has(self, repository: str) -> bool:
        return self._path(repository).is_file()

    def of(self, name: str) -> list[str]:
        """Those that are noted of the repository `name`, in whichever organisation."""
        return [json.loads(path.read_text())["repository"] for path in sorted(self._notes(name))]

    def forget(self, name: str) -> None:
        """Remove what `of` finds."""
        for path in self._notes(name):
            path.unlink()

    def _notes(self, name: str) -> list[Path]:
        return list(self.folder.glob(f"*--{name}.json"))

    def _path(self, repository: str) -> Path:
        return self.folder / f"{repository.replace('/', '--')}.json"
