"""Pictures of a training: `loss.png`, and the drawings inside `report.html`.

Only the publish stage imports this module: Matplotlib is too heavy for the daemon. The same events give the same
bytes.
"""

import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, StrMethodFormatter

from appliance.texts.charts import (
    FEWEST_FOR_A_TREND,
    Chart,
    Series,
    learning_rate_chart,
    loss_chart,
    memory_chart,
    smoothed,
    speed_chart,
    thinned,
)
from appliance.texts.report import Facts, Figure
from appliance.texts.wording import loss

# The colours of page.css in the light. In the page they become its variables, which follow light and dark.
PAPER: Final = "#ffffff"
INK: Final = "#1b2127"
MUTED: Final = "#55606b"
LINE: Final = "#d8dee4"
TRAIN: Final = "#1d5a9e"
HELD: Final = "#b4510b"
_VARIABLES: Final = {
    PAPER: "--paper",
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    TRAIN: "--train",
    HELD: "--held",
}

# Width and height in CSS pixels: across the page, the same on a phone, and beside two others.
WIDE: Final = (880, 330)
NARROW: Final = (344, 240)
COLUMN: Final = (290, 205)
PNG: Final = (900, 450)
# One pixel is one point.
DPI: Final = 72
FONT_SIZE: Final = 12
MOST_POINTS: Final = 600


def loss_png(steps: Sequence[Facts], evals: Sequence[Facts]) -> bytes:
    """A PNG of training and held-out loss by step, from the `step` and `eval` events of train/progress.jsonl.

    Each step comes once: what a resumed attempt did again replaces what it was before.
    """
    canvas = _draw(loss_chart(steps, evals), PNG, margin=18)
    canvas.set_facecolor(PAPER)
    FigureCanvasAgg(canvas)
    image = BytesIO()
    canvas.savefig(image, format="png", dpi=2 * DPI, metadata={"Software": None})
    return image.getvalue()


def training_figures(steps: Sequence[Facts], evals: Sequence[Facts]) -> tuple[Figure, ...]:
    """The report's drawings: loss, learning rate, speed and memory by step. None for a job without steps."""
    if not steps:
        return ()
    first = loss_chart(steps, evals)
    others = [chart for chart in (learning_rate_chart(steps), speed_chart(steps), memory_chart(steps)) if chart.lines]
    return (
        Figure(first.title, first.summary, _svg(first, NARROW), wide=_svg(first, WIDE)),
        *(Figure(chart.title, chart.summary, _svg(chart, COLUMN)) for chart in others),
    )


def _draw(chart: Chart, pixels: tuple[int, int], *, margin: float = 2) -> Canvas:
    width, height = (length / DPI for length in pixels)
    layout = ConstrainedLayoutEngine(w_pad=margin / DPI, h_pad=margin / DPI)
    canvas = Canvas(figsize=(width, height), dpi=DPI, layout=layout, facecolor="none")
    axes: Axes = canvas.add_subplot(facecolor="none")
    for line, color in zip(chart.lines, (TRAIN, HELD), strict=False):
        _draw_line(axes, line, color, trend=chart.trend)
    if chart.points:
        _draw_points(axes, chart.points)
    _draw_titles(axes, chart)
    _draw_axes(axes, chart)
    return canvas


def _draw_line(axes: Axes, line: Series, color: str, *, trend: bool) -> None:
    """The values; over them their trend, where there are enough of them for one."""
    trend = trend and len(line.steps) >= FEWEST_FOR_A_TREND
    marker = "" if len(line.steps) >= FEWEST_FOR_A_TREND else "o"
    look: dict[str, Any] = {"linewidth": 1, "alpha": 0.35} if trend else {"linewidth": 1.75, "label": line.label}
    axes.plot(*thinned(line.steps, line.values, MOST_POINTS), color=color, marker=marker, markersize=4, **look)
    if trend:
        means = thinned(line.steps, smoothed(line.values), MOST_POINTS)
        axes.plot(*means, color=color, linewidth=2, label=f"{line.label}, running mean")


def _draw_points(axes: Axes, points: Series) -> None:
    """Points joined by a line, the lowest of them in a ring."""
    look: dict[str, Any] = {"color": HELD, "marker": "o", "clip_on": False}
    axes.plot(points.steps, points.values, markersize=5, linewidth=1.25, label=points.label, **look)
    step, value = points.lowest
    ring: dict[str, Any] = {"markersize": 12, "fillstyle": "none", "markeredgewidth": 1.5, "linestyle": "none"}
    axes.plot([step], [value], label=f"lowest: {loss(value)} at step {step:,}", **look, **ring)


def _draw_titles(axes: Axes, chart: Chart) -> None:
    title = f"{chart.title} ({chart.unit})" if chart.unit else chart.title
    axes.set_title(title, loc="left", pad=10, fontsize=FONT_SIZE, color=INK)
    axes.set_xlabel("step", fontsize=FONT_SIZE, color=MUTED)
    if chart.points or len(chart.lines) > 1:
        look: dict[str, Any] = {"facecolor": PAPER, "edgecolor": "none", "labelcolor": MUTED}
        axes.legend(fontsize=FONT_SIZE, handlelength=1.25, borderaxespad=0, **look)


def _draw_axes(axes: Axes, chart: Chart) -> None:
    """Horizontal grid lines and numbers, nothing else."""
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=FONT_SIZE, labelcolor=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: chart.tick(value)))
    last = max((line.steps[-1] for line in (*chart.lines, chart.points) if line), default=1)
    axes.set_xlim(0, last * 1.02 if last > 1 else 2)
    if chart.from_zero:
        axes.set_ylim(bottom=0)


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
    # The file's head: only the size of the picture means something in a page.
    svg = re.sub(r"^.*?<svg[^>]*?( viewBox=\"[^\"]*\")[^>]*>", r'<svg\1 aria-hidden="true">', svg, flags=re.DOTALL)
    # Its style sheet would hold for the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
