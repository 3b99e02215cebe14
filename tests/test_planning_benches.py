"""The benchmarks of planning run here as they do by hand, on less."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def run(script: str, *arguments: object, timeout: float = 900) -> dict:
    """What a benchmark writes; its own bounds decide how it ends."""
    *options, target = arguments
    command = [sys.executable, str(BENCH / script), *map(str, options), "--json", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(Path(str(target)).read_text())


@pytest.mark.train
@pytest.mark.timeout(900)
def test_the_train_stage_needs_what_was_planned(tmp_path):
    result = run("memory.py", "--settings", 1, tmp_path / "memory.json")
    assert result["holds"]
    assert [cell["model"] for cell in result["cells"]] == ["demo"]
    assert all(cell["measured_bytes"] > 10**8 for cell in result["cells"])


@pytest.mark.train
@pytest.mark.timeout(900)
def test_the_gpu_benchmark_runs_from_end_to_end_without_one(tmp_path):
    options = ("--shapes", "tiny", "--steps", 3, "--cells", 1, "--folder", tmp_path)
    result = run("gpu.py", *options, tmp_path / "gpu.json")
    (cell,) = result["memory"]
    assert cell["planned_bytes"] > 0
    assert cell["measured_bytes"] > 0
    ways = {speed["way"]: speed["tokens_per_second"] for speed in result["speed"]}
    assert list(ways) == [
        "plain script, 4 bit, recomputed",
        "appliance, 4 bit",
        "appliance, 4 bit, recomputed",
        "appliance, 16 bit",
    ]
    assert all(speed > 0 for speed in ways.values())
    assert result["machine"]["flops_per_second"] > 0
    assert {"torch", "unsloth", "bitsandbytes"} <= result["versions"].keys()
    # What it wrote for the models is gone again.
    assert list(tmp_path.glob("gpu-*")) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_setting_needs_what_was_planned(tmp_path):
    assert run("memory.py", "--large", tmp_path / "memory.json", timeout=3000)["holds"]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_second_job_is_estimated_within_a_quarter(tmp_path):
    assert run("estimate.py", tmp_path / "estimate.json", timeout=1500)["holds"]
