"""`python -m tests.changed_adapters JOB FOLDER`: the verify stage on copies of a trained job, each changed another way.

Prints the exit code, failure and evaluation of each. One process for all, since importing torch takes longer than
verify.
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


def forget(tensors: Tensors) -> None:
    """Far beyond what was learnt, and hence far from what was known."""
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.mul_(30)


def become_a_text(job: JobDir) -> None:
    facts = job.result(Stage.PREPARE) | {"type": "text", "answer_tokens_p95": None}
    write_json(job.path / "prepare" / "result.json", facts)


def run_out_of_time(job: JobDir) -> None:
    """From here on verify has no more time than its share of the training, which took none. Comes last."""
    sys.modules["appliance.stages.training.verification"].FEWEST_SECONDS = 0.0
    write_json(job.path / "train" / "result.json", job.result(Stage.TRAIN) | {"seconds": 0.0})


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
    "forget": retrained(forget),
    "become_a_text": become_a_text,
    "run_out_of_time": run_out_of_time,
}


def main(trained: Path, folder: Path) -> None:
    found = {}
    for name, change in WAYS.items():
        shutil.copytree(trained, folder / name)
        job = JobDir(folder / name)
        change(job)
        code = run(Stage.VERIFY, job, Settings.load())
        evaluation = json.loads((job.path / "verify" / "eval.json").read_text())
        found[name] = {"code": code, "failure": job.failure(Stage.VERIFY), "evaluation": evaluation}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
