"""`python -m tests.watch_gradients JOB`: the train stage's own trainer, with an eye on every parameter.

Prints which parameters had a gradient, what every linear layer of the base is, and whether the base stayed as it was.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.training.environment import prepare_environment
from appliance.stages.training.prepared import Prepared


def watch(job: Path) -> dict[str, Any]:
    """Train, and tell what was seen."""
    prepare_environment(Settings(state=job.parent / "state"))
    from appliance.stages.training.model import load_model
    from appliance.stages.training.sft import make_trainer

    prepared = Prepared.read(JobDir(job))
    trainer = make_trainer(prepared, load_model(prepared), job / "watched")
    with_gradient = gradients_seen_by(trainer)
    before = fingerprint(trainer.model)
    trainer.train()
    adapter = {name: p for name, p in trainer.model.named_parameters() if "lora_" in name}
    return {
        "with_gradient": sorted(with_gradient),
        "adapter": sorted(adapter),
        "adapter_dtypes": sorted({str(p.dtype) for p in adapter.values()}),
        "base_unchanged": fingerprint(trainer.model) == before,
        "linear": base_linear_layers(trainer.model),
    }


def gradients_seen_by(trainer) -> set[str]:
    """The names of the parameters that have a gradient when the optimizer is about to step; fills as it trains."""
    from transformers import TrainerCallback

    seen: set[str] = set()

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **rest):
            seen.update(name for name, parameter in model.named_parameters() if parameter.grad is not None)

    trainer.add_callback(Watch())
    return seen


def base_linear_layers(model) -> dict[str, list]:
    """Class, quantisation and double quantisation of every linear layer that is not part of an adapter."""
    from torch.nn import Linear

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear) and "lora_" not in name}
    kinds = ("quant_type", "compress_statistics")
    return {name: [type(m).__name__, *(getattr(m.weight, k, None) for k in kinds)] for name, m in layers.items()}


def fingerprint(model) -> str:
    """A hash over everything that is not to be trained, quantised weights included."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" not in name:
            digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(watch(Path(sys.argv[1]))))
