"""The curves of a training, however long it gets and however often it was interrupted."""

import json
from pathlib import Path

from appliance.history import MOST_POINTS, REMEMBERED_EVENTS, Histories, History
from appliance.texts.curves import curves


def write(path: Path, steps: range, *, start_tokens: int = 0, **more: object) -> None:
    with path.open("a") as file:
        for number, step in enumerate(steps, 1):
            event = {"time": 1.0, "event": "step", "step": step, "loss": 2.0, "seconds": 0.5}
            file.write(json.dumps(event | {"content_tokens": start_tokens + 100 * number} | more) + "\n")


def read(path: Path) -> dict:
    history = History(path)
    history.read()
    return history.columns()


def test_a_long_training_is_thinned_and_keeps_its_means(tmp_path):
    write(tmp_path / "p", range(1, 10_001))
    columns = read(tmp_path / "p")
    assert MOST_POINTS / 2 <= len(columns["step"]) <= MOST_POINTS
    assert columns["step"][-1] == 10_000
    assert set(columns["loss"]) == {2.0}
    assert set(columns["tokens_per_second"]) == {200.0}


def test_of_a_repeated_step_the_last_event_counts(tmp_path):
    write(tmp_path / "p", range(1, 11))
    write(tmp_path / "p", range(6, 9), start_tokens=500, loss=9.0)
    columns = read(tmp_path / "p")
    assert columns["step"] == list(range(1, 9))
    assert columns["loss"] == [2.0] * 5 + [9.0] * 3
    assert columns["tokens_per_second"] == [200.0] * 8


def test_only_what_is_new_is_read_and_half_a_line_waits(tmp_path):
    path = tmp_path / "p"
    write(path, range(1, 3))
    history = History(path)
    history.read()
    with path.open("a") as file:
        file.write('{"time": 1.0, "event": "step", "step": 3, "loss": 1.0, "seconds"')
    history.read()
    assert history.columns()["step"] == [1, 2]
    with path.open("a") as file:
        file.write(': 1.0, "content_tokens": 900}\n')
    history.read()
    assert history.columns()["step"] == [1, 2, 3]
    assert [event["step"] for event in history.since(2)[0]] == [3]


def test_what_is_remembered_for_watchers_is_bounded(tmp_path):
    write(tmp_path / "p", range(1, 2001))
    history = History(tmp_path / "p")
    history.read()
    events, count = history.since(0)
    assert (len(events), count) == (REMEMBERED_EVENTS, 2000)
    assert history.since(2000) == ([], 2000)


def test_a_log_that_was_begun_anew_is_read_anew(tmp_path):
    path = tmp_path / "p"
    write(path, range(1, 50))
    history = History(path)
    history.read()
    path.unlink()
    write(path, range(1, 3))
    history.read()
    assert history.columns()["step"] == [1, 2]


def test_a_job_without_a_training_has_no_curves(tmp_path):
    columns = Histories(tmp_path).of("0001-a").columns()
    assert columns["step"] == []
    assert [curve.lines for curve in curves(columns)] == [(), (), ()]
    assert curves(columns)[0].words == "No step is done yet."


def test_a_loss_that_is_no_number_is_a_gap(tmp_path):
    write(tmp_path / "p", range(1, 3), loss=None)
    assert read(tmp_path / "p")["loss"] == [None, None]


def test_curves_are_told_in_words(tmp_path):
    path = tmp_path / "p"
    write(path, range(1, 4), memory_bytes=3_000_000_000)
    with path.open("a") as file:
        file.write(json.dumps({"time": 1.0, "event": "eval", "step": 3, "loss": 1.5, "rows": 9}) + "\n")
    loss, speed, memory = curves(read(path))
    assert loss.words == "Training loss: 2.000 at step 1 to 2.000 at step 3; held-out loss: 1.500 at step 3."
    assert speed.words == "200 tokens per second at last."
    assert memory.words == "Process at most 3.0 GB."
    assert len(loss.lines) == 2
