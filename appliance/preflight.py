"""What a stage will write, looked at before it starts: a job waits for room instead of failing in the middle."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from appliance.disk import Space, reserve_bytes, space_of
from appliance.job import Job, Stage, Waiting
from appliance.job_dir import JobDir
from appliance.names import split_suffix
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
# Text packed by gzip or in Parquet; a gzip file says more where it was packed better.
PACKED_FACTOR: Final = 5
FEW_FILES: Final = 200


def lacks_room(
    job: Job, stage: Stage, job_dir: JobDir, state: Path, settings: Settings, *, promised: int = 0
) -> tuple[Waiting, str] | None:
    """Why a stage would run out of disk, with the numbers; None when there is room. Publishing looks for itself.

    `promised` is what was let in already and is still to be written.
    """
    if stage is Stage.PUBLISH:
        return None
    needs, space = needed_bytes(job, stage, job_dir), space_of(state)
    reserve = reserve_bytes(settings, space)
    if fits(needs, reserve, space, promised=promised):
        return None
    return Waiting.DISK, little_room("this", needs, reserve, space, promised=promised)


def promised_bytes(at_work: Iterable[tuple[Job, Stage, JobDir]]) -> int:
    """What the running stages still write."""
    total = 0
    for job, stage, job_dir in at_work:
        # A folder that somebody takes away or spoils is its own job's trouble.
        with contextlib.suppress(OSError):
            total += needed_bytes(job, stage, job_dir)
    return total


def needed_bytes(job: Job, stage: Stage, job_dir: JobDir) -> int:
    """The most that a stage still writes into the state folder. Fetching looks for itself."""
    # What it has written is counted by the disk already: a training that goes on takes nothing twice.
    return max(0, _foreseen(job, stage, job_dir) - bytes_below(job_dir.path / stage))


def _foreseen(job: Job, stage: Stage, job_dir: JobDir) -> int:
    match stage:
        case Stage.CHECK:
            return CHECK_FACTOR * sum(unpacked_bytes(job_dir.path / file.path, file.bytes) for file in job.files)
        case Stage.PREPARE:
            return PREPARE_FACTOR * _rows_bytes(job_dir) + SMALL_BYTES // 4
        case Stage.TRAIN:
            return training_bytes(job_dir.plan() or {})
    return 0


def unpacked_bytes(path: Path, packed: int) -> int:
    """About what a dropped file of `packed` bytes holds once it is unpacked."""
    suffix = split_suffix(path.name)[1]
    if suffix not in (".jsonl.gz", ".parquet"):
        return packed
    return max(PACKED_FACTOR * packed, _said_by_gzip(path) if suffix == ".jsonl.gz" else 0)


def _said_by_gzip(path: Path) -> int:
    """A gzip file ends with the number of bytes in it, counted up to four gigabytes; 0 for what is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            file.seek(-4, os.SEEK_END)
            return int.from_bytes(file.read(4), "little")
    return 0


def _rows_bytes(job_dir: JobDir) -> int:
    """The rows as the check wrote them out."""
    return sum(
        path.stat().st_size for name in ("rows.jsonl", "eval.jsonl") if (path := job_dir.path / "check" / name).exists()
    )


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


def fits(needs: int, reserve: int, space: Space, *, promised: int) -> bool:
    """Whether there is room beside the reserve, and for what is large also beside what was promised to others."""
    # Promises are the most that may be needed: what is small need not wait for hours until that is known.
    taken = reserve + (promised if needs > SMALL_BYTES else 0)
    return space.free_bytes >= needs + taken and space.free_files >= FEW_FILES


def little_room(what: str, needs: int, reserve: int, space: Space, *, promised: int = 0) -> str:
    """How much there is on the disk of the state folder, and how much `what` needs beside all else."""
    if space.free_files < FEW_FILES:
        return f"the disk of the state folder has room for {space.free_files} more files only"
    free = f"the disk of the state folder has {size(space.free_bytes)} free"
    kept = f", and {size(reserve)} are kept in reserve ({PREFIX}DISK_RESERVE_GB)" if reserve else ""
    under_way = f", what is under way {size(promised)} more" if promised and needs > SMALL_BYTES else ""
    return f"{free}; {what} needs {size(needs)}{under_way}{kept}"
