"""Pictures of a training: there, readable at any length, and the same bytes every time."""

import re
import struct

import numpy as np
import pytest

from appliance.texts.charts import exponential, smoothed, thinned
from appliance.texts.plots import loss_png, training_figures
from tests.finished import eval_events, step_events


def png_size(image: bytes) -> tuple[int, int]:
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", image[16:24])


@pytest.mark.parametrize("count", [1, 5, 200, 10_000])
def test_any_number_of_steps_gives_a_picture(count):
    steps, evals = step_events(count), eval_events(2.0, every=count)
    assert png_size(loss_png(steps, evals)) == (1800, 900)
    figures = training_figures(steps, evals)
    assert [figure.title for figure in figures] == ["Loss", "Learning rate", "Speed", "Memory"]
    assert max(len(figure.svg) for figure in figures) < 80_000


def test_without_held_out_rows_only_the_training_loss_is_drawn():
    (loss, *_) = training_figures(step_events(30), [])
    assert ">Training loss (nats per token)</text>" in loss.svg
    assert "held-out" not in loss.svg
    assert png_size(loss_png(step_events(30), []))


def test_the_lowest_held_out_loss_is_marked():
    (loss, *_) = training_figures(step_events(30), eval_events(2.4, 1.9, 2.1))
    assert "lowest: 1.900 at step 20" in loss.svg
    assert loss.summary.endswith("The lowest held-out loss is 1.900, at step 20.")


def test_a_loss_that_is_no_number_leaves_a_gap():
    steps = step_events(30)
    steps[7] |= {"loss": None, "nonfinite": True}
    (loss, *_) = training_figures(steps, [])
    assert "nan" not in loss.svg.lower()
    assert png_size(loss_png(steps, []))


def test_a_training_whose_every_loss_is_no_number_is_still_drawn():
    steps = [event | {"loss": None} for event in step_events(3)]
    (loss, *_) = training_figures(steps, [])
    assert loss.summary == "No step had a loss that is a number."
    assert png_size(loss_png(steps, []))


def test_a_job_without_steps_has_no_figures():
    assert training_figures([], []) == ()


def test_a_machine_without_a_gpu_has_one_line_of_memory():
    steps = [{key: value for key, value in event.items() if key != "cuda_reserved_bytes"} for event in step_events(30)]
    memory = training_figures(steps, [])[-1]
    assert memory.summary == "Process: 4 GB."


def test_speed_counts_each_steps_own_tokens():
    speed = training_figures(step_events(30), [])[2]
    assert speed.summary == "2,000 tokens per second."


def test_axes_have_titles_and_units():
    loss, rate, speed, memory = training_figures(step_events(30), eval_events(2.0))
    for figure, title in (
        (loss, "Loss (nats per token)"),
        (rate, "Learning rate"),
        (speed, "Speed (tokens per second)"),
        (memory, "Memory (GB)"),
    ):
        assert f">{title}</text>" in figure.svg
        assert ">step</text>" in figure.svg


def test_drawings_take_their_colours_and_their_font_from_the_page():
    for figure in training_figures(step_events(300), eval_events(2.0)):
        for svg in filter(None, (figure.svg, figure.wide)):
            assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?!\")", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", svg))
            assert set(re.findall(r"font-family: ([^;\"]*)", svg)) == {"inherit"}
            assert "<style" not in svg
            assert "http" not in svg


def test_the_same_events_give_the_same_bytes():
    steps, evals = step_events(50), eval_events(2.0)
    assert training_figures(steps, evals) == training_figures(steps, evals)
    assert loss_png(steps, evals) == loss_png(steps, evals)


def test_thinning_keeps_every_spike_and_the_order():
    steps, values = np.arange(10_000.0), np.zeros(10_000)
    values[[17, 5_003]] = 9, -9
    kept_steps, kept = thinned(steps, values, 600)
    assert len(kept) <= 600
    assert {9.0, -9.0} <= set(kept)
    assert (np.diff(kept_steps) > 0).all()


def test_smoothing_follows_a_line_and_flattens_noise():
    line = np.arange(1_000.0)
    assert np.allclose(smoothed(line)[10:-10], line[10:-10])
    noise = np.tile([0.0, 1.0], 500)
    assert np.ptp(smoothed(noise)) < 0.2


def test_learning_rates_share_one_power_of_ten():
    assert [exponential(2e-4)(value) for value in (0, 2e-4, 5e-5)] == ["0", "2e-4", "0.5e-4"]
    assert exponential(0.0)(0.0) == "0"


def test_a_learning_rate_of_zero_is_drawn():
    steps = [event | {"learning_rate": 0.0} for event in step_events(3)]
    assert training_figures(steps, [])[1].summary == "At most 0."
