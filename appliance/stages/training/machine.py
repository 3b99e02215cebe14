"""The machine as the training process sees it: its own memory, what is free, and the GPU if there is one."""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from appliance.errors import ApplianceError, NotReadyError, StageFailure
from appliance.job import FailureClass, Waiting
from appliance.memory import memory_reserve_bytes, read_memory
from appliance.planning.machine import MachineKind
from appliance.planning.memory_bill import CUDA_CONTEXT_BYTES
from appliance.processes import started_at
from appliance.settings import Settings

_STATUS = Path("/proc/self/status")


def has_gpu() -> bool:
    return bool(torch.cuda.is_available())


def require_gpu(planned_for: MachineKind) -> None:
    """Raises NotReadyError while the GPU that a job was planned for is not to be seen: on the CPU it would take weeks.

    A torch that is built without CUDA never sees one, and is somebody's choice.
    """
    if planned_for == "gpu" and torch.version.cuda and not has_gpu():
        message = "the job was planned for the GPU, and torch finds none: its driver does not answer CUDA programs"
        raise NotReadyError(
            f"{message}; `appliance doctor` and docs/operations.md say what to look at", waiting=Waiting.GPU
        )


def device_map() -> dict[str, int | str]:
    """Everything on the one device. Automatic placement would spill to the CPU and break 4-bit loads."""
    return {"": 0} if has_gpu() else {"": "cpu"}


def resident_bytes() -> int:
    """Memory of this process now."""
    return _status_bytes(b"VmRSS:")


def peak_resident_bytes() -> int:
    """The most memory this process has had."""
    return _status_bytes(b"VmHWM:")


def process_age_seconds() -> float:
    """How long this process has been running, its imports included."""
    ticks = started_at(os.getpid()) or 0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def forget_peak() -> None:
    """Begin to measure `peak_resident_bytes` anew. Where the kernel does not allow it, the peak stays the old one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def own_weights(model: torch.nn.Module) -> None:
    """On a CPU, copy weights that are still mapped from their file, so that the file's pages can go.

    Otherwise the whole of a 16-bit model stays mapped after it was quantised, because the embedding is left as it was.
    """
    if has_gpu():
        return
    for parameter in model.parameters():
        if not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.clone()


def training_peak_bytes(before: int) -> int:
    """What training needed at its peak, to be compared with the plan's total: on a GPU what torch reserved and the
    context that it works in; on a CPU what came on top of the memory in use `before`, after the imports."""
    reserved = peak_cuda_reserved_bytes()
    return peak_resident_bytes() - before if reserved is None else reserved + CUDA_CONTEXT_BYTES


def _status_bytes(field: bytes) -> int:
    status = _STATUS.read_bytes()
    start = status.index(field) + len(field)
    return int(status[start : status.index(b"kB", start)]) * 1024


def cuda_reserved_bytes() -> int | None:
    return torch.cuda.memory_reserved() if has_gpu() else None


def peak_cuda_reserved_bytes() -> int | None:
    return torch.cuda.max_memory_reserved() if has_gpu() else None


def cap_gpu_memory(settings: Settings) -> None:
    """On a GPU that shares the host's memory, turn an overrun into an ordinary CUDA out-of-memory error.

    Without the cap it would not raise at all: it would wedge the host.
    """
    if not (has_gpu() and torch.cuda.get_device_properties(0).is_integrated):
        return
    total = torch.cuda.get_device_properties(0).total_memory
    # Not torch.cuda.mem_get_info: on unified memory it counts page cache that could be given back as used.
    memory = read_memory()
    allowed = memory.available_bytes - memory_reserve_bytes(settings, memory.total_bytes, unified=True)
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, allowed / total)))


def drop_page_cache(folder: Path) -> None:
    """Give back the memory in which the kernel keeps a model's files once they are loaded onto the GPU."""
    if not has_gpu():
        return
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def faults_named() -> Iterator[None]:
    """Give what the machine does to a stage its class, whichever library reports it: no memory, or no GPU any more."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        named = _named(error)
        if named is None:
            raise
        raise named from error


def _named(error: Exception) -> ApplianceError | None:
    said = str(error).partition("\n")[0] or type(error).__name__
    if _is_out_of_memory(error):
        return StageFailure(
            FailureClass.OUT_OF_MEMORY,
            f"the model, its activations and the optimizer did not fit into memory: {said}",
            hint="A smaller max_seq_length or per_device_train_batch_size, or gradient_checkpointing: true, may fit.",
        )
    if any(word in said for word in _NO_GPU):
        message = f"the GPU is gone or its driver does not work: {said}; docs/operations.md says what to look at"
        return NotReadyError(message, waiting=Waiting.GPU)
    if isinstance(error, torch.AcceleratorError) or any(word in said for word in _CUDA):
        # Not waited for: it may be the job's own doing. A new process gets a GPU that works, if there is one.
        return StageFailure(FailureClass.WORKER_CRASHED, f"the GPU ended the work: {said}", hint=_XID)
    return None


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a type for the GPU's allocator only; cuBLAS, bitsandbytes and the CPU's allocator say it in words."""
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


# What CUDA and torch say when no process could use the GPU, whatever it wants to do there.
_NO_GPU = (
    *("no CUDA-capable device is detected", "busy or unavailable", "invalid device ordinal", "driver shutting down"),
    *("CUDA driver version is insufficient", "CUDA driver initialization failed", "system not yet initialized"),
    *("unsupported display driver", "CUDA error: initialization error", "CUDA error: unknown error"),
    *("CUDA unknown error", "uncorrectable ECC error", "GPU is lost"),
    *("No CUDA GPUs are available", "Found no NVIDIA driver", "Unexpected error from cudaGetDeviceCount"),
)
_CUDA = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS_", "CUDNN_STATUS_")
_XID = "Look for Xid in the kernel's log (`sudo dmesg`): it tells a broken GPU or driver from a fault of the program."
