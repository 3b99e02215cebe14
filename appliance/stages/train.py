"""Stage train: teach the adapter, keep checkpoints, leave `train/adapter`.

Stopped by SIGTERM or killed at any line, the next run goes on from the newest good checkpoint.
"""

from typing import Any

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.training.environment import prepare_environment
from appliance.stages.training.prepared import Prepared


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Train on what `prepare` left. Returns the content of `train/result.json`."""
    prepared = Prepared.read(job)
    prepare_environment(settings)

    # Not before the environment is ready: these import torch and unsloth, which read it.
    from appliance.stages.training.machine import cap_gpu_memory, faults_named, require_gpu

    with faults_named():
        # Not after Unsloth is imported: without a GPU it has words of its own.
        require_gpu(prepared.plan.machine_kind)
        from appliance.stages.training.sft import train

        cap_gpu_memory(settings)
        return train(job.stage(Stage.TRAIN), prepared, checkpoint_seconds=settings.checkpoint_minutes * 60)
