"""The verify stage, for real: the published files in a fresh process, against the base they were trained on."""

import json
import shutil

import pytest

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.stages.training.verdict import RowLoss, compare
from tests.jobs import run_stage
from tests.training_jobs import ask, events

pytestmark = pytest.mark.train


def copy_of(trained_job, folder):
    shutil.copytree(trained_job.path, folder / trained_job.path.name)
    return JobDir(folder / trained_job.path.name)


@pytest.fixture(scope="module")
def verified(trained_job, tmp_path_factory):
    job = copy_of(trained_job, tmp_path_factory.mktemp("verified"))
    code = run_stage(Stage.VERIFY, job, APPLIANCE_STATE=str(job.path.parent / "state"))
    assert code == 0, (job.path / "verify" / "stage.log").read_text()[-3000:]
    return job


@pytest.fixture(scope="module")
def evaluation(verified):
    return json.loads((verified.path / "verify" / "eval.json").read_text())


def test_an_adapter_that_learnt_the_task_is_improved(verified, evaluation):
    assert evaluation["verdict"] == "improved"
    assert evaluation["tuned_loss"] < evaluation["base_loss"]
    assert evaluation["interval"][1] < 0
    assert (evaluation["held_out_rows"], evaluation["held_out_tokens"]) == (20, 180)
    assert verified.result(Stage.VERIFY).items() >= evaluation.items()


def test_the_tuned_loss_is_the_one_that_training_saw(verified, evaluation):
    """Plain PEFT on the published files agrees with Unsloth's model in memory."""
    best = verified.result(Stage.TRAIN)["best_loss"]

    assert evaluation["tuned_loss"] == pytest.approx(best, abs=0.02)


def test_every_row_is_written_down_and_gives_the_same_sums(verified, evaluation):
    lines = (verified.path / "verify" / "rows.jsonl").read_text().splitlines()
    comparison = compare([RowLoss(**json.loads(line)) for line in lines])

    assert comparison.base_loss == evaluation["base_loss"]
    assert comparison.difference == evaluation["difference"]
    assert list(comparison.interval) == evaluation["interval"]


def test_a_general_text_is_scored_too(evaluation):
    assert evaluation["general_base_loss"] > 0
    assert evaluation["general_tuned_loss"] != evaluation["general_base_loss"]


def test_samples_show_both_answers_and_whether_they_ended(verified, evaluation):
    lines = (verified.path / "verify" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]

    assert [sample["row"] for sample in samples] == [61, 62, 63, 64]
    assert {"messages", "answer", "base", "tuned", "base_stopped", "tuned_stopped"} <= samples[0].keys()
    assert evaluation["stop_rate_tuned"] == sum(sample["tuned_stopped"] for sample in samples) / 4
    assert evaluation["stop_rate_base"] == sum(sample["base_stopped"] for sample in samples) / 4


def test_progress_counts_the_rows(verified):
    progress = [event for event in events(verified, Stage.VERIFY) if event["event"] == "progress"]

    assert progress
    assert all(event["unit"] == "rows" and event["total"] == 20 for event in progress)


def test_the_samples_show_life_after_the_last_row(verified):
    """Longer than STALL_MINUTES without an event, and the stage would be taken for stalled."""
    told = [event["event"] for event in events(verified, Stage.VERIFY)]

    assert "sampling" in told[told.index("progress") :]


@pytest.fixture(scope="module")
def changed(trained_job, tmp_path_factory):
    """What verify made of copies of the job, by what was changed in them."""
    return ask("tests.changed_adapters", trained_job.path, tmp_path_factory.mktemp("changed"))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("flip_a_byte", "adapter_model.safetensors is not the file that training wrote"),
        ("lose_a_file", "adapter_config.json is missing"),
        ("lose_a_module", "its tensors do not match the model"),
        ("hold_a_nan", "hold values that are not numbers"),
        ("change_nothing", "it changes nothing"),
    ],
)
def test_a_broken_adapter_fails_the_job_and_says_how_it_is_broken(changed, way, said):
    found = changed[way]

    assert found["code"] == 1
    assert found["evaluation"]["verdict"] == "broken"
    assert found["failure"]["failure"] == "broken_adapter"
    assert said in found["failure"]["message"]


def test_a_clear_loss_on_general_text_is_a_warning_and_no_gate(changed):
    code, evaluation = changed["forget"]["code"], changed["forget"]["evaluation"]

    assert code == 0
    assert evaluation["general_tuned_loss"] > evaluation["general_base_loss"] + 0.1
    assert any(warning.startswith("forgetting: ") for warning in evaluation["warnings"])


def test_no_other_adapter_is_said_to_forget(evaluation):
    assert evaluation["warnings"] == []


def test_a_text_has_no_stop_rate(changed):
    evaluation = changed["become_a_text"]["evaluation"]

    assert (evaluation["stop_rate_base"], evaluation["stop_rate_tuned"]) == (None, None)
    assert evaluation["verdict"] == "improved"


def test_when_time_runs_out_it_says_how_far_it_came_and_claims_nothing(changed):
    code, evaluation = changed["run_out_of_time"]["code"], changed["run_out_of_time"]["evaluation"]

    assert code == 0
    assert (evaluation["verdict"], evaluation["held_out_rows"]) == ("unproven", 1)
    assert (evaluation["stop_rate_base"], evaluation["stop_rate_tuned"]) == (None, None)
    assert "there was time for 1 of 20 held-out rows" in evaluation["warnings"]
