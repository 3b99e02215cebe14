"""The outbox: results appear in it whole, or not at all."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from appliance.errors import NotReadyError
from appliance.files import sha256_of, sync, write_json
from appliance.job import Waiting
from appliance.names import job_number

MANIFEST: Final = "manifest.json"


def publish(
    outbox: Path, name: str, *, job_uuid: str, fill: Callable[[Path], None], facts: Callable[[], dict[str, Any]]
) -> Path:
    """Make the directory `name` visible in the outbox, complete, and return its path.

    `fill` writes the files into an empty staging directory; `facts` gives the manifest's other fields, and is called
    after it. Doing it again for the same job changes nothing. Raises NotReadyError while something else has the name,
    OSError when the outbox cannot be written.
    """
    final = outbox / name
    if final.exists():
        return _already_there(final, job_uuid)
    staging = outbox / f".{name}.partial"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    fill(staging)
    files = [_file_entry(staging, path) for path in _files(staging)]
    write_json(staging / MANIFEST, {**facts(), "files": files})
    _sync_tree(staging)
    # Within one file system, so in one step; a directory that is there already and not empty is never replaced.
    staging.rename(final)
    sync(outbox)
    return final


def remove_partials(outbox: Path, *, except_for: Iterable[str] = ()) -> None:
    """Remove what a crash in mid-publish left behind, except for jobs that are about to publish again."""
    keep = {f".{name}.partial" for name in except_for}
    for path in outbox.glob(".*.partial"):
        if job_number(path.name[1:]) is not None and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a published directory. Raises FileNotFoundError or ValueError when there is none."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except RecursionError as error:
        # The outbox is a share: whoever may write there may write anything.
        raise ValueError("nested too deeply to be a manifest") from error
    return manifest


def manifest_sha256(directory: Path) -> str:
    """The hash of a manifest: who knows it can tell whether anything in the directory was changed."""
    return sha256_of(directory / MANIFEST)


def find_result(outbox: Path, job_id: str) -> Path | None:
    """The directory of a job in the outbox, whatever its outcome."""
    names = (path for path in outbox.glob(f"{job_id}*") if path.name == job_id or path.name.startswith(f"{job_id}."))
    return next((path for path in names if path.is_dir()), None)


def _already_there(final: Path, job_uuid: str) -> Path:
    try:
        same = read_manifest(final)["job_uuid"] == job_uuid
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        message = f"{final.name} stands in the outbox already and is not of this job; move it out of there"
        raise NotReadyError(message, waiting=Waiting.DISK, hint="The result is published at the next try.")
    sync(final.parent)
    return final


def _file_entry(root: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    return {"path": name, "sha256": sha256_of(path), "bytes": path.stat().st_size, "push": may_leave(name)}


def may_leave(name: str) -> bool:
    """Whether a file of a result may be pushed to the Hub: weights, tokenizer, card and aggregates; never rows or logs.

    By kind, and not by folder: whatever else comes to lie beside the adapter stays here.
    """
    return name in ("recipe.yaml", "eval.json") or bool(_OF_AN_ADAPTER.fullmatch(name))


_KINDS: Final = "safetensors|json|jinja|txt|model|md"
_OF_AN_ADAPTER: Final = re.compile(rf"adapter/(?!trainer_state)\w[\w.-]*\.({_KINDS})", re.ASCII)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))
