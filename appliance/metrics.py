"""Metrics are read, not pushed: a collector looks at the database, the loop's view and the machine at every scrape.

`metric_table` says what there is. Every value of a closed label is always exported, 0 included; series of a job end 15
minutes after the job does. Counters and histograms live in the database and go on across restarts.
"""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from appliance import __version__
from appliance.inbox import Availability
from appliance.job import Job, JobState, Stage, Waiting
from appliance.machine_metrics import gpu_values, machine_values
from appliance.machine_watch import NOTHING_READ, MachineReading
from appliance.metric_table import FAMILIES, PENDING, PREFIX, Family, Kind, Values
from appliance.progress import Progress
from appliance.push_store import LAST_SUCCESS
from appliance.revision import revision
from appliance.settings import Settings
from appliance.store import Store
from appliance.view import KEEP_SERIES_SECONDS, View

Counted = Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]


def make_registry(
    store: Store,
    view: Callable[[], View],
    clock: Callable[[], float],
    *,
    settings: Settings | None = None,
    machine: Callable[[], MachineReading] = lambda: NOTHING_READ,
) -> CollectorRegistry:
    """A registry of our own with the appliance's families and the process and platform collectors."""
    registry = CollectorRegistry()
    registry.register(ApplianceCollector(store, view, clock, settings or Settings(), machine))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class ApplianceCollector(Collector):
    """Reads everything anew at each scrape."""

    def __init__(
        self,
        store: Store,
        view: Callable[[], View],
        clock: Callable[[], float],
        settings: Settings,
        machine: Callable[[], MachineReading],
    ) -> None:
        self._store = store
        self._view = view
        self._clock = clock
        self._settings = settings
        self._machine = machine

    def collect(self) -> Iterator[Metric]:
        values, counted = self._read(), self._counted()
        for family in FAMILIES:
            if not family.counted:
                yield _sampled(family, values.get(family.name, {}))
            elif family.kind is Kind.COUNTER:
                yield _counter(family, counted[family.name])
            else:
                yield _histogram(family, counted[f"{family.name}_bucket"], counted[f"{family.name}_sum"])

    def describe(self) -> Iterable[Metric]:
        """Nothing is registered by name: that would scrape once at start, before there is a view."""
        return ()

    def _read(self) -> dict[str, Values]:
        view, reading, active = self._view(), self._machine(), self._store.active_jobs()
        return {
            **_service(view, reading),
            **_inbox(view),
            **_queue(view, active, self._store.count_by_state()),
            **_hub(self._store),
            **self._jobs(view, active),
            **machine_values(reading, self._settings),
            **gpu_values(reading.gpus, self._settings),
        }

    def _counted(self) -> Counted:
        values: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        for name, labels, value in self._store.counters():
            values[name][tuple(sorted(labels.items()))] = value
        return values

    def _jobs(self, view: View, active: list[Job]) -> dict[str, Values]:
        recent = self._store.ended_since(self._clock() - KEEP_SERIES_SECONDS)
        jobs = [*active, *recent]
        peak = self._settings.gpu_peak_tflops
        values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for job in jobs:
            values["job_info"][_info(job)] = 1.0
            for state in JobState:
                values["job_state"][str(job.number), state] = float(job.state is state)
            progress = view.trained.get(job.number, Progress())
            facts = _facts(job, progress, view) | {"job_mfu_ratio": _utilisation(progress, peak)}
            for name, value in facts.items():
                if value is not None:
                    values[name][str(job.number),] = value
        return {**values}


Read = Callable[[Progress], float | None]
OF_TRAINING: Final[Mapping[str, Read]] = {
    "job_last_checkpoint_timestamp_seconds": lambda p: p.last_checkpoint,
    "job_step": lambda p: p.step,
    "job_planned_steps": lambda p: p.total_steps,
    "job_epoch": lambda p: p.epoch,
    "job_eta_seconds": lambda p: p.seconds_left,
    "job_train_loss": lambda p: float("nan") if p.loss is None and p.nonfinite_losses else p.loss,
    "job_eval_loss": lambda p: p.eval_loss,
    "job_learning_rate": lambda p: p.learning_rate,
    "job_grad_norm": lambda p: p.grad_norm,
    "job_tokens_per_second": lambda p: p.tokens_per_second,
    "job_nonfinite_losses_total": lambda p: None if p.step is None else p.nonfinite_losses,
    "job_cuda_reserved_bytes": lambda p: p.cuda_reserved_bytes,
    "job_cuda_peak_reserved_bytes": lambda p: p.cuda_peak_reserved_bytes,
    "job_memory_peak_bytes": lambda p: p.memory_peak_bytes,
    "job_memory_estimate_bytes": lambda p: p.memory_estimate_bytes,
}


def _facts(job: Job, progress: Progress, view: View) -> dict[str, float | None]:
    facts = {name: read(progress) for name, read in OF_TRAINING.items()}
    facts["job_start_timestamp_seconds"] = job.started
    facts["job_last_progress_timestamp_seconds"] = view.last_progress(job.number)
    return facts


def _utilisation(progress: Progress, peak_tflops: float | None) -> float | None:
    flops = progress.model_flops_per_second
    return None if flops is None or peak_tflops is None else flops / (peak_tflops * 1e12)


def _info(job: Job) -> tuple[str, ...]:
    # The name is the slug in the id: what a person called the file is no label.
    name = job.id.partition("-")[2]
    dataset = next((file.sha256[:12] for file in job.files if file.role == "dataset"), "")
    return (str(job.number), name, job.base_model or "", dataset, job.method or "", str(job.attempt))


def _service(view: View, reading: MachineReading) -> dict[str, Values]:
    return {
        "build_info": {(__version__, revision(), platform.python_version()): 1.0},
        "ready": {(): float(view.ready)},
        "loop_heartbeat_timestamp_seconds": {
            ("main",): view.time,
            ("guard",): view.guard_turn,
            ("gpu",): reading.gpu_last_turn,
            ("board",): view.board_turn,
        },
    }


def _inbox(view: View) -> dict[str, Values]:
    pending = [drop for drop in view.drops if drop.state in PENDING]
    # Drops are timed by the monotonic clock; the view carries both.
    oldest = min((view.wall(drop.since) for drop in pending), default=0.0)
    return {
        "inbox_available": {(): float(view.availability is Availability.AVAILABLE)},
        "inbox_pending": {(state,): float(sum(drop.state is state for drop in pending)) for state in PENDING},
        "inbox_oldest_pending_timestamp_seconds": {(): oldest},
        "inbox_last_scan_timestamp_seconds": {(): view.last_scan or 0.0},
    }


def _queue(view: View, active: list[Job], by_state: Mapping[JobState, int]) -> dict[str, Values]:
    running = {entry.job.number: entry.stage for entry in view.running}
    counts: dict[tuple[str, ...], float] = {
        (state, ""): 0.0 if state is JobState.RUNNING else float(count) for state, count in by_state.items()
    }
    for stage in Stage:
        counts[JobState.RUNNING, stage] = float(sum(at is stage for at in running.values()))
    waiting = [job for job in active if job.number not in running]
    return {
        "jobs": counts,
        "queue_oldest_timestamp_seconds": {(): min((job.created for job in waiting), default=0.0)},
        "queue_paused": {(): float(view.paused)},
        "waiting": {(reason,): float(sum(job.waiting is reason for job in waiting)) for reason in Waiting},
    }


def _hub(store: Store) -> dict[str, Values]:
    pending = store.pending_pushes()
    return {
        "hub_pushes_pending": {(): float(len(pending))},
        "hub_oldest_pending_timestamp_seconds": {(): min((job.finished or 0.0 for job in pending), default=0.0)},
        "hub_last_success_timestamp_seconds": {(): float(store.fact(LAST_SUCCESS) or 0.0)},
    }


def _sampled(family: Family, values: Values) -> Metric:
    make = GaugeMetricFamily if family.kind is Kind.GAUGE else CounterMetricFamily
    metric = make(PREFIX + family.name, family.help, labels=tuple(family.labels))
    for key, value in values.items():
        metric.add_metric(key, value)
    return metric


def _counter(family: Family, values: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
    metric = CounterMetricFamily(PREFIX + family.name, family.help, labels=tuple(family.labels))
    for labels in family.label_sets():
        metric.add_metric(tuple(labels.values()), values.get(tuple(sorted(labels.items())), 0.0))
    return metric


def _histogram(
    family: Family,
    buckets: Mapping[tuple[tuple[str, str], ...], float],
    sums: Mapping[tuple[tuple[str, str], ...], float],
) -> Metric:
    metric = HistogramMetricFamily(PREFIX + family.name, family.help, labels=tuple(family.labels))
    for labels in family.label_sets():
        total, cumulative = 0.0, []
        for edge in (*family.buckets, float("inf")):
            total += buckets.get(tuple(sorted({**labels, "le": str(edge)}.items())), 0.0)
            cumulative.append(("+Inf" if edge == float("inf") else str(float(edge)), total))
        metric.add_metric(tuple(labels.values()), cumulative, sums.get(tuple(sorted(labels.items())), 0.0))
    return metric
