"""The loop, with real files, real SQLite and real processes; only what the heavy stages do is made up."""

import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.daemon import Appliance, InboxTakenError
from appliance.job import FailureClass, JobState, Outcome, Push, Stage, Waiting
from appliance.lock import AlreadyRunningError
from appliance.outbox import read_manifest
from appliance.processes import stage_environment
from appliance.settings import Settings
from tests.box import Box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.stop()


def test_a_drop_goes_through_every_stage_and_stands_in_the_outbox(box: Box):
    box.drop()
    job = box.ended()

    assert (job.state, job.verdict, job.base_model) == (JobState.SUCCEEDED, "improved", "demo")
    assert read_manifest(box.outbox / "0001-support")["job_uuid"] == job.uuid
    started = [e["stage"] for e in box.appliance.store.events(1) if e["event"] == "stage_started"]
    assert started == ["check", "fetch", "prepare", "train", "verify", "publish"]
    assert not (box.appliance.places.jobs / job.id / "dropped").exists()


def test_the_inbox_says_what_to_do_and_has_a_folder_a_recipe(box: Box):
    assert "default" in (box.inbox / "READ ME FIRST.txt").read_text()
    assert (box.inbox / "default").is_dir()
    assert (box.inbox / ".appliance").exists()


def test_a_dry_run_stops_after_prepare(box: Box):
    (box.inbox / "check").mkdir(exist_ok=True)
    (box.inbox / "check" / "support.jsonl").write_text('{"text": "a"}\n')
    job = box.ended()
    assert (job.state, job.outcome) == (JobState.SUCCEEDED, Outcome.CHECKED)
    assert (box.outbox / "0001-support.checked").is_dir()


def test_the_next_job_is_prepared_while_one_trains_but_does_not_train(box: Box):
    box.drop("a.jsonl", train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.drop("b.jsonl")
    box.turn_until(lambda: any(e.get("stage") == "prepare" for e in box.history(2) if e["event"] == "stage_ended"))
    for _ in range(5):
        box.tick()
    assert not (box.appliance.places.jobs / "0002-b" / "train").exists()
    assert list(box.appliance.crew.running) == [1]


def test_the_log_says_how_a_job_ended_and_where_it_lies(box: Box, caplog):
    caplog.set_level("INFO")
    box.drop()
    box.ended()
    assert f"succeeded, see {box.outbox / '0001-support'}" in caplog.text


def test_the_log_gives_the_seconds_of_a_stage_before_the_reason_it_failed_for(box: Box, caplog):
    box.drop(train="fail")
    box.ended()
    assert re.search(r"^train failed \(\w+\) after \d+\.\d s: .", "\n".join(caplog.messages), re.MULTILINE)


def test_a_refused_input_is_a_rejection(box: Box):
    box.drop(check="reject")
    job = box.ended()
    assert job.state is JobState.REJECTED
    assert job.message == "3: the row is made up"
    box.shift += 5
    box.turn_until(lambda: "Rejected: 3: the row is made up." in (box.outbox / "STATUS.md").read_text())
    assert (box.outbox / "0001-support.rejected" / "dropped" / "support.jsonl").exists()


def test_a_failure_keeps_its_class_and_is_not_tried_again(box: Box):
    box.drop(train="fail")
    job = box.ended()
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.NONFINITE_LOSS)
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 1


def test_a_crashed_stage_is_begun_again(box: Box):
    box.drop(train="crash once")
    assert box.ended().state is JobState.SUCCEEDED
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 2


def test_a_stage_that_always_crashes_fails_after_the_last_attempt(box: Box):
    box.drop(train="crash")
    job = box.ended(seconds_a_turn=1.0)
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.WORKER_CRASHED)
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 3


def test_the_first_crash_after_many_waits_is_tried_again_at_once(box: Box):
    def ends() -> list[str]:
        events = box.history() if box.job(1) else []
        return [event["kind"] for event in events if event.get("stage") == "train" and "kind" in event]

    box.drop(train="wait")
    for waits in range(1, 5):
        box.turn_until(lambda waits=waits: len(ends()) == waits)
        box.shift += 3601.0
    # What it waited for has come.
    script = box.folder() / "dropped" / "support.jsonl"
    script.write_text(script.read_text().replace("wait", "crash once"))
    assert box.ended().state is JobState.SUCCEEDED
    assert ends() == [*["waits"] * 4, "failed", "done"]


def test_crashes_that_were_seen_name_the_class_although_the_last_attempt_was_cut_short(box: Box):
    box.drop(train="sleep")
    for _ in range(2):
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        box.appliance.crew.running[1].process.kill()
        box.turn_until(lambda: not box.runs(Stage.TRAIN))
        box.shift += 400.0
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.crash()
    box.start()
    job = box.ended()
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.WORKER_CRASHED)
    assert "killed by the system" in job.message


def test_a_job_that_takes_the_appliance_down_every_time_is_given_up(box: Box):
    box.drop(train="sleep")
    for _ in range(3):
        box.turn_until(lambda: box.runs(Stage.TRAIN))
        box.crash()
        box.start()
    job = box.ended()
    assert (job.state, job.failure) == (JobState.FAILED, FailureClass.HOST_CRASHED)


@pytest.mark.parametrize("stage", [Stage.CHECK, Stage.FETCH, Stage.PREPARE, Stage.TRAIN, Stage.VERIFY])
def test_a_crash_of_the_daemon_in_any_stage_costs_one_attempt_and_no_job(box: Box, stage: Stage):
    box.drop(**{stage: "sleep"})
    box.turn_until(lambda: box.runs(stage))
    (dataset,) = (box.appliance.places.jobs / "0001-support" / "dropped").iterdir()
    box.crash()
    dataset.write_text("{}\n")
    box.start()

    assert box.ended().state is JobState.SUCCEEDED
    assert box.appliance.store.attempts(1, stage) == 2
    assert len(list(box.outbox.glob("0*"))) == 1


def test_a_stage_that_was_stopped_with_the_daemon_does_not_lose_an_attempt(box: Box):
    box.drop(train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.stop()
    box.start()
    assert box.appliance.store.attempts(1, Stage.TRAIN) == 0
    box.turn_until(lambda: box.runs(Stage.TRAIN))


def test_a_machine_that_is_not_ready_makes_the_job_wait_visibly(box: Box):
    box.drop(fetch="wait")
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.NETWORK)
    job = box.job(1)
    assert job is not None
    assert (job.state, job.waiting_detail) == (JobState.QUEUED, "the Hub is away")
    assert job.not_before > time.time()
    # Others are not held up, and after the pause it is tried again.
    box.drop("b.jsonl")
    assert box.ended(2).state is JobState.SUCCEEDED
    tries = len(box.appliance.store.events(1))
    box.shift = 3600.0
    box.turn_until(lambda: len(box.appliance.store.events(1)) > tries)


def test_cancel_of_a_job_that_waits_to_be_tried_again_gives_its_files_back_at_once(box: Box):
    box.drop(fetch="wait")
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.NETWORK)
    job = box.job(1)
    assert job is not None
    due = job.not_before
    box.appliance.store.ask("cancel", "1", now=0.0)
    ended = box.ended()
    assert (ended.state, ended.waiting, ended.finished < due) == (JobState.CANCELLED, Waiting.NONE, True)
    assert (box.outbox / "0001-support.cancelled" / "dropped" / "support.jsonl").exists()


def test_what_is_being_cancelled_may_be_dropped_again(box: Box):
    box.drop(train="ignore")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.turn_until(lambda: (job := box.job(1)) is not None and job.cancel_requested)
    box.drop(train="ignore")
    box.turn_until(lambda: box.job(2) is not None)
    again = box.job(2)
    assert again is not None
    assert again.outcome is None
    box.appliance.store.ask("cancel", "2", now=0.0)
    box.shift += 3600.0
    assert box.ended(2, seconds_a_turn=1.0).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("button", "says"),
    [("0001.retry", "has succeeded"), ("0001.cancel", "has ended already"), ("0099.cancel", "there is no job 99")],
)
def test_a_button_that_makes_no_sense_does_nothing_and_is_logged(box: Box, caplog, button: str, says: str):
    box.drop()
    box.ended()
    (box.inbox / button).touch()
    box.turn_until(lambda: not (box.inbox / button).exists())
    assert f"the button {button} does nothing: " in caplog.text
    assert says in caplog.text
    assert box.appliance.store.requests() == []
    assert box.job(2) is None
    board = box.outbox / "STATUS.md"
    box.shift += 10.0
    box.turn_until(lambda: f"`{button}`: this button did nothing, and is gone: " in board.read_text())
    assert says in board.read_text()
    # Nobody is looking for it any more.
    box.shift += 3600.0
    box.turn_until(lambda: button not in board.read_text())


@pytest.mark.parametrize("stage", [Stage.CHECK, Stage.TRAIN])
def test_cancel_stops_a_running_stage_and_gives_the_files_back(box: Box, stage: Stage):
    box.drop(**{stage: "sleep"})
    box.turn_until(lambda: box.runs(stage))
    (box.inbox / "0001.cancel").touch()
    assert box.ended().state is JobState.CANCELLED
    assert (box.outbox / "0001-support.cancelled" / "dropped" / "support.jsonl").exists()
    box.turn_until(lambda: not (box.inbox / "0001.cancel").exists())


def test_a_button_for_a_number_that_no_job_can_have_ends_no_turn(box: Box):
    (box.inbox / f"{'9' * 25}.cancel").touch()
    assert box.ended().outcome is Outcome.REJECTED
    box.drop()
    assert box.ended(2).state is JobState.SUCCEEDED


def test_cancel_of_a_waiting_job_needs_no_stage(box: Box):
    box.appliance.store.ask("pause", "queue", now=0.0)
    box.drop()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.PAUSED)
    box.appliance.store.ask("cancel", "1", now=0.0)
    assert box.ended().state is JobState.CANCELLED


def test_a_paused_queue_prepares_but_does_not_train_until_it_is_resumed(box: Box):
    (box.inbox / "queue.pause.txt").touch()
    box.turn_until(lambda: not (box.inbox / "queue.pause.txt").exists())
    box.drop()
    box.turn_until(lambda: (job := box.job(1)) is not None and job.waiting is Waiting.PAUSED)
    (box.inbox / "queue.resume").touch()
    assert box.ended().state is JobState.SUCCEEDED


def test_a_stage_that_does_not_listen_is_killed_after_its_grace_time(box: Box):
    box.drop(check="ignore")
    box.turn_until(lambda: box.runs(Stage.CHECK))
    box.appliance.store.ask("cancel", "1", now=0.0)
    box.turn_until(lambda: box.appliance.crew.running[1].stop_asked is not None)
    box.shift = 3600.0
    assert box.ended().state is JobState.CANCELLED


@pytest.mark.parametrize(("verdict", "push"), [("no_better", Push.WITHHELD), ("improved", Push.PENDING)])
def test_what_does_not_pass_the_quality_gate_is_published_and_withheld(tmp_path: Path, verdict: str, push: Push):
    box = Box(tmp_path, hub_org="acme")
    box.drop(verdict=verdict)
    job = box.ended()
    assert (job.state, job.verdict, job.push) == (JobState.SUCCEEDED, verdict, push)
    assert (box.outbox / "0001-support" / "manifest.json").exists()
    box.stop()


def test_a_dataset_kept_in_the_state_folder_goes_when_its_time_is_over(tmp_path: Path):
    box = Box(tmp_path, keep_datasets="state", keep_finished_days=1)
    box.drop()
    job = box.ended()
    dataset = box.appliance.places.jobs / job.id / "dropped" / "support.jsonl"
    box.shift = 23 * 3600.0
    box.turn_until(lambda: "kept until" in (box.outbox / "STATUS.md").read_text())
    assert dataset.exists()
    box.shift = 26 * 3600.0
    box.tick()
    assert dataset.exists()
    box.shift = 27.1 * 3600.0
    box.turn_until(lambda: not dataset.exists())
    box.stop()


def test_a_clock_that_is_ahead_for_a_while_costs_no_dataset(tmp_path: Path):
    box = Box(tmp_path, keep_datasets="state", keep_finished_days=30)
    box.drop()
    box.ended()
    dataset = box.folder() / "dropped" / "support.jsonl"
    box.crash()
    box.start()
    now, wall = time.monotonic(), time.time()
    ahead, hour = wall + 60 * 86_400.0, 3600.0
    # The second hour begins anew whenever the clock was seen to be right.
    for hours, clock in [(0, ahead), (1, wall), (2, ahead), (2.9, ahead), (3, wall), (4, ahead), (4.9, ahead)]:
        box.appliance.tick(now + hours * hour, clock)
        assert dataset.exists()
    box.appliance.tick(now + 5 * hour, ahead)
    assert not dataset.exists()
    box.stop()


def test_a_dataset_that_only_the_state_folder_holds_stays_although_the_setting_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # For the stages, which read it there.
    monkeypatch.setenv("APPLIANCE_KEEP_DATASETS", "state")
    box = Box(tmp_path, keep_datasets="state")
    box.drop("a.jsonl")
    box.ended()
    box.stop()
    monkeypatch.setenv("APPLIANCE_KEEP_DATASETS", "outbox")
    box = Box(tmp_path, keep_datasets="outbox")
    box.drop("b.jsonl")
    box.ended(2)
    box.turn_until(lambda: not (box.folder(2) / "dropped").exists())
    for _ in range(3):
        box.shift += 3601.0
        box.tick()
    assert (box.folder(1) / "dropped" / "a.jsonl").exists()
    assert not (box.outbox / "0001-a" / "dropped").exists()
    assert (box.outbox / "0002-b" / "dropped" / "b.jsonl").exists()
    box.stop()
    # Whoever asks for nothing to be kept gets that.
    box = Box(tmp_path, keep_datasets="delete")
    assert not (box.folder(1) / "dropped").exists()
    box.stop()


def test_the_same_drop_is_not_taken_twice_when_it_cannot_be_removed(box: Box, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: str, entry: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(box.appliance.inbox, "remove", refuse)
    box.drop()
    box.ended()
    for _ in range(20):
        box.tick()
        time.sleep(0.01)
    assert box.job(2) is None
    assert (box.inbox / "support.jsonl").exists()


def test_two_daemons_on_one_state_directory_are_one_too_many(box: Box):
    with pytest.raises(AlreadyRunningError, match=str(os.getpid())) as caught:
        Appliance(box.settings)
    assert caught.value.exit_code == 3


def test_an_inbox_of_another_appliance_is_refused_with_the_way_out(box: Box, tmp_path: Path):
    (tmp_path / "other").mkdir()
    other = Appliance(box.settings.model_copy(update={"state": tmp_path / "other"}))
    with pytest.raises(InboxTakenError) as caught:
        other.prepare_inbox()
    assert "--take-over" in (caught.value.hint or "")
    other.stop()


def test_an_inbox_that_went_away_is_waited_for(box: Box, tmp_path: Path):
    box.inbox.rename(tmp_path / "away")
    box.turn_until(lambda: box.appliance.view.availability == "unavailable")
    (tmp_path / "away").rename(box.inbox)
    box.drop()
    assert box.ended().state is JobState.SUCCEEDED


def test_a_stage_gets_no_token_and_no_network_settings(box: Box, monkeypatch: pytest.MonkeyPatch):
    environment = {"APPLIANCE_HUB_TOKEN_FILE": "/x", "APPLIANCE_QUIET_SECONDS": "1", "HF_TOKEN": "hf_x", "SECRET": "y"}
    environment |= {"PATH": "/bin", "HTTPS_PROXY": "http://proxy:1"}
    settings = box.settings.model_copy(update={"hub_read_token": "read", "hub_token": "write"})
    train = stage_environment(Stage.TRAIN, settings, environment)
    fetch = stage_environment(Stage.FETCH, settings, environment)

    assert not {"read", "write", "hf_x", "y", "http://proxy:1"} & set(train.values())
    assert train["HF_HUB_OFFLINE"] == "1"
    assert fetch["APPLIANCE_HUB_READ_TOKEN"] == "read"
    assert "write" not in fetch.values()
    assert fetch["HTTPS_PROXY"] == "http://proxy:1"


def test_what_stands_in_dotenv_reaches_the_stages_but_for_its_secrets(tmp_path: Path):
    dotenv = tmp_path / ".env"
    lines = [
        "CHECKPOINT_MINUTES=3",
        "STALL_MINUTES=7",
        "HUB_TOKEN=hf_write",
        "API_TOKEN=word",
        "NOTIFY_URLS=ntfy://key",
    ]
    dotenv.write_text("".join(f"APPLIANCE_{line}\n" for line in lines) + "appliance_read_token=other\nSECRET=y\n")
    environment = {"APPLIANCE_STALL_MINUTES": "9", "APPLIANCE_CHECKPOINT_MINUTES": ""}
    settings = Settings.load(environment, dotenv=dotenv)
    given = stage_environment(Stage.TRAIN, settings, environment)

    nowhere = tmp_path / "none"
    assert (settings.checkpoint_minutes, settings.stall_minutes) == (3, 9)
    assert Settings.load(given, dotenv=nowhere).model_dump(include={"checkpoint_minutes", "stall_minutes"}) == {
        "checkpoint_minutes": 3,
        "stall_minutes": 9,
    }
    assert not {"hf_write", "word", "ntfy://key", "other", "y"} & set(given.values())


def test_a_stage_dies_with_the_daemon(box: Box):
    """The stage asks the kernel for it; the seam here only checks that it is told who its parent is."""
    box.drop(train="sleep")
    box.turn_until(lambda: box.runs(Stage.TRAIN))
    environment = Path(f"/proc/{box.appliance.crew.running[1].process.pid}/environ").read_bytes()
    assert f"_APPLIANCE_PARENT_PID={os.getpid()}".encode() in environment.split(b"\0")
    os.kill(box.appliance.crew.running[1].process.pid, signal.SIGTERM)


def test_whoever_may_write_to_the_inbox_may_write_to_its_recipe_folders(tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox").chmod(0o2770)
    box = Box(tmp_path)
    box.stop()

    assert stat.S_IMODE((tmp_path / "inbox" / "default").stat().st_mode) == 0o2770
