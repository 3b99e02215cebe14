"""Pushes in the daemon: pending for days, in order, across restarts; withheld, blocked, and by a person."""

import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.commands.ask import NoHubError, TooLateError
from appliance.commands.ask import push as ask_push
from appliance.job import Push, Stage
from appliance.push_store import PushRow, PushStore
from appliance.pushing import (
    Pending,
    PushError,
    PushResult,
    deadline_seconds,
    next_push,
    pause_seconds,
    push_error,
)
from tests.box import Box, fake_but_push, fake_command
from tests.published import ORG, WRITE

pytest_plugins = "tests.hub_fixtures"

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@pytest.fixture
def box(pushing: Box) -> Box:
    return pushing


@pytest.fixture
def away(tmp_path: Path):
    """An appliance whose Hub is away until somebody says otherwise."""
    box = Box(tmp_path, command=fake_command, hub_org=ORG, hub_token=WRITE)
    yield box
    box.stop()


def row(box: Box, number: int = 1) -> PushRow:
    return PushStore(box.appliance.store).row(number)


def push_of(box: Box, number: int = 1) -> Push:
    job = box.job(number)
    assert job is not None
    return job.push


def until(box: Box, push: Push, number: int = 1) -> None:
    box.turn_until(lambda: (job := box.job(number)) is not None and job.push is push, seconds=90)


def counters(box: Box, name: str) -> dict[str, float]:
    return {next(iter(labels.values()), ""): value for n, labels, value in box.appliance.store.counters() if n == name}


def ask(box: Box, number: int = 1) -> None:
    box.appliance.store.ask("push", str(number), now=0.0)


# What becomes of a push


def test_a_finished_job_is_pushed_by_itself(hub, box):
    box.drop(adapter="")
    until(box, Push.PUSHED)
    job = box.job(1)
    repo = hub.repos[row(box).repository]
    assert repo.private
    marker = json.loads(repo.files()["appliance.json"].data)
    assert (marker["job_uuid"], marker["installation"]) == (job.uuid, box.appliance.store.fact("installation"))
    assert row(box).url == f"{hub.url}/{row(box).repository}"
    assert json.loads((box.appliance.pipeline.dir(job).path / "job.json").read_text())["push"] == "pushed"
    assert counters(box, "hub_pushes_total") == {"pushed": 1.0}
    assert counters(box, "hub_push_attempts_total") == {"ok": 1.0}
    assert counters(box, "hub_push_bytes_total")[""] > 100
    assert float(box.appliance.store.fact("hub last success")) > 0
    assert [event["event"] for event in box.history()][-2:] == ["push_started", "pushed"]
    # What was copied for the push is gone again.
    assert not (box.appliance.pipeline.dir(job).path / "push" / "parcel").exists()


def test_what_did_not_pass_the_gate_is_withheld_until_a_person_asks(hub, box):
    box.drop(adapter="", verdict="no_better")
    box.ended()
    assert push_of(box) is Push.WITHHELD
    assert counters(box, "hub_pushes_total") == {"withheld": 1.0}
    box.tick()
    assert hub.requests == []
    ask(box)
    until(box, Push.PUSHED)
    assert len(hub.repos) == 1


def test_a_person_moves_main_of_a_shared_repository(hub, box):
    box.drop(adapter="support", verdict="unproven")
    until(box, Push.PUSHED)
    repo = hub.repos[f"{ORG}/support"]
    assert set(repo.files()) == {".gitattributes"}
    assert set(repo.files("job-0001")) > {"adapter_model.safetensors"}
    ask(box)
    box.turn_until(lambda: "adapter_model.safetensors" in repo.files(), seconds=90)
    until(box, Push.PUSHED)


def test_a_push_that_needs_a_person_waits_for_one(hub, box):
    hub.users.clear()
    box.drop(adapter="")
    until(box, Push.BLOCKED)
    assert row(box).result is PushResult.AUTH
    assert "APPLIANCE_HUB_TOKEN_FILE" in (row(box).hint or "")
    assert counters(box, "hub_pushes_total") == {"blocked": 1.0}
    asked = len(hub.requests)
    box.shift += 30 * DAY
    box.tick()
    assert len(hub.requests) == asked
    hub.user(WRITE, **{ORG: "write"})
    ask(box)
    until(box, Push.PUSHED)


def test_a_repository_that_turns_public_raises_the_alarm(hub, box):
    hub.creates_public = True
    box.drop(adapter="")
    until(box, Push.BLOCKED)
    assert row(box).result is PushResult.NOT_PRIVATE
    assert counters(box, "hub_push_attempts_total") == {"not_private": 1.0}
    assert counters(box, "hub_pushes_total") == {"blocked": 1.0}


def test_without_a_token_what_is_pending_stays_pending(hub_in_reach, tmp_path):
    box = Box(tmp_path, command=fake_but_push, hub_org=ORG)
    box.drop(adapter="")
    box.ended()
    box.tick()
    assert (push_of(box), box.appliance.pushes.running) == (Push.PENDING, None)
    box.stop()


def test_the_push_alone_gets_the_token(box):
    """In its environment by name; in no argument."""
    from appliance.processes import stage_environment

    settings = box.settings.model_copy(update={"hub_read_token": "hf_read"})
    found = {stage: stage_environment(stage, settings, dict(os.environ)) for stage in Stage}
    holders = {
        stage: {value for value in held.values() if value in (WRITE, "hf_read")} for stage, held in found.items()
    }
    assert {stage: held for stage, held in holders.items() if held} == {Stage.PUSH: {WRITE}, Stage.FETCH: {"hf_read"}}


# Restarts


def test_a_push_that_the_daemon_died_under_is_done_by_the_next(hub, box):
    hub.fault("POST", "/commit/", "silent", times=1)
    box.drop(adapter="")
    box.turn_until(lambda: bool(hub.asked("POST", "/commit/")), seconds=90)
    pushing = box.appliance.pushes.running
    assert pushing is not None
    box.crash()
    box.start()
    box.turn_until(lambda: pushing.process.poll() is not None, seconds=90)
    assert (push_of(box), row(box).attempts) == (Push.PENDING, 1)
    box.shift += 2 * MINUTE
    until(box, Push.PUSHED)
    (repo,) = hub.repos.values()
    assert len(repo.log) == 2


def test_a_result_that_nobody_noted_is_noted_and_not_pushed_again(hub, box):
    box.drop(adapter="")
    until(box, Push.PUSHED)
    # As SIGKILL leaves it between the stage's result and the row.
    box.appliance.store.save(replace(box.job(1), push=Push.PENDING))
    PushStore(box.appliance.store).begin(1, next_try=1e12, boot_id="")
    PushStore(box.appliance.store).note_process(1, pid=1, pid_started=0)
    asked = len(hub.requests)
    box.crash()
    box.start()
    until(box, Push.PUSHED)
    assert len(hub.requests) == asked


def test_stopping_the_daemon_does_not_wait_for_a_push(hub, box):
    hub.fault("GET", "/api/models/", "silent")
    box.drop(adapter="")
    box.turn_until(lambda: bool(hub.requests), seconds=90)
    box.stop()
    box.start()
    assert (push_of(box), row(box).attempts, row(box).next_try) == (Push.PENDING, 0, 0.0)


# The Hub is away for three days


def outage(box: Box, hub_comes_back) -> None:
    """Jobs go on while the Hub is away; attempts follow the back-off; then all is pushed in the order of the jobs."""
    begun = box.shift
    box.drop("first.jsonl", adapter="")
    box.turn_until(lambda: row(box).result is PushResult.NETWORK, seconds=60)
    tried = [begun]
    while box.shift - begun < 3 * DAY:
        attempts = row(box).attempts
        box.shift += pause_seconds(attempts) - 30
        box.tick()
        assert box.appliance.pushes.running is None, "before its time"
        box.shift += 30
        box.turn_until(lambda attempts=attempts: row(box).attempts == attempts + 1, seconds=60)
        box.turn_until(lambda: box.appliance.pushes.running is None, seconds=60)
        tried.append(box.shift)
        if len(tried) in (3, 12):
            box.drop(f"later-{len(tried)}.jsonl", adapter="")
            box.ended(2 if len(tried) == 3 else 3)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert pauses[:10] == pytest.approx([MINUTE * 2**k for k in range(9)] + [6 * HOUR])
    assert pauses[9:] == pytest.approx([6 * HOUR] * len(pauses[9:]))
    assert [push_of(box, number) for number in (1, 2, 3)] == [Push.PENDING] * 3
    # Nobody overtook the first one.
    assert [row(box, number).attempts for number in (1, 2, 3)] == [len(tried), 0, 0]
    hub_comes_back()
    box.shift += 6 * HOUR
    until(box, Push.PUSHED, 3)
    order = [number for number in (1, 2, 3) for event in box.history(number) if event["event"] == "pushed"]
    pushed = sorted(
        (event["time"], number) for number in (1, 2, 3) for event in box.history(number) if event["event"] == "pushed"
    )
    assert order == [number for _, number in pushed] == [1, 2, 3]


def test_an_outage_of_three_days(away, tmp_path):
    outage(away, (tmp_path / "hub-is-back").touch)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_an_outage_of_three_days_with_the_real_client(hub, box):
    hub.fault("GET", "", "drop")
    outage(box, hub.faults.clear)
    assert len(hub.repos) == 3


def test_the_next_try_survives_a_restart(away):
    away.drop(adapter="")
    away.turn_until(lambda: row(away).result is PushResult.NETWORK, seconds=60)
    before = row(away)
    away.stop()
    away.start()
    assert row(away) == before
    away.tick()
    assert away.appliance.pushes.running is None


# The line of pushes, in words


def chosen(*entries: Pending, now: float = 1000.0) -> int | None:
    found = next_push(entries, now=now)
    return found.number if found else None


def test_the_oldest_due_push_is_next():
    assert chosen(Pending(2), Pending(1)) == 1
    assert chosen() is None


def test_nobody_overtakes_a_push_that_waits_for_the_hub():
    assert chosen(Pending(1, next_try=2000.0, result=PushResult.NETWORK), Pending(2)) is None
    assert chosen(Pending(1, next_try=2000.0, result=PushResult.RATE_LIMITED), Pending(2)) is None
    assert chosen(Pending(1, next_try=2000.0, result=PushResult.OTHER), Pending(2)) == 2


def test_nobody_overtakes_another_in_the_same_shared_repository():
    first = Pending(1, next_try=2000.0, result=PushResult.CONFLICT, repository="support")
    assert chosen(first, Pending(2, repository="support"), Pending(3, repository="sales")) == 3
    assert chosen(first, Pending(2, repository="support"), now=2000.0) == 1


def test_a_clock_that_was_put_back_holds_nothing_up():
    assert chosen(Pending(1, next_try=1000.0 + 7 * HOUR, result=PushResult.NETWORK)) == 1


def test_pauses_double_from_a_minute_to_six_hours_and_honour_the_hub_up_to_that():
    assert [pause_seconds(attempts) for attempts in (1, 2, 3, 9, 10, 100)] == [60, 120, 240, 15360, 21600, 21600]
    assert pause_seconds(1, 300) == 300
    assert pause_seconds(1, 10**9) == 6 * HOUR
    assert pause_seconds(5, 1) == 960


def test_a_deadline_grows_with_the_bytes_and_has_an_end():
    assert deadline_seconds(0) == 900
    assert deadline_seconds(1_000_000_000) == 10_900
    assert deadline_seconds(10**12) == 24 * HOUR


def test_a_push_error_survives_its_file():
    error = PushError(PushResult.AUTH, "no", hint="do", blocked=True, retry_after=3.0)
    assert push_error(json.loads(json.dumps(error.as_json()))).as_json() == error.as_json()
    assert (error.exit_code, PushError(PushResult.NETWORK, "no").exit_code) == (1, 3)


# Asking for it


def command(box: Box, monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    names = {"APPLIANCE_STATE": box.settings.state, "APPLIANCE_HUB_ORG": ORG, "APPLIANCE_HUB_TOKEN": WRITE, **more}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


def test_appliance_push_leaves_a_request(box, monkeypatch, capsys):
    box.drop(adapter="", verdict="no_better")
    box.ended()
    command(box, monkeypatch)
    ask_push("1")
    assert "will be pushed to acme" in capsys.readouterr().out
    assert [(request.action, request.target) for request in box.appliance.store.requests()] == [("push", "1")]


def test_appliance_push_says_what_cannot_be_pushed(box, monkeypatch):
    box.drop(check="reject")
    box.ended()
    command(box, monkeypatch)
    with pytest.raises(TooLateError, match="no result to push"):
        ask_push("1")
    box.drop(adapter="", verdict="no_better")
    box.ended(2)
    monkeypatch.delenv("APPLIANCE_HUB_ORG")
    with pytest.raises(NoHubError, match="APPLIANCE_HUB_ORG"):
        ask_push("2")


def test_show_says_what_became_of_the_push(hub, box, monkeypatch, capsys):
    from appliance.commands.jobs import show

    hub.users.clear()
    box.drop(adapter="")
    until(box, Push.BLOCKED)
    command(box, monkeypatch, APPLIANCE_OUTBOX=str(box.outbox))
    show("1", as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "blocked: somebody has to do something first" in text
    assert "the Hub does not know the token (401)" in text
    show("1", as_json=True)
    assert json.loads(capsys.readouterr().out)["hub"]["result"] == "auth"


def test_a_request_for_a_job_that_cannot_be_pushed_changes_nothing(box):
    box.drop(check="reject")
    box.ended()
    ask(box)
    ask(box, 99)
    box.tick()
    assert push_of(box) is Push.OFF


def test_the_document_names_every_state_and_every_class():
    text = (Path(__file__).parents[1] / "docs" / "hub.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named == {*Push, *PushResult} - {PushResult.OK}
