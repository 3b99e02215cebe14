"""The train stage, for real: Unsloth on the CPU, NF4, killed and stopped and resumed."""

import json
import random
import signal
import subprocess
import sys
from math import ceil

import pytest
from safetensors import safe_open

from appliance.job import Stage
from appliance.progress import last_of_each_step
from appliance.stages.__main__ import STOPPED
from appliance.stages.training.checkpoints import describe, newest_good_checkpoint
from tests.jobs import run_stages
from tests.training_jobs import (
    DEMO,
    NOISE,
    ask,
    events,
    ready_to_train,
    start_training,
    tokenised,
    wait_for,
    write_plan,
)

pytestmark = pytest.mark.train

STEPS, STEPS_PER_EPOCH = 24, 8
COUNTS = ("content_tokens", "padding_tokens", "target_tokens", "samples")
EVERY_STEP, NEVER = "0.00001", "1000"


def steps_of(job):
    return last_of_each_step(events(job))


def evaluations(job):
    return {event["step"]: event["loss"] for event in events(job) if event["event"] == "eval"}


def attempts(job):
    return [event["attempt_step"] for event in events(job) if event["event"] == "start"]


def assert_follows(job, reference):
    """The same steps with the same counts, and losses within 0.01."""
    ours, theirs = steps_of(job), steps_of(reference)
    assert [step["step"] for step in ours] == list(range(1, STEPS + 1))
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.01), one["step"]
        assert one["learning_rate"] == other["learning_rate"], one["step"]
        assert [one[count] for count in COUNTS] == [other[count] for count in COUNTS], one["step"]
    assert evaluations(job) == pytest.approx(evaluations(reference), abs=0.01)
    mine, its = job.result(Stage.TRAIN), reference.result(Stage.TRAIN)
    assert [mine[count] for count in COUNTS] == [its[count] for count in COUNTS]
    assert mine["train_loss"] == pytest.approx(its["train_loss"], abs=0.01)


def test_the_result_tells_what_was_trained(trained_job):
    result = trained_job.result(Stage.TRAIN)

    assert result["steps"] == STEPS
    assert result["epochs"] == 3
    assert result["samples"] == 180
    assert result["target_modules"] == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 4
    )
    assert result["base_linear"] | {"dtype": None} == {
        "class": "Linear4bit",
        "quant_type": "nf4",
        "compress_statistics": True,
        "dtype": None,
        "count": 28,
    }
    assert result["stopped_early"] is False
    assert result["tokens_per_second"] > 0
    assert set(result["versions"]) >= {"unsloth", "torch", "trl", "peft", "transformers", "bitsandbytes"}


def test_every_step_and_epoch_leaves_an_event(trained_job):
    steps = steps_of(trained_job)
    start = next(event for event in events(trained_job) if event["event"] == "start")

    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert (start["total_steps"], start["micro_batch"], start["accumulation"]) == (STEPS, 4, 2)
    assert all(step["memory_bytes"] > 10**8 and step["seconds"] > 0 for step in steps)
    assert list(evaluations(trained_job)) == [8, 16, 24]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_tokens_are_counted_exactly(trained_job):
    rng = random.Random(1)
    rows = [tokenised(rng, row) for row in range(1, 61)]
    content = sum(len(row["input_ids"]) for row in rows)

    last = steps_of(trained_job)[-1]

    assert last["content_tokens"] == 3 * content
    assert last["target_tokens"] == 3 * 60 * 9
    assert last["padding_tokens"] > 0


def test_the_adapter_is_whole_and_names_the_canonical_base(trained_job):
    adapter, result = trained_job.path / "train" / "adapter", trained_job.result(Stage.TRAIN)
    config = json.loads((adapter / "adapter_config.json").read_text())

    assert {path.name: describe(path) for path in adapter.iterdir()} == result["adapter"]
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= set(result["adapter"])
    assert "chat_template.jinja" in result["adapter"]
    assert config["base_model_name_or_path"] == "demo"
    assert str(DEMO) not in (adapter / "adapter_config.json").read_text()
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        assert len(list(weights.keys())) == 2 * 28


def test_the_best_step_by_held_out_loss_is_the_one_that_is_kept(trained_job):
    result, losses = trained_job.result(Stage.TRAIN), evaluations(trained_job)

    assert result["best_step"] == min(losses, key=losses.get)
    assert result["adapter_step"] == result["best_step"]


def test_plain_peft_loads_the_adapter_on_the_plain_base(trained_job):
    facts = ask("tests.plain_peft", DEMO, trained_job.path / "train" / "adapter", [300, 310, 320, 330])

    assert facts["modules"] == 28
    assert facts["moved_by"] > 0.01
    assert "hi" in facts["chat"]
    assert facts["unsloth"] is False


def test_only_the_adapter_learns_and_every_base_linear_layer_is_nf4(tmp_path):
    job = ready_to_train(tmp_path, eval_rows=0, max_steps=2, num_train_epochs=None)

    facts = ask("tests.watch_gradients", job.path)

    assert facts["with_gradient"] == facts["adapter"]
    assert len(facts["adapter"]) == 2 * 28
    assert facts["base_unchanged"]
    assert facts["adapter_dtypes"] == ["torch.float32"]
    # The output layer is tied to the embedding, which stays in 16 bit.
    layers = {name: kind for name, kind in facts["linear"].items() if not name.endswith("lm_head")}
    assert len(layers) == 28
    assert all(kind == ["Linear4bit", "nf4", True] for kind in layers.values())


def test_killed_at_a_checkpoint_and_between_two_it_follows_the_uninterrupted_run(tmp_path, trained_job):
    job = ready_to_train(tmp_path, **NOISE)

    # At a checkpoint, and just where an evaluation is due: the end of the first epoch.
    first = start_training(job, APPLIANCE_CHECKPOINT_MINUTES=EVERY_STEP)
    at_the_epochs_end = {"event": "checkpoint", "step": STEPS_PER_EPOCH}
    wait_for(job, lambda event: event.items() >= at_the_epochs_end.items(), first)
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    resumed_from = newest_good_checkpoint(job.path / "train" / "checkpoints").step
    # Between two: no checkpoint of this attempt's own is due until the end of the second epoch.
    second = start_training(job, APPLIANCE_CHECKPOINT_MINUTES=NEVER)
    wait_for(job, lambda event: event["event"] == "step" and event["step"] == resumed_from + 1, second)
    second.send_signal(signal.SIGKILL)
    second.wait(60)
    assert start_training(job).wait(120) == 0

    assert resumed_from >= STEPS_PER_EPOCH
    assert attempts(job) == [0, resumed_from, resumed_from]
    assert_follows(job, trained_job)


def test_stopped_it_saves_the_last_finished_step_and_goes_on_with_another_split(tmp_path, trained_job):
    job = ready_to_train(tmp_path, micro_batch=2, accumulation=4, **NOISE)

    process = start_training(job, APPLIANCE_CHECKPOINT_MINUTES=NEVER)
    wait_for(job, lambda event: event["event"] == "step" and event["step"] == STEPS_PER_EPOCH + 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == STOPPED
    saved = newest_good_checkpoint(job.path / "train" / "checkpoints")
    finished = steps_of(job)[-1]["step"]
    # As after an out-of-memory: the same effective batch in other pieces.
    write_plan(job, micro_batch=1, accumulation=8)
    assert start_training(job).wait(120) == 0

    assert saved.step == finished < STEPS
    assert events(job)[-1]["event"] == "checkpoint"
    assert {"event": "stopped", "step": saved.step}.items() <= next(
        event for event in events(job) if event["event"] == "stopped"
    ).items()
    assert attempts(job) == [0, saved.step]
    for one, other in zip(steps_of(job), steps_of(trained_job), strict=True):
        same = ("step", "learning_rate", "content_tokens", "target_tokens", "samples")
        assert [one[field] for field in same] == [other[field] for field in same]
    assert job.result(Stage.TRAIN)["steps"] == STEPS == 3 * ceil(60 / 8)


def test_a_finished_job_that_lost_its_result_is_not_trained_again(trained_job):
    result = trained_job.result(Stage.TRAIN)
    (trained_job.path / "train" / "result.json").unlink()
    before = events(trained_job)

    run_stages(trained_job, Stage.TRAIN, APPLIANCE_STATE=str(trained_job.path.parent / "state"))

    assert events(trained_job) == before
    again = trained_job.result(Stage.TRAIN)
    of_this_attempt = {"attempt_steps", "startup_seconds", "training_peak_bytes", "peak_memory_bytes"}
    of_this_attempt |= {"memory_after_imports_bytes", "steady_tokens_per_second", "stage_seconds"}
    assert {k: v for k, v in again.items() if k not in of_this_attempt} == {
        k: v for k, v in result.items() if k not in of_this_attempt
    }
    assert (again["attempt_steps"], again["startup_seconds"]) == (0, None)


def test_running_out_of_memory_has_its_failure_class():
    program = """
import torch
from appliance.errors import StageFailure
from appliance.stages.training.machine import faults_named

for cause in (lambda: torch.empty(10**15), lambda: torch.empty(-1)):
    try:
        with faults_named():
            cause()
    except StageFailure as failure:
        print(failure.failure)
    except RuntimeError:
        print("another error")
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout.split("\n")[:2] == ["out_of_memory", "another error"]
