"""Where a job stands on the line, which stage starts next, and what the end of a stage means."""

import errno
import shutil
import signal
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.exits import EndKind, StageEnd, backoff_seconds, explain_exit, explain_refusal
from appliance.gate import PushRules
from appliance.job import FailureClass, Job, JobState, Lane, Outcome, Priority, Stage, Waiting, move, outbox_name
from appliance.job_dir import JobDir
from appliance.order import next_stage, startable
from appliance.pipeline import Pipeline
from appliance.store import Store
from tests.jobs import make_job


def a_job(number: int, priority: Priority = Priority.NORMAL, **fields) -> Job:
    return Job(number, f"{number:04d}-a", f"u{number}", "a", JobState.QUEUED, 0.0, priority=priority, **fields)


def test_the_next_stage_is_the_first_without_a_result(tmp_path: Path):
    job_dir = make_job(tmp_path, {"a.jsonl": ""})
    job = job_dir.read_job()
    assert next_stage(job, job_dir) is Stage.CHECK
    for stage in (Stage.CHECK, Stage.FETCH):
        job_dir.write_result(stage, {})
    assert next_stage(job, job_dir) is Stage.PREPARE


def test_a_dry_run_never_trains(tmp_path: Path):
    job_dir = make_job(tmp_path, {"a.jsonl": ""}, dry_run=True)
    for stage in (Stage.CHECK, Stage.FETCH, Stage.PREPARE):
        job_dir.write_result(stage, {})
    assert next_stage(job_dir.read_job(), job_dir) is Stage.PUBLISH


def test_a_job_whose_end_is_known_has_only_to_be_published(tmp_path: Path):
    job_dir = make_job(tmp_path, {"a.jsonl": ""})
    job_dir.write_outcome({"outcome": "cancelled"})
    assert next_stage(job_dir.read_job(), job_dir) is Stage.PUBLISH


def test_one_gpu_stage_at_a_time_and_the_one_that_is_further_first():
    jobs = [(a_job(1), Stage.TRAIN), (a_job(2), Stage.VERIFY), (a_job(3), Stage.CHECK)]
    assert [(j.number, s) for j, s in startable(jobs, [], now=0.0)] == [(2, Stage.VERIFY), (3, Stage.CHECK)]
    assert [j.number for j, _ in startable(jobs, [Lane.GPU], now=0.0)] == [3]


def test_priority_goes_before_age():
    jobs = [
        (a_job(1), Stage.TRAIN),
        (a_job(2, Priority.HIGH), Stage.TRAIN),
        (a_job(3, Priority.LOW), Stage.TRAIN),
    ]
    assert [j.number for j, _ in startable(jobs, [], now=0.0)] == [2]


def test_a_job_that_waits_to_try_again_holds_up_nobody():
    jobs = [(a_job(1, not_before=50.0), Stage.TRAIN), (a_job(2), Stage.TRAIN)]
    assert [j.number for j, _ in startable(jobs, [], now=49.0)] == [2]
    assert [j.number for j, _ in startable(jobs, [], now=50.0)] == [1]


def test_a_state_that_cannot_follow_is_refused():
    with pytest.raises(ApplianceError, match="is queued and cannot become succeeded"):
        move(a_job(1), JobState.SUCCEEDED)


def test_only_success_has_the_bare_name_in_the_outbox():
    assert outbox_name("0001-a", Outcome.SUCCEEDED) == "0001-a"
    assert {outbox_name("0001-a", outcome) for outcome in Outcome} == {
        "0001-a",
        "0001-a.rejected",
        "0001-a.failed",
        "0001-a.cancelled",
        "0001-a.checked",
    }


def explain(code: int, *, result: bool = False, problems: bool = False, failure: dict | None = None) -> StageEnd:
    return explain_exit(Stage.TRAIN, code, has_result=result, has_problems=problems, failure=failure)


def test_exit_codes_mean_what_the_contract_says():
    assert explain(0, result=True).kind is EndKind.DONE
    assert explain(2, problems=True).kind is EndKind.REJECTED
    assert explain(4).kind is EndKind.STOPPED
    waits = explain(3, failure={"waiting": "disk", "message": "the disk is full"})
    assert (waits.kind, waits.waiting) == (EndKind.WAITS, Waiting.DISK)


def test_success_without_a_result_is_a_failure():
    assert explain(0).failure is FailureClass.WORKER_CRASHED


def test_a_stage_killed_after_its_result_was_written_is_done():
    assert explain(-signal.SIGKILL, result=True).kind is EndKind.DONE


def test_a_fetch_of_the_model_is_not_done_by_the_result_of_the_rows(tmp_path: Path):
    """It runs twice for rows from the Hub: killed the second time, the first result says nothing of it."""
    job_dir = make_job(tmp_path / "state", {"a.jsonl": "{}\n"})
    job = move(job_dir.read_job(), JobState.RUNNING, stage=Stage.FETCH)
    store = Store(tmp_path / "appliance.sqlite")
    store.add_job(job)
    pipeline = Pipeline(store, tmp_path / "state", 3, "boot", PushRules(None, False, "not_worse"))
    job_dir.write_result(Stage.FETCH, {"rows": {}})
    job_dir.write_result(Stage.CHECK, {"base_model": "demo"})
    store.start_attempt(1, Stage.FETCH, mark="", boot_id="boot", now=1.0)
    _, end = pipeline.end(job, Stage.FETCH, -signal.SIGKILL, seconds=1.0, now=2.0)
    assert (end.kind, end.failure) == (EndKind.FAILED, FailureClass.WORKER_CRASHED)
    store.close()


def test_a_failure_says_its_own_class():
    end = explain(1, failure={"failure": "nonfinite_loss", "message": "the loss is NaN", "hint": None})
    assert (end.failure, end.retried) == (FailureClass.NONFINITE_LOSS, False)


def test_sigkill_most_likely_means_memory_and_is_tried_again():
    end = explain(-signal.SIGKILL)
    assert "memory" in end.message
    assert end.retried


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (errno.ENOSPC, 5, "disk_full"),
        (errno.EDQUOT, 5, "disk_full"),
        (errno.EIO, 5, "disk_full"),
        (errno.EACCES, 3, "disk"),
        (errno.EROFS, 3, "disk"),
        (errno.ESTALE, 3, "disk"),
        (errno.EMFILE, 1, "worker_crashed"),
    ],
)
def test_what_the_system_refuses_has_a_class_without_a_word_of_the_path(number: int, code: int, word: str):
    said, failure = explain_refusal(OSError(number, "refused", "/state/jobs/0001-secret/train/adapter"))
    assert failure is not None
    assert (said, failure.get("failure") or failure.get("waiting")) == (code, word)
    assert "secret" not in str(failure["message"])


def test_a_tree_that_could_not_be_copied_says_why():
    refused = shutil.Error([("a", "b", str(OSError(errno.ENOSPC, "No space left on device", "b")))])
    assert explain_refusal(refused)[0] == 5


def test_a_disk_too_full_to_say_so_is_told_by_the_exit_code():
    assert explain(5).failure is FailureClass.DISK_FULL
    assert explain(3).waiting is Waiting.DISK


def test_a_clock_that_was_set_back_does_not_prolong_a_pause():
    jobs = [(a_job(1, not_before=1_000_000.0), Stage.TRAIN)]
    assert startable(jobs, [], now=1_000_000.0 - 1800) == []
    assert [job.number for job, _ in startable(jobs, [], now=0.0)] == [1]


def test_a_fault_of_our_own_is_not_tried_again():
    assert explain(1).failure is FailureClass.INTERNAL
    assert not explain(1).retried


def test_the_pause_between_tries_doubles_up_to_an_hour():
    assert [backoff_seconds(tries) for tries in (0, 1, 2, 3, 50)] == [0, 60, 120, 240, 3600]


def test_a_fetch_that_was_done_before_is_no_try_of_the_next_one_and_lets_a_job_pre_empt_again(tmp_path: Path):
    store = Store(tmp_path / "appliance.sqlite3")
    pipeline = Pipeline(store, tmp_path, 3, "boot", PushRules(None, False, "not_worse"))
    job_dir = make_job(tmp_path, {})
    job = job_dir.read_job()
    store.add_job(job)

    def run(job: Job, stage: Stage, code: int) -> tuple[Job, StageEnd]:
        begun = pipeline.begin(job, stage, now=1.0)
        assert begun is not None
        if code == 0:
            job_dir.write_result(stage, {"path": "/models/tiny"})
        return pipeline.end(begun, stage, code, seconds=1.0, now=1.0, asked=False)

    for _ in range(3):
        job, end = run(job, Stage.FETCH, 0)
        assert end.kind is EndKind.DONE
        job_dir.write_failure(Stage.TRAIN, {"waiting": "disk", "message": "gone", "hint": None, "again": "fetch"})
        job, end = run(job, Stage.TRAIN, 3)
        assert pipeline.last_end(job) is EndKind.WAITS
    job, end = run(job, Stage.FETCH, 0)
    assert pipeline.last_end(job) is EndKind.DONE
    job_dir.fetch_again()
    for tries in (1, 2, 3):
        job, end = run(job, Stage.FETCH, -signal.SIGKILL)
        assert end.failure is FailureClass.WORKER_CRASHED
        assert (job.outcome is Outcome.FAILED) is (tries == 3)
    store.close()


@pytest.mark.parametrize(
    ("stage", "waiting", "minutes"),
    [
        # Others are kept from the GPU, and a server that shares it put to sleep, each time that it looks.
        (Stage.TRAIN, Waiting.DISK, [1, 2, 4, 8, 10, 10]),
        (Stage.VERIFY, Waiting.GPU, [1, 2, 4, 8, 10, 10]),
        (Stage.PREPARE, Waiting.MEMORY, [1, 1, 1, 1, 1, 1]),
        (Stage.FETCH, Waiting.NETWORK, [1, 2, 4, 8, 16, 32]),
    ],
)
def test_what_only_waits_looks_again_less_often_the_more_it_costs(tmp_path: Path, stage, waiting, minutes):
    store = Store(tmp_path / "appliance.sqlite3")
    pipeline = Pipeline(store, tmp_path, 3, "boot", PushRules(None, False, "not_worse"))
    job_dir = make_job(tmp_path, {})
    job = job_dir.read_job()
    store.add_job(job)
    pauses = []
    for now in range(1000, 7000, 1000):
        begun = pipeline.begin(job, stage, now=now)
        assert begun is not None, "waiting costs no attempt"
        job_dir.write_failure(stage, {"waiting": waiting, "message": "not now", "hint": None})
        job, _ = pipeline.end(begun, stage, 3, seconds=1.0, now=now)
        pauses.append((job.not_before - now) / 60)
    assert pauses == minutes
    store.close()


def test_a_job_record_survives_its_file(tmp_path: Path):
    job_dir = make_job(tmp_path, {"a.jsonl": "", "b.yaml": ""})
    job = move(job_dir.read_job(), JobState.RUNNING, stage=Stage.TRAIN, waiting=Waiting.MEMORY)
    job_dir.write_job(job)
    assert JobDir(job_dir.path).read_job() == job
