"""Real NF4 trainings, one after the other, while the daemon and the trainings are killed at random: each goes on where
it was, as if nothing had happened, and ends once."""

import contextlib
import json
import random
import time
from pathlib import Path

import psutil
import pytest

from appliance.outbox import read_manifest
from tests.clock import Clock
from tests.real_daemon import RealDaemon, rows

SEEDS, JOBS, KILLS = (1, 2, 3, 4), 20, 60
STEPS = 40
# Dropout and NEFTune draw random numbers in every micro-batch: a resume that loses its place in them is seen.
RECIPE = f"""base_model: demo
max_steps: {STEPS}
per_device_train_batch_size: 2
effective_batch_size: 4
learning_rate: 2.0e-3
eval_fraction: 0.25
neftune_noise_alpha: 5
lora: {{dropout: 0.1}}
"""
LOSS_TOLERANCE = 0.01
DEADLINE_SECONDS = 3 * 3600
HOUR = 3600.0


def recipe(seed: int, run: int) -> str:
    # The tag makes it another job, and changes nothing of its training.
    return f"{RECIPE}seed: {seed}\nhub: {{tags: [run-{run}]}}\n"


def drop(daemon: RealDaemon, name: str, seed: int, run: int) -> None:
    (daemon.inbox / f"{name}.yaml").write_text(recipe(seed, run))
    (daemon.inbox / f"{name}.jsonl").write_text(rows(80))


def results(daemon: RealDaemon) -> dict[str, Path]:
    """The results by the names of their drops."""
    return {path.name.partition("-")[2]: path for path in daemon.outbox.iterdir() if path.name[0].isdigit()}


def losses(result: Path) -> dict[int, float]:
    lines = map(json.loads, (result / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line.get("event") == "step"}


def kill_one(daemon: RealDaemon, rng: random.Random) -> bool:
    """Kill the daemon, or the training, where there is one."""
    if rng.random() < 0.25:
        daemon.kill()
        daemon.start()
        return True
    with contextlib.suppress(psutil.Error):
        for stage in psutil.Process(daemon.process.pid).children():
            if "train" in stage.cmdline():
                stage.kill()
                return True
    return False


@pytest.mark.soak
@pytest.mark.timeout(DEADLINE_SECONDS + 600)
def test_twenty_trainings_under_kills_follow_those_that_nobody_disturbed(tmp_path: Path, rng: random.Random):
    clock = Clock(tmp_path)
    # Killing at random is not the jobs' fault: let nobody be given up for it.
    patient = {"max_attempts": "1000", "checkpoint_minutes": "0.02"}
    daemon = RealDaemon(tmp_path, **patient)
    daemon.environment |= clock.environment
    try:
        began = time.monotonic()
        for seed in SEEDS:
            drop(daemon, f"calm-{seed}", seed, 0)
        daemon.wait_for(lambda: len(results(daemon)) == len(SEEDS), seconds=1800)
        # What one takes on this machine: whoever is killed is to have got somewhere, and few are to get through.
        each = (time.monotonic() - began) / len(SEEDS)
        calm = {seed: losses(results(daemon)[f"calm-{seed}"]) for seed in SEEDS}
        daemon.kill()
        daemon.start()
        for run in range(JOBS):
            drop(daemon, f"storm-{run}", SEEDS[run % len(SEEDS)], run + 1)
        kills, end = 0, time.monotonic() + DEADLINE_SECONDS
        while len(results(daemon)) < len(SEEDS) + JOBS:
            assert time.monotonic() < end, daemon.log()[-3000:]
            if kills < KILLS:
                kills += kill_one(daemon, rng)
            # No pause before the next attempt is waited for.
            clock.jump(HOUR)
            time.sleep(rng.uniform(0.05, 1.2) * each)
        found = results(daemon)
        assert daemon.stop() == 0
    finally:
        daemon.process.kill()
        daemon.process.wait()
    resumed = 0
    for run in range(JOBS):
        result, undisturbed = found[f"storm-{run}"], calm[SEEDS[run % len(SEEDS)]]
        facts = read_manifest(result)
        assert facts["outcome"] == "succeeded", facts
        judged = json.loads((result / "eval.json").read_text())
        assert judged["verdict"] == "improved", judged
        here = losses(result)
        assert sorted(here) == sorted(undisturbed) == list(range(1, STEPS + 1))
        assert max(abs(here[step] - undisturbed[step]) for step in here) < LOSS_TOLERANCE, run
        resumed += facts["attempts"] > 1
    print(f"{kills} kills, {resumed} of {JOBS} trainings were taken up again")
    assert kills >= JOBS
    assert resumed >= JOBS // 2
    assert list(daemon.inbox.glob("storm-*")) == []
