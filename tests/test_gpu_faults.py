"""Errors of a GPU while a stage works there: what torch raises, told from one another by their true types and words."""

import pytest

from appliance.errors import NotReadyError, StageFailure
from appliance.exits import RETRIED
from appliance.job import FailureClass, Waiting

torch = pytest.importorskip("torch")
from appliance.stages.training.machine import faults_named, require_gpu  # noqa: E402

SEARCH = (
    "\nSearch for `cuda' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more"
    " information."
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be"
    " incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)


def cuda(words: str) -> Exception:
    return torch.AcceleratorError(f"CUDA error: {words}{SEARCH}")


@pytest.mark.parametrize(
    "error",
    [
        cuda("no CUDA-capable device is detected"),
        cuda("CUDA-capable device(s) is/are busy or unavailable"),
        cuda("uncorrectable ECC error encountered"),
        cuda("unknown error"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
        RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"),
        RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
    ],
)
def test_a_gpu_that_is_gone_is_waited_for(error: Exception):
    with pytest.raises(NotReadyError) as named, faults_named():
        raise error
    assert (named.value.waiting, named.value.exit_code) == (Waiting.GPU, 3)
    assert str(error).partition("\n")[0] in named.value.message
    assert "Search for" not in named.value.message


@pytest.mark.parametrize(
    "error",
    [
        cuda("an illegal memory access was encountered"),
        cuda("unspecified launch failure"),
        cuda("device-side assert triggered"),
        cuda("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
)
def test_an_error_that_may_be_the_jobs_own_is_tried_again_and_not_for_ever(error: Exception):
    with pytest.raises(StageFailure) as named, faults_named():
        raise error
    assert named.value.failure == FailureClass.WORKER_CRASHED
    assert FailureClass.WORKER_CRASHED in RETRIED
    assert "Xid" in (named.value.hint or "")


@pytest.mark.parametrize("error", [cuda("out of memory"), torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_running_out_of_memory_stays_what_it_is(error: Exception):
    with pytest.raises(StageFailure) as named, faults_named():
        raise error
    assert named.value.failure == FailureClass.OUT_OF_MEMORY


def test_any_other_fault_passes_as_it_is():
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    with pytest.raises(RuntimeError) as passed, faults_named():
        raise error
    assert passed.value is error


def test_a_job_that_was_planned_for_a_gpu_is_not_trained_without(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(NotReadyError) as caught:
        require_gpu("gpu")
    assert caught.value.waiting == Waiting.GPU
    require_gpu("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_gpu("gpu")


def test_a_torch_without_cuda_beside_a_gpu_is_somebodys_choice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    require_gpu("gpu")
