"""Metrics are read, not pushed: a collector looks at the database and at the loop's view at every scrape.

Every value of an enumeration is always exported, 0 included; series of a job end 15 minutes after the job does.
Counters and histograms live in the database and go on across restarts.
"""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from appliance import __version__
from appliance.crew import CHECKPOINT_BUCKETS, STEP_BUCKETS
from appliance.drops import DropState
from appliance.errors import Reason
from appliance.inbox import Availability
from appliance.job import ENDED, FailureClass, Job, JobState, Stage, Verdict, Waiting
from appliance.pipeline import DETECTION_BUCKETS, STAGE_BUCKETS, WAIT_BUCKETS
from appliance.progress import Progress
from appliance.store import Store
from appliance.view import KEEP_SERIES_SECONDS, View

PREFIX: Final = "appliance_"
PENDING: Final = (DropState.SETTLING, DropState.AWAITING_PAIR, DropState.CHECKING)
DROP_OUTCOMES: Final = ("accepted", "rejected", "duplicate")


Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(frozen=True)
class Family:
    """One row of the metric table that is counted in the database."""

    name: str
    help: str
    labels: Mapping[str, tuple[str, ...]]
    buckets: tuple[float, ...] = ()


def _values(kind: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(value) for value in kind)


COUNTERS: Final = (
    Family("loop_errors_total", "Turns of a loop that met an error.", {"loop": ("main",)}),
    Family("inbox_drops_total", "Drops by what became of them.", {"outcome": DROP_OUTCOMES}),
    Family("inbox_rejections_total", "Problems that rejected drops, by kind.", {"reason": _values(Reason)}),
    Family("jobs_finished_total", "Jobs that ended.", {"outcome": _values(sorted(ENDED))}),
    Family("job_failures_total", "Failed jobs by class.", {"reason": _values(FailureClass)}),
    Family("job_retries_total", "Stages begun again after a fault, by class.", {"reason": _values(FailureClass)}),
    Family("verdicts_total", "Verdicts of finished trainings.", {"verdict": _values(Verdict)}),
    Family("train_tokens_total", "Tokens trained on.", {"kind": ("content", "padding")}),
    Family("train_target_tokens_total", "Tokens with a label.", {}),
    Family("train_samples_total", "Rows trained on.", {}),
    Family("train_steps_total", "Optimizer steps.", {}),
)
HISTOGRAMS: Final = (
    Family("inbox_detection_delay_seconds", "From the last write to the verdict on a drop.", {}, DETECTION_BUCKETS),
    Family("job_queue_wait_seconds", "From taking a drop in to its first stage.", {}, WAIT_BUCKETS),
    Family("job_stage_duration_seconds", "Wall time of a stage.", {"stage": _values(Stage)}, STAGE_BUCKETS),
    Family("train_step_duration_seconds", "Wall time of an optimizer step.", {}, STEP_BUCKETS),
    Family("checkpoint_duration_seconds", "Wall time of saving a checkpoint.", {}, CHECKPOINT_BUCKETS),
)


def make_registry(store: Store, view: Callable[[], View], clock: Callable[[], float]) -> CollectorRegistry:
    """A registry of our own with the appliance's families and the process and platform collectors."""
    registry = CollectorRegistry()
    registry.register(ApplianceCollector(store, view, clock))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class ApplianceCollector(Collector):
    """Reads everything anew at each scrape."""

    def __init__(self, store: Store, view: Callable[[], View], clock: Callable[[], float]) -> None:
        self._store = store
        self._view = view
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        yield from _service(view)
        yield from _inbox(view)
        yield from self._queue(view)
        yield from self._counted()
        yield from self._jobs(view)

    def describe(self) -> Iterable[Metric]:
        """Nothing is registered by name: that would scrape once at start, before there is a view."""
        return ()

    def _queue(self, view: View) -> Iterator[Metric]:
        active = self._store.active_jobs()
        running = {entry.job.number: entry.stage for entry in view.running}
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for state, count in self._store.count_by_state().items():
            counts[state, ""] = 0 if state is JobState.RUNNING else count
        for stage in Stage:
            counts[JobState.RUNNING, stage] = sum(at is stage for at in running.values())
        yield _gauge("jobs", "Jobs by state, and by stage while running.", ("state", "stage"), counts)
        waiting = [job for job in active if job.number not in running]
        oldest = min((job.created for job in waiting), default=0.0)
        yield _gauge(
            "queue_oldest_timestamp_seconds", "When the oldest waiting job was taken in; 0 if none.", (), {(): oldest}
        )
        yield _gauge("queue_paused", "1 while the queue is paused.", (), {(): float(view.paused)})
        reasons = {(str(reason),): sum(job.waiting is reason for job in waiting) for reason in Waiting}
        yield _gauge("waiting", "Waiting jobs by reason.", ("reason",), reasons)

    def _counted(self) -> Iterator[Metric]:
        values: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        for name, labels, value in self._store.counters():
            values[name][tuple(sorted(labels.items()))] = value
        for family in COUNTERS:
            yield _counter(family, values[family.name])
        for family in HISTOGRAMS:
            yield _histogram(family, values[f"{family.name}_bucket"], values[f"{family.name}_sum"])

    def _jobs(self, view: View) -> Iterator[Metric]:
        recent = self._store.ended_since(self._clock() - KEEP_SERIES_SECONDS)
        jobs = [*self._store.active_jobs(), *recent]
        yield _gauge("job_info", "What a job is.", _INFO_LABELS, {_info(job): 1.0 for job in jobs})
        states = {(str(job.number), str(state)): float(job.state is state) for job in jobs for state in JobState}
        yield _gauge("job_state", "1 for the state that a job is in.", ("job_id", "state"), states)
        for name, text, read in JOB_GAUGES:
            found = {(str(job.number),): read(job, view.trained.get(job.number, Progress())) for job in jobs}
            values = {labels: value for labels, value in found.items() if value is not None}
            yield _gauge(name, text, ("job_id",), values)
        nonfinite = CounterMetricFamily(
            PREFIX + "job_nonfinite_losses", "Steps whose loss was not finite.", labels=("job_id",)
        )
        for job in jobs:
            progress = view.trained.get(job.number)
            if progress is not None:
                nonfinite.add_metric((str(job.number),), progress.nonfinite_losses)
        yield nonfinite


Read = Callable[[Job, Progress], float | None]
JOB_GAUGES: Final[tuple[tuple[str, str, Read], ...]] = (
    ("job_start_timestamp_seconds", "When the first stage began.", lambda job, _: job.started),
    ("job_last_progress_timestamp_seconds", "When the training last reported.", lambda _, p: p.last_event),
    ("job_last_checkpoint_timestamp_seconds", "When the last checkpoint was complete.", lambda _, p: p.last_checkpoint),
    ("job_step", "Optimizer steps done.", lambda _, p: p.step),
    ("job_planned_steps", "Optimizer steps planned.", lambda _, p: p.total_steps),
    ("job_epoch", "Passes over the training rows.", lambda _, p: p.epoch),
    ("job_eta_seconds", "Estimated seconds left, from the measured rate.", lambda _, p: p.seconds_left),
    ("job_train_loss", "Loss of the last step.", lambda _, p: p.loss),
    ("job_eval_loss", "Last held-out loss.", lambda _, p: p.eval_loss),
    ("job_learning_rate", "Learning rate of the last step.", lambda _, p: p.learning_rate),
    ("job_grad_norm", "Gradient norm of the last step.", lambda _, p: p.grad_norm),
    ("job_tokens_per_second", "Content tokens per second, padding excluded.", lambda _, p: p.tokens_per_second),
    ("job_cuda_reserved_bytes", "Memory reserved by torch's allocator.", lambda _, p: p.cuda_reserved_bytes),
    ("job_memory_peak_bytes", "Highest memory use of the training process.", lambda _, p: p.memory_peak_bytes),
)
_INFO_LABELS = ("job_id", "name", "base_model", "dataset", "method", "attempt")


def _info(job: Job) -> tuple[str, ...]:
    # The name is the slug in the id: what a person called the file is no label.
    name = job.id.partition("-")[2]
    dataset = next((file.sha256[:12] for file in job.files if file.role == "dataset"), "")
    return (str(job.number), name, job.base_model or "", dataset, job.method or "", str(job.attempt))


def _service(view: View) -> Iterator[Metric]:
    build = {(__version__, "", platform.python_version()): 1.0}
    yield _gauge("build_info", "What runs here.", ("version", "revision", "python_version"), build)
    yield _gauge("ready", "1 once recovered and scanned.", (), {(): float(view.ready)})
    yield _gauge("loop_heartbeat_timestamp_seconds", "When a loop last turned.", ("loop",), {("main",): view.time})


def _inbox(view: View) -> Iterator[Metric]:
    available = float(view.availability is Availability.AVAILABLE)
    yield _gauge("inbox_available", "1 while the inbox can be listed and is ours.", (), {(): available})
    pending = [drop for drop in view.drops if drop.state in PENDING]
    counts = {(str(state),): float(sum(drop.state is state for drop in pending)) for state in PENDING}
    yield _gauge("inbox_pending", "Drops that are not taken in yet.", ("state",), counts)
    # Drops are timed by the monotonic clock; the view carries both.
    oldest = min((view.wall(drop.since) for drop in pending), default=0.0)
    yield _gauge(
        "inbox_oldest_pending_timestamp_seconds", "Last change of the oldest pending drop; 0 if none.", (), {(): oldest}
    )
    yield _gauge(
        "inbox_last_scan_timestamp_seconds", "When the inbox was last listed.", (), {(): view.last_scan or 0.0}
    )


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Key, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(family: Family, values: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
    metric = CounterMetricFamily(PREFIX + family.name, family.help, labels=tuple(family.labels))
    for labels in _label_sets(family):
        metric.add_metric(tuple(labels.values()), values.get(tuple(sorted(labels.items())), 0.0))
    return metric


def _histogram(
    family: Family,
    buckets: Mapping[tuple[tuple[str, str], ...], float],
    sums: Mapping[tuple[tuple[str, str], ...], float],
) -> Metric:
    metric = HistogramMetricFamily(PREFIX + family.name, family.help, labels=tuple(family.labels))
    for labels in _label_sets(family):
        total, cumulative = 0.0, []
        for edge in (*family.buckets, float("inf")):
            total += buckets.get(tuple(sorted({**labels, "le": str(edge)}.items())), 0.0)
            cumulative.append(("+Inf" if edge == float("inf") else str(float(edge)), total))
        metric.add_metric(tuple(labels.values()), cumulative, sums.get(tuple(sorted(labels.items())), 0.0))
    return metric


def _label_sets(family: Family) -> list[dict[str, str]]:
    """Every combination of the family's labels; no family here has more than one."""
    if not family.labels:
        return [{}]
    ((label, values),) = family.labels.items()
    return [{label: value} for value in values]
