"""`python -m tests.broken_adapters JOB FOLDER`: the verify stage on copies of a trained job, each broken another way.

Prints the exit code, failure and verdict of each. One process for all, since importing torch takes longer than verify.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.files import write_json
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.__main__ import run
from appliance.stages.training.checkpoints import describe

Tensors = dict[str, Any]


def flip_a_byte(job: JobDir) -> None:
    weights = job.path / "train" / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)


def lose_a_file(job: JobDir) -> None:
    (job.path / "train" / "adapter" / "adapter_config.json").unlink()


def lose_a_module(tensors: Tensors) -> None:
    for name in [name for name in tensors if "layers.1.mlp.down_proj" in name]:
        del tensors[name]


def hold_a_nan(tensors: Tensors) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def change_nothing(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.zero_()


def retrained(change: Callable[[Tensors], None]) -> Callable[[JobDir], None]:
    """As if training had written it like that: the weights are changed and train's result knows their hash."""

    def apply(job: JobDir) -> None:
        from safetensors.torch import load_file, save_file

        weights = job.path / "train" / "adapter" / "adapter_model.safetensors"
        tensors = load_file(weights)
        change(tensors)
        save_file(tensors, weights, metadata={"format": "pt"})
        result = job.result(Stage.TRAIN)
        result["adapter"][weights.name] = describe(weights)
        write_json(job.path / "train" / "result.json", result)

    return apply


WAYS = {
    "flip_a_byte": flip_a_byte,
    "lose_a_file": lose_a_file,
    "lose_a_module": retrained(lose_a_module),
    "hold_a_nan": retrained(hold_a_nan),
    "change_nothing": retrained(change_nothing),
}


def main(trained: Path, folder: Path) -> None:
    found = {}
    for name, break_it in WAYS.items():
        shutil.copytree(trained, folder / name)
        job = JobDir(folder / name)
        break_it(job)
        code = run(Stage.VERIFY, job, Settings.load())
        evaluation = json.loads((job.path / "verify" / "eval.json").read_text())
        found[name] = {"code": code, "failure": job.failure(Stage.VERIFY), "verdict": evaluation["verdict"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
