"""What a stage reports, folded into one picture."""

from pathlib import Path

import pytest

from appliance.job_dir import ProgressWriter
from appliance.progress import Progress, Tally, fold, how_far, last_of_each_step, parse_lines


def step(number: int, *, tokens: int, seconds: float = 2.0, time: float = 0.0, **more) -> dict:
    counts = {"content_tokens": tokens, "padding_tokens": 10 * number, "target_tokens": tokens // 2, "samples": number}
    facts = {"epoch": 0.5, "loss": 1.5, "learning_rate": 1e-4, "grad_norm": 0.3, "memory_bytes": 100 + number}
    return {"time": time, "event": "step", "step": number, "seconds": seconds, **counts, **facts, **more}


def after(*events: dict) -> Progress:
    progress = Progress()
    for event in events:
        progress = fold(progress, event)
    return progress


START = {"time": 0.0, "event": "start", "attempt_step": 0, "total_steps": 10}


def test_tokens_per_second_counts_content_over_the_time_of_the_steps():
    # The first step's own tokens are not known to lie within its time when a run was resumed: pairs of steps count.
    assert after(START, step(1, tokens=100), step(2, tokens=300), step(3, tokens=500)).tokens_per_second == 100.0


def test_one_step_is_no_rate():
    assert after(START, step(1, tokens=100)).tokens_per_second is None


def test_the_time_left_comes_from_the_measured_steps():
    assert after(START, step(1, tokens=1), step(2, tokens=2)).seconds_left == 16.0


def test_a_resume_forgets_the_old_pace_and_keeps_the_place():
    progress = after(START, step(5, tokens=50), {**START, "attempt_step": 4})
    assert (progress.step, progress.seconds_left) == (4, None)


def test_a_loss_that_is_not_finite_is_counted():
    progress = after(START, step(1, tokens=1, loss=None, nonfinite=True))
    assert (progress.loss, progress.nonfinite_losses) == (None, 1)


def test_the_fraction_is_that_of_steps_or_of_whatever_is_counted():
    assert after(START, step(5, tokens=1)).fraction == 0.5
    assert after({"time": 0.0, "event": "progress", "done": 1, "total": 4, "unit": "rows"}).fraction == 0.25
    assert Progress().fraction is None


def test_an_event_from_a_later_version_only_shows_life():
    assert after({"time": 7.0, "event": "something new"}) == Progress(last_event=7.0)


def test_repeated_steps_do_not_raise_the_tally_twice():
    tally = Tally()
    for event in (step(1, tokens=10), step(2, tokens=20), step(1, tokens=10), step(2, tokens=20), step(3, tokens=30)):
        tally = tally.raised_by(event)
    assert (tally.steps, tally.content_tokens) == (3, 30)


def test_a_line_that_a_crash_cut_is_passed_over():
    assert parse_lines('{"time": 1, "event": "a"}\n{"time": 2, "ev\n[1]\n\n') == [{"time": 1, "event": "a"}]


def test_what_is_reported_after_a_power_cut_is_not_glued_to_half_a_line(tmp_path: Path):
    (tmp_path / "progress.jsonl").write_text('{"time": 1, "event": "a"}\n{"time": 2, "ev')
    writer = ProgressWriter(tmp_path)
    writer.write("start")
    writer.close()
    events = parse_lines((tmp_path / "progress.jsonl").read_text())
    assert [event["event"] for event in events] == ["a", "start"]


def test_of_repeated_steps_the_last_counts():
    events = [step(1, tokens=1), step(2, tokens=2, loss=9.0), step(2, tokens=2, loss=8.0)]
    assert [(event["step"], event["loss"]) for event in last_of_each_step(events)] == [(1, 1.5), (2, 8.0)]


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(step=3, total_steps=60), "step 3 of 60"),
        (Progress(done=1200, total=7473, unit="rows"), "1,200 of 7,473 rows"),
        (Progress(done=1200, total=7473, unit="rows", tokens=153_000), "1,200 of 7,473 rows, 153,000 tokens"),
        (Progress(done=1.3e9, total=5.2e9, unit="bytes"), "1.3 GB of 5.2 GB"),
        (Progress(done=1.3e9, unit="bytes"), "1.3 GB"),
        (Progress(), ""),
    ],
)
def test_how_far_a_stage_is_in_words(progress, words):
    assert how_far(progress) == words
