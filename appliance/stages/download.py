"""Downloads one model repository into the Hugging Face cache, or the rows of a dataset: a program that may be killed.

`python -m appliance.stages.download` reads a request from standard input (one JSON object, `fetching.Wanted`) and
prints one JSON object a line: `{"total": bytes}` once the size is known, then either `{"path"}`, of a dataset with its
`commit` and `name`, or `{"error": kind, "message", "hint"}`, with `raw` where the error's own words are
others. The reading token comes in `HF_TOKEN`; no other token is
ever used.
"""

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import httpx
from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    set_client_factory,
    snapshot_download,
)
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)

from appliance.hub.away import why_away
from appliance.logs import redact_output
from appliance.models import (
    UnusableModel,
    cached_snapshot,
    has_all_weights,
    is_whole,
    repository_folder,
    size_of,
    unsafe_reasons,
)
from appliance.processes import die_with_parent
from appliance.stages.hub_dataset import UnusableDataset, download_dataset
from appliance.texts.wording import size

# Weights, configuration, tokenizer, and the card, for the licence. Nothing that can hold code: no pickles, no Python.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md")
# The same weights once more, for other programs.
UNWANTED = ("original/*", "onnx/*", "consolidated*", "*/*.safetensors")
TIMEOUT_SECONDS = 60.0


def main() -> None:
    die_with_parent()
    token = os.environ.get("HF_TOKEN")
    redact_output([token] if token else [])
    request = json.load(sys.stdin)
    repository, revision = request["repository"], request["revision"]
    what = "dataset" if request["dataset_to"] else "base model"
    set_client_factory(_client_with_timeout)
    try:
        if request["dataset_to"]:
            folder, most_bytes = Path(request["dataset_to"]), request["most_bytes"]
            found = download_dataset(
                repository, folder, token=token or False, most_bytes=most_bytes, tell=lambda total: tell(total=total)
            )
        elif request["config_to"]:
            found = {"path": download_config(repository, revision, request["config_to"])}
        else:
            found = {"path": download(repository, revision, request["keep_free_bytes"])}
    except Exception as error:  # noqa: BLE001 - every fault is told to the parent, in its own kind
        tell(**explain(error, repository, what))
    else:
        tell(**found)


def download(repository: str, revision: str | None, keep_free_bytes: int) -> str:
    """The directory of the complete snapshot. What is in the cache already needs no network."""
    cached = cached_snapshot(repository, revision, Path(HF_HUB_CACHE).parent)
    if cached is not None and _mark(cached).exists() and is_whole(cached):
        return str(cached)
    try:
        snapshot = _download(repository, revision, keep_free_bytes)
    except (httpx.HTTPError, OSError):
        # Fetched by another program, and no network to ask whether that is all there is: its index tells.
        if cached is not None and has_all_weights(cached):
            return str(cached)
        raise
    _mark(Path(snapshot)).touch()
    return snapshot


def _mark(snapshot: Path) -> Path:
    """Written last: while it is missing, a download may have been cut short."""
    return snapshot.parents[1] / f"complete-{snapshot.name}"


def _download(repository: str, revision: str | None, keep_free_bytes: int) -> str:
    token = os.environ.get("HF_TOKEN") or False
    info = HfApi(token=token).model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = [name for name in sizes if is_wanted(name)]
    total = sum(sizes[name] for name in wanted)
    tell(total=total)
    _refuse_early(repository, info.sha, wanted, token)
    with keep_room(repository, total, keep_free_bytes):
        return _snapshot(repository, revision, token=token)


def download_config(repository: str, revision: str | None, folder: str) -> str:
    """Fetch `config.json` alone, outside the cache: a snapshot that holds nothing else must not be taken for one."""
    token = os.environ.get("HF_TOKEN") or False
    # The library tries five times, half a minute, before it says that there is no network: somebody may wait for this.
    get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision), token=token, timeout=TIMEOUT_SECONDS)
    hf_hub_download(repository, "config.json", revision=revision, token=token, local_dir=folder)
    return folder


def _snapshot(repository: str, revision: str | None, *, token: str | bool) -> str:
    folder = snapshot_download(
        repository,
        revision=revision,
        token=token,
        allow_patterns=list(WANTED),
        ignore_patterns=list(UNWANTED),
        max_workers=4,
    )
    return str(folder)


def is_wanted(name: str) -> bool:
    """Whether a file of a repository is downloaded."""
    return any(fnmatch(name, pattern) for pattern in WANTED) and not any(fnmatch(name, bad) for bad in UNWANTED)


def explain(error: BaseException, repository: str, what: str = "base model") -> dict[str, Any]:
    """An error as the parent reads it: `unavailable` is final, `network` and `disk` pass by themselves."""
    match error:
        case UnusableModel() | UnusableDataset():
            return _error("unavailable", error.message, error.hint)
        case GatedRepoError():
            page = f"https://huggingface.co/{'datasets/' if what == 'dataset' else ''}{repository}"
            hint = f"Accept its conditions at {page} and set APPLIANCE_HUB_READ_TOKEN_FILE."
            return _error("unavailable", f"the {what} {repository} is gated", hint)
        case RevisionNotFoundError():
            return _error("unavailable", f"the {what} {repository} has no such revision", "Correct revision.")
        case RepositoryNotFoundError() | RemoteEntryNotFoundError() | HFValidationError():
            key = what.replace(" ", "_")
            hint = f"Check {key} for a typing mistake; a private one needs APPLIANCE_HUB_READ_TOKEN_FILE."
            return _error("unavailable", f"the Hub knows no {what} {repository}, or it is private", hint)
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            hint = "Set APPLIANCE_HUB_READ_TOKEN_FILE to a token that may read it."
            return _error("unavailable", f"the Hub refuses access to {repository}", hint)
        case XetDownloadError() | RuntimeError():
            return _error("xet", str(error), None)
        case HfHubHTTPError() | httpx.HTTPError() | LocalEntryNotFoundError() | ValueError():
            raw = f"{type(error).__name__}: {error}"
            return _error("network", f"the Hub cannot be reached: {why_away(error)}", None) | {"raw": raw}
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            said = error.strerror if isinstance(error, NoRoomError) else None
            return _error("disk", said or f"the disk is full while downloading {repository}", None)
        case OSError(errno=None):
            # What the client raises when a file arrives with the wrong size.
            return _error("network", str(error), None)
    return _error("crash", f"{type(error).__name__}: {error}", None)


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _error(kind: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"error": kind, "message": message, "hint": hint}


def _refuse_early(repository: str, commit: str | None, names: list[str], token: str | bool) -> None:
    """Look at the small files before gigabytes are downloaded for nothing."""
    if not any(name.endswith(".safetensors") for name in names):
        raise UnusableModel(
            f"the base model {repository} has no safetensors weights, and other weight files can hold code",
            hint="Choose a repository that has them; most models have one.",
        )
    for name in {"config.json", "tokenizer_config.json"} & set(names):
        folder = Path(hf_hub_download(repository, name, revision=commit, token=token)).parent
        if why := next((why for why in unsafe_reasons(folder) if "auto_map" in why), None):
            raise UnusableModel(why, hint="Choose a model that Transformers supports itself.")


class NoRoomError(OSError):
    """A model does not fit beside what must stay free and what other downloads still bring."""


@contextmanager
def keep_room(repository: str, total: int, keep_free_bytes: int) -> Iterator[None]:
    """Claim the room for a model while it is fetched, or raise NoRoomError: whoever comes later finds so much less.

    No crash leaves a claim behind. Where none can be kept (somebody else's directory, a share without locks), what is
    free has to do.
    """
    blobs = repository_folder(repository, Path(HF_HUB_CACHE).parent) / "blobs"
    claims = Path(HF_HUB_CACHE).parent / "downloads"
    with ExitStack() as held:
        with ExitStack() as turn:
            with suppress(OSError):
                claims.mkdir(parents=True, exist_ok=True)
                fcntl.flock(turn.enter_context((claims / "lock").open("a")), fcntl.LOCK_EX)
            missing = _still_missing(blobs, total)
            room = shutil.disk_usage(HF_HUB_CACHE).free - keep_free_bytes - _claimed_by_others(claims, blobs)
            if missing > room:
                raise NoRoomError(
                    errno.ENOSPC,
                    f"downloading {repository} needs {size(missing)}, and {size(max(0, room))} are free beside the"
                    " reserve and what is under way",
                )
            with suppress(OSError):
                _claim(claims / f"{uuid4()}.json", {"blobs": str(blobs), "total": total}, held)
        yield


def _claim(path: Path, said: dict[str, Any], held: ExitStack) -> None:
    claim = held.enter_context(path.open("x"))
    held.callback(path.unlink, missing_ok=True)
    fcntl.flock(claim, fcntl.LOCK_EX)
    json.dump(said, claim)
    claim.flush()


def _claimed_by_others(claims: Path, ours: Path) -> int:
    """The bytes that other downloads still bring. Two of one model bring it once."""
    claimed = {}
    for path in claims.glob("*.json"):
        # What cannot be opened, locked or read says nothing; what nobody holds was left by a crash.
        with suppress(OSError, ValueError, KeyError), path.open("r+") as claim:
            if _is_held(claim):
                said = json.load(claim)
                claimed[said["blobs"]] = _still_missing(Path(said["blobs"]), said["total"])
            else:
                path.unlink()
    return sum(bytes_ for blobs, bytes_ in claimed.items() if blobs != str(ours))


def _is_held(claim: IO[str]) -> bool:
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # The second is how some shares say it.
        return True
    return False


def _still_missing(blobs: Path, total: int) -> int:
    return max(0, total - size_of(blobs))


def _client_with_timeout() -> httpx.Client:
    # The client's own default waits for ever.
    return httpx.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS)


if __name__ == "__main__":
    main()
