"""Checkpoint folders: written so that one is complete or does not count, read only after their hashes agree.

    train/checkpoints/step-000020/
      adapter_model.safetensors adapter_config.json optimizer.pt scheduler.pt rng_state.pth trainer_state.json
      COMPLETE.json        sizes, hashes and the job's standing; written last, after everything else is on the disk

Imports no torch: what goes into the files is the caller's business.
"""

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.errors import StageFailure
from appliance.exits import number_of
from appliance.files import sha256_of, sync, write_json
from appliance.job import FailureClass
from appliance.stages.training.standing import Standing

COMPLETE: Final = "COMPLETE.json"
KEEP: Final = 2
ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_config.json")
# A bad sector, or what a file system says of content that it knows to be damaged.
UNREADABLE: Final = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)

# Made when its turn comes and let go again: an optimizer's state is large.
Content = Callable[[], bytes]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, its files' sizes and hashes, and how far the job had come."""

    path: Path
    files: dict[str, dict[str, Any]]
    standing: Standing

    @property
    def step(self) -> int:
        return self.standing.step

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.files.values())

    @property
    def is_finite(self) -> bool:
        return self.standing.loss is not None

    def is_undamaged(self, names: Iterable[str] | None = None) -> bool:
        """Whether every file, or every one of `names`, still has the size and the hash it was written with."""
        names = self.files if names is None else names
        return all(name in self.files and _matches(self.path / name, self.files[name]) for name in names)


def write_checkpoint(checkpoints: Path, standing: Standing, parts: Mapping[str, Content]) -> Checkpoint:
    """Write the files of a checkpoint and then the word that it is complete."""
    folder = checkpoints / f"step-{standing.step:06d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content())
    files = {name: describe(folder / name) for name in parts}
    for path in (*folder.iterdir(), folder, checkpoints):
        sync(path)
    return _declare_complete(Checkpoint(folder, files, standing))


def amend_checkpoint(checkpoint: Checkpoint, standing: Standing) -> Checkpoint:
    """The same files with a newer standing: what came to be known after them, such as their held-out loss."""
    return _declare_complete(Checkpoint(checkpoint.path, checkpoint.files, standing))


def newest_good_checkpoint(checkpoints: Path) -> Checkpoint | None:
    """The newest complete checkpoint whose files are as they were written, or None."""
    candidates = sorted(complete_checkpoints(checkpoints), key=lambda one: one.step, reverse=True)
    return next((one for one in candidates if one.is_finite and one.is_undamaged()), None)


def final_checkpoint(checkpoints: Path, *, best: int | None, last: int) -> Checkpoint:
    """The checkpoint that a finished training gives its adapter from: of step `best`, if its adapter is as it was
    written, else of step `last`.

    Raises StageFailure when neither is: the next attempt then goes on from the one before.
    """
    found = {one.step: one for one in complete_checkpoints(checkpoints)}
    for step in (best, last):
        if step in found and found[step].is_undamaged(ADAPTER_FILES):
            return found[step]
    raise StageFailure(
        FailureClass.DISK_FULL,
        f"the checkpoint of the last step, {last}, is not on the disk as it was written",
        hint="The disk of the state folder may be failing: `dmesg` on the host says more.",
    )


def complete_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """Every checkpoint that says it is complete; its files are not looked at."""
    found = (_read(folder) for folder in checkpoints.glob("step-*"))
    return [checkpoint for checkpoint in found if checkpoint]


def forget_later_checkpoints(checkpoints: Path, step: int) -> None:
    """Remove what lies beyond `step`: unfinished, or damaged, or it would have been resumed from."""
    for folder in checkpoints.glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


def rotate_checkpoints(checkpoints: Path, *, also_keep: Iterable[int | None] = ()) -> None:
    """Keep the newest complete checkpoints, the newest with a finite loss, and those asked for; remove the others."""
    complete = sorted(complete_checkpoints(checkpoints), key=lambda one: one.step)
    finite = [one for one in complete if one.is_finite]
    keep = {one.path for one in complete[-KEEP:] + finite[-1:]}
    keep |= {one.path for one in complete if one.step in set(also_keep)}
    for folder in checkpoints.glob("step-*"):
        if folder not in keep:
            shutil.rmtree(folder)


def assemble_adapter(checkpoint: Checkpoint, tokenizer: Path, target: Path) -> dict[str, dict[str, Any]]:
    """Make `target`, whole or not at all, from a checkpoint's adapter and the tokenizer it was trained with.

    Returns the size and hash of every file in it.
    """
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(tokenizer, staging)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint.path / name, staging / name)
    paths = sorted(staging.rglob("*"))
    files = {str(path.relative_to(staging)): describe(path) for path in paths if path.is_file()}
    for path in (*paths, staging):
        sync(path)
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    sync(target.parent)
    return files


def is_unreadable(error: OSError) -> bool:
    """Whether an error says that what was written cannot be had back, however often one tries."""
    return number_of(error) in UNREADABLE


def describe(path: Path) -> dict[str, Any]:
    """`{"bytes", "sha256"}` of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _declare_complete(checkpoint: Checkpoint) -> Checkpoint:
    write_json(checkpoint.path / COMPLETE, {**checkpoint.standing.as_json(), "files": checkpoint.files})
    return checkpoint


def _read(folder: Path) -> Checkpoint | None:
    try:
        value = json.loads((folder / COMPLETE).read_text())
        return Checkpoint(folder, value["files"], Standing.from_json(value))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        if is_unreadable(error):
            return None
        raise


def _matches(path: Path, entry: dict[str, Any]) -> bool:
    try:
        # The size first: it tells a cut file without reading it.
        return path.is_file() and path.stat().st_size == entry["bytes"] and describe(path) == entry
    except OSError as error:
        if is_unreadable(error):
            return False
        raise
