"""Every verdict that a working adapter can get, earned for real: dropped files, all stages, the files as published."""

import json
import random
import shutil

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.progress import last_of_each_step
from appliance.stages.training.checkpoints import describe
from tests.jobs import run_stages
from tests.training_jobs import DEMO, ask, events
from tests.verdict_jobs import go_through_stages, in_a_form, job_of, repeated, shuffled, some_texts

pytestmark = pytest.mark.train

STEPS, EPOCH = 10, 5


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Jobs by what they are, all of them trained and judged."""
    folder, rng = tmp_path_factory.mktemp("verdicts"), random.Random(1)
    texts, unseen = some_texts(rng, 40), some_texts(rng, 20)
    ten_steps, gone_wrong = (f"max_steps: {STEPS}", "learning_rate: 5e-3"), ("learning_rate: 5e-3", "warmup_steps: 0")
    made = {
        "good": job_of(folder, "good", in_a_form(texts), in_a_form(unseen), *ten_steps),
        "good, never evaluated": job_of(folder, "blind", in_a_form(texts), None, *ten_steps, "eval_fraction: 0"),
        "shuffled": job_of(
            *(folder, "shuffled", shuffled(texts), repeated(unseen)),
            *(*gone_wrong, "num_train_epochs: 6", "early_stopping_patience: 1"),
        ),
        "no learning rate": job_of(
            folder, "still", in_a_form(texts), in_a_form(unseen), "max_steps: 2", "learning_rate: 0"
        ),
        "eight rows": job_of(folder, "eight", in_a_form(texts[:8]), None, "max_steps: 1", "early_stopping_patience: 1"),
    }
    go_through_stages(list(made.values()), folder)
    return made


def evaluation(job):
    return json.loads((job.path / "verify" / "eval.json").read_text())


def losses(job):
    return [(event["step"], event["loss"], event["grad_norm"]) for event in last_of_each_step(events(job))]


def held_out_losses(job):
    return {event["step"]: event["loss"] for event in events(job) if event["event"] == "eval"}


def test_a_good_job_is_improved(jobs):
    found = evaluation(jobs["good"])

    assert found["verdict"] == "improved"
    assert (found["held_out_rows"], found["stop_rate_tuned"]) == (20, 1.0)


def test_a_stranger_gets_the_same_losses_and_interval(jobs):
    job = jobs["good"]
    theirs = ask("tests.judge_independently", DEMO, job.path / "train" / "adapter", job.path / "dropped" / "eval.jsonl")
    ours = evaluation(job)

    for name in ("base_loss", "tuned_loss", "difference"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name
    assert ours["interval"] == pytest.approx(theirs["interval"], abs=1e-3)
    assert (ours["held_out_rows"], ours["held_out_tokens"]) == (theirs["rows"], theirs["tokens"])


def test_answers_to_other_questions_make_nothing_better(jobs):
    found = evaluation(jobs["shuffled"])

    assert found["verdict"] == "no_better"
    assert found["interval"][0] > 0


def test_a_learning_rate_of_zero_makes_nothing_better(jobs):
    found = evaluation(jobs["no learning rate"])

    assert found["verdict"] == "no_better"
    assert found["difference"] == 0


def test_eight_rows_prove_nothing(jobs):
    """One step of a warm-up is taken at a learning rate of zero: that nothing changed does not make it broken."""
    found = evaluation(jobs["eight rows"])

    assert found["verdict"] == "unproven"
    assert (found["base_loss"], found["interval"], found["held_out_rows"]) == (None, None, 0)
    assert found["warnings"] == ["without held-out rows, early_stopping_patience had nothing to go by"]


def test_without_evaluation_nothing_is_proven(jobs):
    assert evaluation(jobs["good, never evaluated"])["verdict"] == "unproven"


def test_evaluating_in_the_middle_leaves_training_as_it_was(jobs):
    """A 4-bit layer of bitsandbytes may repack itself when evaluated on a CPU, and then lose gradients in silence."""
    assert list(held_out_losses(jobs["good"])) == [EPOCH, STEPS]
    assert losses(jobs["good"]) == losses(jobs["good, never evaluated"])


def test_training_ends_early_once_the_held_out_loss_stops_falling(jobs):
    job = jobs["shuffled"]
    result, held_out = job.result(Stage.TRAIN), held_out_losses(job)

    assert list(held_out) == [EPOCH, 2 * EPOCH]
    assert held_out[2 * EPOCH] > held_out[EPOCH]
    assert (result["stopped_early"], result["steps"], result["best_step"]) == (True, 2 * EPOCH, EPOCH)
    assert jobs["good"].result(Stage.TRAIN)["stopped_early"] is False


def test_the_best_adapter_is_the_one_that_is_kept_and_judged(jobs):
    job = jobs["shuffled"]
    result, best = job.result(Stage.TRAIN), job.path / "train" / "checkpoints" / f"step-{EPOCH:06d}"

    assert result["adapter_step"] == EPOCH
    assert result["best_loss"] == held_out_losses(job)[EPOCH]
    weights = "adapter_model.safetensors"
    assert describe(job.path / "train" / "adapter" / weights) == describe(best / weights)
    assert evaluation(job)["tuned_loss"] == pytest.approx(result["best_loss"], abs=0.02)


def test_the_result_in_the_outbox_reports_it(jobs, tmp_path):
    """What is no better is published all the same, and says so."""
    result = published(jobs["shuffled"], tmp_path, {"outcome": "succeeded", "stage": None, "failure": None})

    report = (result / "report.html").read_text()
    assert result.name == "0001-test"
    assert "No better:" in report
    assert "Training ended early, after step 10 of 30" in report
    assert "The adapter is that of step 5" in report
    assert "no_better" in (result / "eval.json").read_text()


def test_a_damaged_adapter_fails_the_job_and_is_not_published(jobs, tmp_path):
    shutil.copytree(jobs["good"].path, tmp_path / "damaged" / "0001-test")
    job = JobDir(tmp_path / "damaged" / "0001-test")
    weights = job.path / "train" / "adapter" / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-100] + bytes(100))
    (job.path / "verify" / "result.json").unlink()

    codes = ask("tests.run_jobs", "verify", job.path, **places(tmp_path))
    failure = job.failure(Stage.VERIFY)
    result = published(job, tmp_path, {"outcome": "failed", "stage": "verify", **failure})

    assert codes == {str(job.path): 1}
    assert failure["failure"] == "broken_adapter"
    assert evaluation(job)["verdict"] == "broken"
    assert result.name == "0001-test.failed"
    # What may lie there is the last good checkpoint's.
    assert (result / "adapter" / weights.name).read_bytes() == good
    assert "did not pass the test" in (result / "WHY.md").read_text()


def places(folder):
    return {"APPLIANCE_STATE": str(folder / "state"), "APPLIANCE_OUTBOX": str(folder / "outbox")}


def published(job, folder, outcome):
    """The only result in the outbox after the publish stage."""
    (job.path / "outcome.json").write_text(json.dumps({"message": "", "hint": None, **outcome}))
    (folder / "outbox").mkdir()
    run_stages(job, Stage.PUBLISH, **places(folder))
    (result,) = (path for path in (folder / "outbox").iterdir() if not path.name.startswith("."))
    return result


def test_held_out_rows_in_a_folder_drop_are_used_as_given(jobs):
    job = jobs["good"]
    with pa.OSFile(str(job.path / "prepare" / "eval.arrow")) as file, pa.ipc.open_stream(file) as stream:
        prepared = stream.read_all().to_pylist()
    given = [json.loads(line) for line in (job.path / "dropped" / "eval.jsonl").read_text().splitlines()]
    answers = [answer_of(row) for row in prepared]

    assert answers == [row["messages"][-1]["content"] for row in given]
    facts = job.result(Stage.PREPARE)
    assert (facts["train_rows"], facts["eval_rows"]) == (40, 20)
    scored = [json.loads(line)["row"] for line in (job.path / "verify" / "rows.jsonl").read_text().splitlines()]
    assert scored == list(range(1, 21))


def answer_of(row):
    """The words that a row is judged on."""
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    return Tokenizer.from_file(str(DEMO / "tokenizer.json")).decode(trained)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_of_twenty_jobs_with_no_signal_at_most_two_are_improved(tmp_path):
    """Questions with the answers to others, judged on true ones, at learning rates from timid to bold."""
    made = []
    for seed in range(20):
        rng = random.Random(seed)
        texts, unseen = some_texts(rng, 40), some_texts(rng, 20)
        rate = f"learning_rate: {10 ** rng.uniform(-5, -2.5):.1e}"
        recipe = (rate, f"seed: {seed}", "max_steps: 8", "warmup_steps: 2")
        made.append(job_of(tmp_path, f"seed-{seed}", shuffled(texts), repeated(unseen), *recipe))
    for batch in range(0, 20, 5):
        go_through_stages(made[batch : batch + 5], tmp_path)

    verdicts = [evaluation(job)["verdict"] for job in made]
    assert verdicts.count("improved") <= 2, verdicts
