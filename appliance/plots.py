"""Pictures of a training: `loss.png`, and the drawings inside `report.html`.

Only the publish stage imports this module: Matplotlib is too heavy for the daemon. The same events give the same
bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from appliance.report import Facts, Figure
from appliance.wording import loss as loss_text
from appliance.wording import rate, sentence

# The colours of page.css in the light. In the page they become its variables, which follow light and dark.
PAPER: Final = "#ffffff"
INK: Final = "#1b2127"
MUTED: Final = "#55606b"
LINE: Final = "#d8dee4"
TRAIN: Final = "#1d5a9e"
HELD: Final = "#b4510b"
_VARIABLES: Final = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", LINE: "--line", TRAIN: "--train", HELD: "--held"}

# Width and height in CSS pixels: across the page, and beside others or on a phone.
WIDE: Final = (880, 330)
NARROW: Final = (344, 240)
PNG: Final = (900, 450)
# One pixel is one point.
DPI: Final = 72

MOST_POINTS: Final = 600
FEWEST_FOR_A_TREND: Final = 20
# As much of the run as one point of the trend averages over.
TREND_SHARE: Final = 1 / 20


@dataclass(frozen=True)
class Series:
    """Values by step, finite ones only, in the order of the steps."""

    label: str
    color: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def __bool__(self) -> bool:
        return len(self.steps) > 0


@dataclass(frozen=True)
class Chart:
    """One pair of axes: lines by step, and for the loss the held-out points."""

    title: str
    unit: str
    lines: tuple[Series, ...]
    points: Series | None = None
    from_zero: bool = True
    trend: bool = False


def loss_png(steps: Sequence[Facts], evals: Sequence[Facts]) -> bytes:
    """A PNG of training and held-out loss by step, from the `step` and `eval` events of train/progress.jsonl.

    Each step comes once: what a resumed attempt did again replaces what it was before.
    """
    canvas = _draw(_loss_chart(steps, evals), PNG, margin=18)
    canvas.set_facecolor(PAPER)
    FigureCanvasAgg(canvas)
    image = BytesIO()
    canvas.savefig(image, format="png", dpi=2 * DPI, metadata={"Software": None})
    return image.getvalue()


def training_figures(steps: Sequence[Facts], evals: Sequence[Facts]) -> tuple[Figure, ...]:
    """The report's drawings: loss, learning rate, speed and memory by step. None for a job without steps."""
    loss = _loss_chart(steps, evals)
    charts = (_learning_rate_chart(steps), _speed_chart(steps), _memory_chart(steps))
    figures = [Figure(loss.title, _loss_summary(loss), _svg(loss, NARROW), wide=_svg(loss, WIDE))]
    figures += [Figure(chart.title, _summary(chart), _svg(chart, NARROW)) for chart in charts if any(chart.lines)]
    return tuple(figures) if steps else ()


def _series(label: str, color: str, pairs: Sequence[tuple[float, float | None]]) -> Series:
    finite = [(step, value) for step, value in pairs if value is not None and np.isfinite(value)]
    points = np.array(finite, dtype=np.float64).reshape(-1, 2)
    return Series(label, color, points[:, 0], points[:, 1])


def _loss_chart(steps: Sequence[Facts], evals: Sequence[Facts]) -> Chart:
    train = _series("training loss", TRAIN, [(event["step"], event["loss"]) for event in steps])
    held_out = _series("held-out loss", HELD, [(event["step"], event["loss"]) for event in evals])
    title = "Loss" if held_out else "Training loss"
    return Chart(title, "nats per token", (train,), points=held_out or None, from_zero=False, trend=True)


def _learning_rate_chart(steps: Sequence[Facts]) -> Chart:
    rates = _series("learning rate", TRAIN, [(event["step"], event["learning_rate"]) for event in steps])
    return Chart("Learning rate", "", (rates,))


def _speed_chart(steps: Sequence[Facts]) -> Chart:
    before = [0, *(event["content_tokens"] for event in steps)]
    speeds = [
        (event["step"], (event["content_tokens"] - seen) / event["seconds"] if event["seconds"] > 0 else None)
        for event, seen in zip(steps, before, strict=False)
    ]
    return Chart("Speed", "tokens per second", (_series("tokens per second", TRAIN, speeds),), trend=True)


def _memory_chart(steps: Sequence[Facts]) -> Chart:
    process = [(event["step"], _gigabytes(event.get("memory_bytes"))) for event in steps]
    gpu = [(event["step"], _gigabytes(event.get("cuda_reserved_bytes"))) for event in steps]
    lines = (_series("process", TRAIN, process), _series("GPU, reserved", HELD, gpu))
    return Chart("Memory", "GB", tuple(line for line in lines if line))


def _gigabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e9


def _loss_summary(chart: Chart) -> str:
    """The loss curve in words, for those who do not see it."""
    (train,), held_out = chart.lines, chart.points
    if not train:
        return "No step had a loss that is a number."
    ends = f"{loss_text(train.values[0])} at step {train.steps[0]:.0f} to {loss_text(train.values[-1])} at step"
    said = f"Training loss from {ends} {train.steps[-1]:.0f}."
    if held_out is None:
        return said
    best = int(held_out.values.argmin())
    return f"{said} The lowest held-out loss is {loss_text(held_out.values[best])}, at step {held_out.steps[best]:.0f}."


def _summary(chart: Chart) -> str:
    """The range of every line."""
    ranges = [
        f"{line.label} between {rate(line.values.min())} and {rate(line.values.max())}" for line in chart.lines if line
    ]
    text = " and ".join(ranges)
    return sentence(f"{text} {chart.unit}" if chart.unit not in text else text)


def _draw(chart: Chart, pixels: tuple[int, int], *, margin: float = 2) -> Canvas:
    width, height = (length / DPI for length in pixels)
    layout = ConstrainedLayoutEngine(w_pad=margin / DPI, h_pad=margin / DPI)
    canvas = Canvas(figsize=(width, height), dpi=DPI, layout=layout, facecolor="none")
    axes: Axes = canvas.add_subplot(facecolor="none")
    for line in chart.lines:
        _draw_line(axes, line, trend=chart.trend)
    if chart.points:
        _draw_held_out(axes, chart.points)
    _style(axes, chart)
    return canvas


def _draw_line(axes: Axes, line: Series, *, trend: bool) -> None:
    """The values; under a trend, where there are enough of them for one."""
    trend = trend and len(line.steps) >= FEWEST_FOR_A_TREND
    marker = "o" if len(line.steps) < FEWEST_FOR_A_TREND else ""
    steps, values = thinned(line.steps, line.values)
    look: dict[str, Any] = {"linewidth": 1, "alpha": 0.35} if trend else {"linewidth": 1.75, "label": line.label}
    axes.plot(steps, values, color=line.color, marker=marker, markersize=4, **look)
    if trend:
        steps, values = thinned(line.steps, smoothed(line.values))
        axes.plot(steps, values, color=line.color, linewidth=2, label=f"{line.label}, running mean")


def _draw_held_out(axes: Axes, points: Series) -> None:
    axes.plot(
        points.steps, points.values, "o-", color=HELD, markersize=5, linewidth=1.25, label=points.label, clip_on=False
    )
    best = int(points.values.argmin())
    axes.plot(
        points.steps[best],
        points.values[best],
        "o",
        color=HELD,
        markersize=12,
        fillstyle="none",
        markeredgewidth=1.5,
        linestyle="none",
        clip_on=False,
        label=f"lowest: {loss_text(points.values[best])} at step {points.steps[best]:.0f}",
    )


def _style(axes: Axes, chart: Chart) -> None:
    """Horizontal grid lines, the axis titles and nothing else."""
    axes.set_title(
        f"{chart.title} ({chart.unit})" if chart.unit else chart.title, loc="left", pad=10, fontsize=12, color=INK
    )
    axes.set_xlabel("step", fontsize=12, color=MUTED)
    axes.tick_params(length=0, labelsize=12, labelcolor=MUTED, pad=6)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    _set_limits(axes, chart)
    if chart.points or len(chart.lines) > 1:
        axes.legend(
            facecolor=PAPER, edgecolor="none", fontsize=12, labelcolor=MUTED, handlelength=1.25, borderaxespad=0
        )


def _set_limits(axes: Axes, chart: Chart) -> None:
    last = max((line.steps[-1] for line in (*chart.lines, chart.points) if line), default=1)
    axes.set_xlim(0, last * 1.02 if last > 1 else 2)
    if chart.from_zero:
        axes.set_ylim(bottom=0)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The running mean: each value averaged with its neighbours on both sides, fewer of them towards the ends."""
    count = len(values)
    reach = np.minimum(max(1, round(count * TREND_SHARE / 2)), np.minimum(np.arange(count), np.arange(count)[::-1]))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    centre = np.arange(count)
    means: NDArray[np.float64] = (sums[centre + reach + 1] - sums[centre - reach]) / (2 * reach + 1)
    return means


def thinned(
    steps: NDArray[np.float64], values: NDArray[np.float64], most: int = MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `most` points that look the same: the lowest and the highest of every stretch, so no spike is lost."""
    if len(steps) <= most:
        return steps, values
    stretches = np.array_split(np.arange(len(steps)), most // 2)
    extremes = [(part[values[part].argmin()], part[values[part].argmax()]) for part in stretches]
    kept = np.unique(np.array(extremes))
    return steps[kept], values[kept]


def _svg(chart: Chart, pixels: tuple[int, int]) -> str:
    """The chart as mark-up for the page: its colours, its font, and no name that another drawing also uses."""
    salt = f"{chart.title} {pixels[0]}"
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        canvas = _draw(chart, pixels)
        FigureCanvasSVG(canvas)
        text = StringIO()
        canvas.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_page(text.getvalue())


def _for_page(svg: str) -> str:
    svg = re.sub(
        r"^.*?<svg[^>]*?( viewBox=\"[^\"]*\")[^>]*>", r'<svg\1 aria-hidden="true">', svg, count=1, flags=re.DOTALL
    )
    # It would hold for the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
