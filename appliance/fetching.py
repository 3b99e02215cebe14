"""The program that talks to the Hub for those who fetch: started, never imported, since it may hang and be killed."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from appliance.models import cache_folder
from appliance.processes import PARENT
from appliance.settings import Settings


@dataclass(frozen=True)
class Wanted:
    """A model into the cache; or its `config.json` alone, or the rows of a dataset, into a folder.

    Of a model `keep_free_bytes` stay free on the disk; a dataset has at most `most_bytes`.
    """

    repository: str
    revision: str | None
    keep_free_bytes: int = 0
    config_to: Path | None = None
    dataset_to: Path | None = None
    most_bytes: int = 0


def start_download(wanted: Wanted, settings: Settings, out: IO[bytes], *, xet: bool) -> subprocess.Popen[bytes]:
    """Start the program. It prints to `out`, for `read_answers`, and ends when this process does."""
    child = subprocess.Popen(
        [sys.executable, "-m", "appliance.stages.download"],
        stdin=subprocess.PIPE,
        stdout=out,
        env=_environment(settings, xet=xet),
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(asdict(wanted), default=str).encode())
    child.stdin.close()
    return child


def read_answers(path: Path) -> list[dict[str, Any]]:
    """What it has printed so far: `{"total": bytes}` once that is known, and at last what came of it."""
    # The last line may still be on its way.
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _environment(settings: Settings, *, xet: bool) -> dict[str, str]:
    ours = {
        "HF_HOME": str(cache_folder(settings)),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_XET_HIGH_PERFORMANCE": "1",
        PARENT: str(os.getpid()),
    }
    token = {"HF_TOKEN": settings.hub_read_token} if settings.hub_read_token else {}
    without = {} if xet else {"HF_HUB_DISABLE_XET": "1"}
    inherited = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    return inherited | ours | token | without
