"""How long the rows are: counted by `prepare`, drawn by the report."""

import re
from itertools import pairwise

import numpy as np
import pytest

from appliance.stages.training.labels.report import COLUMNS, histogram
from appliance.texts.histogram import row_lengths
from appliance.texts.report import render_report
from tests.finished import LABELS, finished_report


@pytest.mark.parametrize(
    "lengths",
    [[1], [7] * 5, list(range(1, 30)), [100, 8192], [60] * 500 + [8000], [3, 999, 1000, 1001]],
    ids=["one", "all alike", "small", "two", "a long tail", "edges"],
)
def test_every_row_is_in_one_range_and_the_ranges_leave_no_gap(lengths):
    check(lengths)


def test_so_it_is_for_any_lengths(rng):
    for _ in range(200):
        check([rng.randint(1, 10 ** rng.randint(1, 5)) for _ in range(rng.randint(1, 300))])


def check(lengths: list[int]) -> None:
    ranges = histogram(np.array(lengths, dtype=np.int32))
    for entry in ranges:
        assert entry["rows"] == sum(entry["from"] <= length <= entry["to"] for length in lengths)
    assert sum(entry["rows"] for entry in ranges) == len(lengths)
    assert all(entry["to"] + 1 == after["from"] for entry, after in pairwise(ranges))
    assert len(ranges) <= COLUMNS + 2


def test_of_no_rows_there_is_none():
    assert histogram(np.array([], dtype=np.int32)) == []
    assert row_lengths({"histogram": []}) is None
    assert row_lengths({}) is None


def test_few_long_rows_do_not_flatten_the_others():
    ranges = histogram(np.array([*range(50, 250), 8000], dtype=np.int32))
    assert ranges[0] == {"from": 50, "to": 59, "rows": 10}
    assert ranges[-1] == {"from": 250, "to": 8000, "rows": 1}
    drawn = row_lengths({"histogram": ranges})
    assert drawn.summary.endswith("The last column takes all from 250 on.")
    assert drawn.ticks == ("50", "8,000")


def test_the_report_draws_a_column_for_every_range():
    html = render_report(finished_report())
    drawing = html[html.index('<figure class="lengths">') :].partition("</figure>")[0]
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"', drawing)]
    assert len(heights) == len(LABELS["histogram"])
    assert heights[2] == max(heights) == 100
    assert heights[4] == min(heights) > 0
    assert "<title>110 to 119 tokens: 170 rows</title>" in drawing
    assert "The tallest column: 260 rows of 120 to 129." in drawing


def test_a_report_of_labels_without_a_histogram_is_drawn_without_it():
    labels = {name: value for name, value in LABELS.items() if name != "histogram"}
    assert "lengths" not in render_report(finished_report(labels=labels)).partition("<body>")[2]
