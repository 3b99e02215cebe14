"""What a stage will write, looked at before it starts: a job waits for room instead of failing in the middle."""

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from appliance.disk import Space, reserve_bytes, space_of
from appliance.job import Job, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.settings import PREFIX, Settings
from appliance.texts.wording import size

# Kept at once: the newest two, the last finite one, the best, and the one that is being written.
CHECKPOINTS_AT_ONCE: Final = 5
# Adapter in 32 bit and both of the optimizer's moments in 32 bit, the most that an optimizer keeps.
CHECKPOINT_BYTES_PER_PARAMETER: Final = 12
ADAPTER_BYTES_PER_PARAMETER: Final = 4
# Tokenizer, logs and small files.
SMALL_BYTES: Final = 64 * 10**6
# Rows are written out once normalised, then once as token ids and labels of four bytes each.
CHECK_FACTOR: Final = 2
PREPARE_FACTOR: Final = 4
FEW_FILES: Final = 200


def lacks_room(job: Job, stage: Stage, job_dir: JobDir, state: Path, settings: Settings) -> tuple[Waiting, str] | None:
    """Why a stage would run out of disk, with the numbers; None when there is room. Publishing looks for itself."""
    if stage is Stage.PUBLISH:
        return None
    needs, space = needed_bytes(job, stage, job_dir), space_of(state)
    reserve = reserve_bytes(settings, space)
    return None if _fits(needs, reserve, space) else (Waiting.DISK, little_room("this", needs, reserve, space))


def needed_bytes(job: Job, stage: Stage, job_dir: JobDir) -> int:
    """The most that a stage still writes into the state folder. Fetching looks for itself."""
    dropped = sum(file.bytes for file in job.files)
    match stage:
        case Stage.CHECK:
            return CHECK_FACTOR * dropped
        case Stage.PREPARE:
            return PREPARE_FACTOR * dropped + SMALL_BYTES // 4
        case Stage.TRAIN:
            # A training that goes on takes nothing twice: what it has written is counted by the disk already.
            written = sum(bytes_below(job_dir.path / stage / name) for name in ("checkpoints", "adapter"))
            return max(0, training_bytes(job_dir.plan() or {}) - written)
    return 0


def training_bytes(plan: dict[str, Any]) -> int:
    """Checkpoints and adapter of a training, from the number of parameters that it trains."""
    parameters = int(plan.get("trainable_parameters") or 0)
    checkpoints = CHECKPOINTS_AT_ONCE * CHECKPOINT_BYTES_PER_PARAMETER * parameters
    return checkpoints + 2 * ADAPTER_BYTES_PER_PARAMETER * parameters + (SMALL_BYTES if parameters else 0)


def bytes_below(folder: Path) -> int:
    """What the files of a folder hold; whoever works there may take some away meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total


def _fits(needs: int, reserve: int, space: Space) -> bool:
    return space.free_bytes >= needs + reserve and space.free_files >= FEW_FILES


def little_room(what: str, needs: int, reserve: int, space: Space) -> str:
    """How much there is on the disk of the state folder, and how much `what` needs beside the reserve."""
    if space.free_files < FEW_FILES:
        return f"the disk of the state folder has room for {space.free_files} more files only"
    free = f"the disk of the state folder has {size(space.free_bytes)} free"
    kept = f", and {size(reserve)} are kept in reserve ({PREFIX}DISK_RESERVE_GB)" if reserve else ""
    return f"{free}; {what} needs {size(needs)}{kept}"
