"""Labels of earlier jobs, kept so that the same dataset with another learning rate is not labelled again.

state/cache/prepared/
  DATASET-KEY/         one entry: the start of the dataset's SHA-256, and a hash of everything that decides its labels
    train.arrow ...    what prepare wrote, hard links where the file system has them
    entry.json         the facts and a hash of every file; its time is that of the last use

A cache never fails a job: what cannot be read, or is not as it was written, counts as not there.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from appliance.files import sha256_of

logger = logging.getLogger(__name__)

MOST_ENTRIES: Final = 32
MOST_BYTES: Final = 10 * 10**9
RECORD: Final = "entry.json"
# Enough of a SHA-256 for a name: collisions stay out of reach.
NAME_DIGITS: Final = 32


@dataclass(frozen=True)
class LabelCache:
    """The entries in one folder, which is made when there is something to keep."""

    folder: Path
    most_entries: int = MOST_ENTRIES
    most_bytes: int = MOST_BYTES

    @classmethod
    def in_state(cls, state: Path) -> "LabelCache":
        return cls(state / "cache" / "prepared")

    def take(self, dataset_sha256: str, key: str, target: Path) -> dict[str, Any] | None:
        """Put an entry's files into `target` and return its facts; None when there is no whole entry."""
        entry = self._entry(dataset_sha256, key)
        try:
            record = json.loads((entry / RECORD).read_text())
            if {name: sha256_of(entry / name) for name in record["files"]} != record["files"]:
                raise ValueError("a file is not as it was written")
            for name in record["files"]:
                _link(entry / name, target / name)
            os.utime(entry / RECORD)
            return cast("dict[str, Any]", record["facts"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("cached labels were not used: %s", error)
            shutil.rmtree(entry, ignore_errors=True)
            return None

    def keep(self, dataset_sha256: str, key: str, source: Path, names: Iterable[str], facts: dict[str, Any]) -> None:
        """Keep the named files of `source`, and let go of what was not used for longest when that is too much."""
        entry = self._entry(dataset_sha256, key)
        staging = entry.with_name(f".{entry.name}.{os.getpid()}.partial")
        try:
            staging.mkdir(parents=True)
            files = [name for name in names if (source / name).is_file()]
            for name in files:
                _link(source / name, staging / name)
            record = {"files": {name: sha256_of(staging / name) for name in files}, "facts": facts}
            (staging / RECORD).write_text(json.dumps(record))
            shutil.rmtree(entry, ignore_errors=True)
            staging.rename(entry)
            self._let_go()
        except OSError as error:
            logger.warning("labels were not cached: %s", error)
            shutil.rmtree(staging, ignore_errors=True)

    def forget(self, dataset_sha256: str) -> None:
        """Remove every entry of a dataset, half-written ones too."""
        for pattern in ("{}-*", ".{}-*"):
            for entry in self.folder.glob(pattern.format(dataset_sha256[:NAME_DIGITS])):
                shutil.rmtree(entry)

    def _entry(self, dataset_sha256: str, key: str) -> Path:
        return self.folder / f"{dataset_sha256[:NAME_DIGITS]}-{key[:NAME_DIGITS]}"

    def _let_go(self) -> None:
        left = self.most_bytes
        for position, entry in enumerate(sorted(self.folder.iterdir(), key=_last_use, reverse=True)):
            left -= sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            # Once one is too much, the older ones go too: what is used least must not outlive what is used more.
            if left < 0 or position >= self.most_entries:
                shutil.rmtree(entry)


def _last_use(entry: Path) -> float:
    """When an entry was used last; 0 for what a crash left unfinished."""
    record = entry / RECORD
    return record.stat().st_mtime if record.is_file() and not entry.name.startswith(".") else 0.0


def _link(source: Path, target: Path) -> None:
    """The same content under another name, in place of what stands there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)
