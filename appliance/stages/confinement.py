"""What train and verify give up before they load a line of foreign code: the internet, secrets, everybody else's data.

They run tens of thousands of lines of other people's Python on files from people and models from the Hub. None of it
needs a socket, a token, another job's rows or the database. The rest of the machine can be read, which libraries do in
many places, and nothing but the stage's own folder, its caches and temporary files can be written.
"""

import os
import pwd
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance import sandbox
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.models import cache_folder
from appliance.processes import HIDDEN
from appliance.settings import Settings
from appliance.surroundings import MOUNTED_SECRETS

CONFINED: Final = frozenset({Stage.TRAIN, Stage.VERIFY})
# Devices of the GPU are used and /dev/shm holds shared memory; a process renames and ranks itself below /proc.
_DEVICES: Final = (Path("/dev"), Path("/proc"))
# What people keep at home and no training has a use for.
_PRIVATE: Final = (".ssh", ".gnupg", ".aws", ".docker", ".kube", ".config", ".netrc", ".git-credentials", ".pypirc")
_HUB_TOKENS: Final = ("token", "stored_tokens")


def confine(stage: Stage, job: JobDir, settings: Settings) -> None:
    """Give all of it up for good. Where the kernel knows no such thing, the log of the stage says so."""
    folder = job.stage(stage)
    caches = [*_caches(settings)]
    hidden = {path.resolve() for path in _hidden(settings)}
    # A grant holds for all below it: the cache lies in what is hidden, and holds something to hide itself.
    cache = sandbox.visible(cache_folder(settings).resolve(), hidden)
    # So may the models of one's own.
    models = sandbox.visible(settings.models.resolve(), hidden)
    readable = [*sandbox.visible(Path("/"), hidden), *cache, *models, job.path]
    # Whoever keeps models below /tmp does not want them changed either.
    kept = hidden | {settings.models.resolve(), settings.recipes.resolve()}
    usable = [folder, *caches, *_DEVICES, *sandbox.visible(Path(tempfile.gettempdir()).resolve(), kept)]
    try:
        if not sandbox.close_file_system(readable=readable, usable=usable):
            sys.stderr.write("this kernel has no Landlock: files of others are not hidden from this stage\n")
        sandbox.refuse_internet()
    except OSError as error:
        sys.stderr.write(f"this kernel does not let a stage give up what it does not need: {error}\n")


def _hidden(settings: Settings) -> Iterator[Path]:
    """What must not be seen. The stage's own part of the state folder is given back by name."""
    yield from (settings.state, settings.inbox, settings.outbox, MOUNTED_SECRETS)
    for path in map(Path, filter(None, os.environ.get(HIDDEN, ".env").split(os.pathsep))):
        yield path
        if path.parent.name == "secrets":
            yield path.parent
    home = _home()
    yield from (home / name for name in _PRIVATE)
    for cache in (cache_folder(settings), home / ".cache" / "huggingface"):
        yield from (cache / name for name in _HUB_TOKENS)


def _caches(settings: Settings) -> Iterator[Path]:
    """Folders for what libraries compile, made here since a folder must be there to be granted. Not the models."""
    cache = settings.state.resolve() / "cache"
    variables = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION", "MPLCONFIGDIR", "HOME")
    named = {os.environ[name] for name in variables if name in os.environ}
    for folder in (
        *map(Path, named),
        *(cache / name for name in ("unsloth", "unsloth-compiled", "triton", "inductor")),
    ):
        if folder.is_relative_to(cache):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder


def _home() -> Path:
    """The home of whoever runs this, not the one that the environment of a stage names."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/nonexistent")
