"""What leaves this machine: the files of a published directory that may, as the publish stage hashed them.

The outbox is a share, and people write to it. So nothing there is taken on trust: the manifest must be the one that was
published, links are not followed, and what is uploaded is a private copy that was hashed while it was made.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from appliance.files import open_below
from appliance.outbox import MANIFEST, may_leave
from appliance.pushing import PushError, PushResult

CHUNK_BYTES: Final = 1 << 20
ADAPTER: Final = "adapter/"


@dataclass(frozen=True)
class ParcelFile:
    """One file as it will stand in the repository. `git_oid` is git's own hash, for those the Hub keeps in git."""

    name: str
    path: Path
    sha256: str
    git_oid: str
    bytes: int


def pack(directory: Path, into: Path, *, manifest_sha256: str | None) -> tuple[ParcelFile, ...]:
    """Copy what may leave of a published directory into an empty folder, and prove each copy by its hash.

    Raises PushError, blocked, when anything is not as it was published; OSError when it cannot be read or copied.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    manifest = _manifest(directory, manifest_sha256)
    wanted = [entry for entry in manifest["files"] if entry["push"]]
    return tuple(_pack(directory, into, entry) for entry in wanted)


def name_in_repository(path: str) -> str:
    """The adapter's files go to the root, so that PEFT and vLLM load the repository by its name."""
    return path.removeprefix(ADAPTER)


def _manifest(directory: Path, expected_sha256: str | None) -> dict[str, Any]:
    try:
        with _open(directory, MANIFEST) as file:
            text = file.read()
    except FileNotFoundError:
        hint = f"Put the folder {directory.name} back into the outbox, then push again with `appliance push`."
        raise PushError(PushResult.OTHER, "the result is not in the outbox any more", hint=hint, blocked=True) from None
    if expected_sha256 is None or hashlib.sha256(text).hexdigest() != expected_sha256:
        raise _changed(MANIFEST)
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _pack(directory: Path, into: Path, entry: Mapping[str, Any]) -> ParcelFile:
    path, target = entry["path"], into / name_in_repository(entry["path"])
    if not may_leave(path):
        raise PushError(PushResult.OTHER, f"{path} is of no kind that may leave", blocked=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256, git_oid = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % entry["bytes"], usedforsecurity=False)
    size = 0
    try:
        with _open(directory, path) as source, target.open("xb") as copy:
            # No more than it was: a file that grows for ever is not copied for ever.
            while size <= entry["bytes"] and (chunk := source.read(CHUNK_BYTES)):
                sha256.update(chunk)
                git_oid.update(chunk)
                size += copy.write(chunk)
    except FileNotFoundError:
        raise _changed(path) from None
    if sha256.hexdigest() != entry["sha256"]:
        raise _changed(path)
    return ParcelFile(name_in_repository(path), target, sha256.hexdigest(), git_oid.hexdigest(), size)


def _open(directory: Path, path: str) -> BinaryIO:
    """Open a file below a directory. Raises PushError for a link on the way, and for what is no file."""
    try:
        descriptor = open_below(directory, path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _changed(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _changed(path)
    return os.fdopen(descriptor, "rb")


def _changed(path: str) -> PushError:
    hint = "Nothing was sent. Drop the files again, or restore the folder and push again with `appliance push`."
    message = f"{path} in the outbox is not what was published"
    return PushError(PushResult.OTHER, message, hint=hint, blocked=True)
