"""Stage verify: load the adapter from its files in a fresh process, compare it with its base, give a verdict."""

from typing import Any

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.training.environment import prepare_environment
from appliance.stages.training.prepared import Prepared


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Judge `train/adapter`. Returns the content of `verify/result.json`; a broken adapter fails the job."""
    prepared, trained = Prepared.read(job), job.result(Stage.TRAIN)
    assert trained is not None, "train comes before verify"
    prepare_environment(settings)

    # Not before the environment is ready: these import torch and transformers, which read it.
    from appliance.stages.training.machine import cap_gpu_memory, faults_named, require_gpu
    from appliance.stages.training.verification import verify

    with faults_named():
        require_gpu(prepared.plan.machine_kind)
        cap_gpu_memory(settings)
        return verify(job.stage(Stage.VERIFY), prepared, job.path / Stage.TRAIN / "adapter", trained)
