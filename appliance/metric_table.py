"""The metric table: every family that `/metrics` serves, with its type, its labels and their closed sets of values.

docs/metrics.md is this table for people; a test keeps the two and the served page the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Final

from appliance.errors import Reason
from appliance.job import ENDED, FailureClass, JobState, Stage, Verdict, Waiting
from appliance.pushing import PushResult
from appliance.settling import DropState

PREFIX: Final = "appliance_"

# Numbers of one family, by the values of its labels.
Values = Mapping[tuple[str, ...], float]

STEP_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CHECKPOINT_BUCKETS: Final = (0.1, 0.5, 1, 5, 15, 60, 300)
STAGE_BUCKETS: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)
DETECTION_BUCKETS: Final = (1, 2, 5, 10, 15, 30, 60, 300, 900)
WAIT_BUCKETS: Final = (1, 10, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600, 72 * 3600)
PUSH_BUCKETS: Final = (1, 5, 15, 60, 300, 900, 3600)


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Notice(StrEnum):
    """What somebody may be told of: the label values of `appliance_notifications_total`."""

    FINISHED = "finished"
    FAILED = "failed"
    REJECTED = "rejected"
    PUSH_BLOCKED = "push_blocked"
    MEMORY_GUARD = "memory_guard"
    DISK_LOW = "disk_low"


def _values(kind: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(value) for value in kind)


FLOORS: Final = ("first", "second")
LOOPS: Final = ("main", "guard", "gpu", "board")
PENDING: Final = (DropState.SETTLING, DropState.AWAITING_PAIR, DropState.CHECKING)
THROTTLES: Final = ("sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
# The driver counts no time for hw_slowdown: that is any of the other hardware reasons.
TIMED_THROTTLES: Final = ("sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake")
GPU_QUERIES: Final = (
    *("driver", "name", "uuid", "memory_type", "utilization", "power", "temperature", "sm_clock", "sm_clock_max"),
    *("energy", "throttle", "throttle_time", "deadline"),
)
PUSH_RESULTS: Final = _values(PushResult)
VOLUMES: Final = ("inbox", "outbox", "state", "cache")
NOTICE_OUTCOMES: Final = ("sent", "failed", "dropped")


@dataclass(frozen=True)
class Family:
    """One row of the table. A label with an empty set of values is open, and bounded by what there is.

    `counted` families live in the database and go on across restarts; the others are read when somebody scrapes.
    `per_job` families exist for active jobs and for 15 minutes after the end.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    counted: bool = False
    per_job: bool = False

    def label_sets(self) -> Iterator[dict[str, str]]:
        """Every combination of the labels, for families whose labels are all closed."""
        for values in product(*self.labels.values()):
            yield dict(zip(self.labels, values, strict=True))


def _gauge(name: str, text: str, /, **labels: tuple[str, ...]) -> Family:
    return Family(name, Kind.GAUGE, text, labels)


def _counter(name: str, text: str, /, **labels: tuple[str, ...]) -> Family:
    return Family(name, Kind.COUNTER, text, labels)


def _counted(name: str, text: str, /, **labels: tuple[str, ...]) -> Family:
    return Family(name, Kind.COUNTER, text, labels, counted=True)


def _histogram(name: str, text: str, buckets: tuple[float, ...], /, **labels: tuple[str, ...]) -> Family:
    return Family(name, Kind.HISTOGRAM, text, labels, buckets, counted=True)


def _job(name: str, text: str, kind: Kind = Kind.GAUGE, /, **labels: tuple[str, ...]) -> Family:
    return Family(name, kind, text, {"job_id": (), **labels}, per_job=True)


SERVICE: Final = (
    _gauge("build_info", "What runs here.", version=(), revision=(), python_version=()),
    _gauge("ready", "1 once recovered and the inbox was listed."),
    _gauge("loop_heartbeat_timestamp_seconds", "When a loop last turned.", loop=LOOPS),
    _counted("loop_errors_total", "Turns of a loop that met an error.", loop=("main",)),
    _counted(
        "notifications_total", "Notifications by what became of them.", event=_values(Notice), outcome=NOTICE_OUTCOMES
    ),
)
INBOX: Final = (
    _gauge("inbox_available", "1 while the inbox can be listed and is ours."),
    _gauge("inbox_pending", "Drops that are not taken in yet.", state=_values(PENDING)),
    _gauge("inbox_oldest_pending_timestamp_seconds", "Last change of the oldest pending drop; 0 if none."),
    _gauge("inbox_last_scan_timestamp_seconds", "When the inbox was last listed; 0 if never."),
    _counted("inbox_drops_total", "Drops by what became of them.", outcome=("accepted", "rejected", "duplicate")),
    _counted("inbox_rejections_total", "Kinds of problems that rejected drops.", reason=_values(Reason)),
    _histogram(
        "inbox_detection_delay_seconds", "From the last write to accepting or rejecting a drop.", DETECTION_BUCKETS
    ),
)
QUEUE: Final = (
    _gauge("jobs", "Jobs by state, and by stage while running.", state=_values(JobState), stage=("", *Stage)),
    _gauge("queue_oldest_timestamp_seconds", "When the oldest waiting job was taken in; 0 if none."),
    _gauge("queue_paused", "1 while the queue is paused."),
    _gauge("waiting", "Waiting jobs by reason.", reason=_values(Waiting)),
    _counted("jobs_finished_total", "Jobs that ended.", outcome=_values(sorted(ENDED))),
    _counted("job_failures_total", "Failed jobs by class.", reason=_values(FailureClass)),
    _counted("job_retries_total", "Stages begun again after a fault, by class.", reason=_values(FailureClass)),
    _histogram("job_queue_wait_seconds", "From taking a drop in to its first stage.", WAIT_BUCKETS),
    _histogram("job_stage_duration_seconds", "Wall time of a stage.", STAGE_BUCKETS, stage=_values(Stage)),
    _counted("verdicts_total", "Verdicts of finished trainings.", verdict=_values(Verdict)),
)
TRAINING: Final = (
    _counted("train_tokens_total", "Tokens put through the model.", kind=("content", "padding")),
    _counted("train_target_tokens_total", "Tokens with a label."),
    _counted("train_samples_total", "Rows trained on."),
    _counted("train_steps_total", "Optimizer steps."),
    _counted("train_model_flops_total", "Floating point operations of the model, recomputation not counted."),
    _histogram("train_step_duration_seconds", "Wall time of an optimizer step.", STEP_BUCKETS),
    _histogram("checkpoint_duration_seconds", "Wall time of saving a checkpoint.", CHECKPOINT_BUCKETS),
)
JOBS: Final = (
    _job("job_info", "What a job is.", name=(), base_model=(), dataset=(), method=(), attempt=()),
    _job("job_state", "1 for the state that a job is in.", state=_values(JobState)),
    _job("job_start_timestamp_seconds", "When its first stage began."),
    _job("job_last_progress_timestamp_seconds", "When a stage of it last reported progress."),
    _job("job_last_checkpoint_timestamp_seconds", "When its last checkpoint was complete."),
    _job("job_step", "Optimizer steps done."),
    _job("job_planned_steps", "Optimizer steps planned."),
    _job("job_epoch", "Passes over the training rows."),
    _job("job_eta_seconds", "Estimated seconds left of training, from the measured rate."),
    _job("job_train_loss", "Loss of the last step."),
    _job("job_eval_loss", "Last held-out loss."),
    _job("job_learning_rate", "Learning rate of the last step."),
    _job("job_grad_norm", "Gradient norm of the last step."),
    _job("job_tokens_per_second", "Content tokens per second over the last steps, padding excluded."),
    _job("job_mfu_ratio", "Model FLOP/s over the configured peak; none while APPLIANCE_GPU_PEAK_TFLOPS is unset."),
    _job("job_nonfinite_losses_total", "Steps whose loss was not finite.", Kind.COUNTER),
    _job("job_cuda_reserved_bytes", "Memory reserved by torch's allocator."),
    _job("job_cuda_peak_reserved_bytes", "Highest memory reserved by torch's allocator."),
    _job("job_memory_peak_bytes", "Highest memory use of the training process."),
    _job("job_memory_estimate_bytes", "What the plan expected the training to need."),
)
HUB: Final = (
    _counted("hub_pushes_total", "Pushes by how they ended.", outcome=("pushed", "withheld", "blocked")),
    _counted("hub_push_attempts_total", "Attempts to push by result.", result=PUSH_RESULTS),
    _counted("hub_push_bytes_total", "Bytes of adapters pushed."),
    _histogram("hub_push_duration_seconds", "Wall time of a push that went through.", PUSH_BUCKETS),
    _gauge("hub_pushes_pending", "Results that wait to be pushed."),
    _gauge("hub_oldest_pending_timestamp_seconds", "When the oldest of those ended; 0 if none."),
    _gauge("hub_last_success_timestamp_seconds", "When a push last went through; 0 if never."),
)
MACHINE: Final = (
    _gauge("memory_total_bytes", "Memory of the machine; the GPU's too where they share it."),
    _gauge("memory_available_bytes", "Memory that programs can still get."),
    _gauge("memory_guard_bytes", "Floors below which a training is stopped.", floor=FLOORS),
    _counted("memory_guard_trips_total", "Times that available memory fell below a floor.", floor=FLOORS),
    _gauge("swap_used_bytes", "Swap in use."),
    _counter("memory_pressure_waiting_seconds_total", "Time in which some task waited for memory."),
    _counter("memory_pressure_stalled_seconds_total", "Time in which every task waited for memory."),
    _gauge("disk_free_bytes", "Free space where a folder lies.", volume=VOLUMES),
    _gauge("disk_size_bytes", "Size of the file system where a folder lies.", volume=VOLUMES),
    _gauge("model_cache_bytes", "Base models on this disk, downloaded and put into the models folder."),
)
GPU: Final = (
    _gauge("gpu_info", "The GPUs of this machine.", gpu=(), name=(), uuid=(), driver_version=(), memory_type=()),
    _gauge("gpu_utilization_ratio", "Share of time in which a kernel ran.", gpu=()),
    _gauge("gpu_power_watts", "Power draw.", gpu=()),
    _gauge("gpu_temperature_celsius", "Temperature of the GPU.", gpu=()),
    _gauge("gpu_sm_clock_hertz", "Clock of the multiprocessors.", gpu=()),
    _gauge("gpu_sm_clock_max_hertz", "Highest clock of the multiprocessors.", gpu=()),
    _counter("gpu_energy_joules_total", "Energy used since the driver was loaded.", gpu=()),
    _gauge("gpu_throttle_active", "1 while the clock is held down for a reason.", gpu=(), reason=THROTTLES),
    _counter("gpu_throttle_seconds_total", "Time in which the clock was held down.", gpu=(), reason=TIMED_THROTTLES),
    _counted("gpu_query_errors_total", "Questions to the GPU's driver that failed.", query=GPU_QUERIES),
    _gauge("gpu_peak_flops", "APPLIANCE_GPU_PEAK_TFLOPS in FLOP/s; none while it is unset.", precision=("bf16",)),
)
SECTIONS: Final[Mapping[str, tuple[Family, ...]]] = {
    "Service": SERVICE,
    "Inbox": INBOX,
    "Queue": QUEUE,
    "Training": TRAINING,
    "One job": JOBS,
    "Hub": HUB,
    "Machine": MACHINE,
    "GPU": GPU,
}
FAMILIES: Final = tuple(family for section in SECTIONS.values() for family in section)


def table_markdown() -> str:
    """The sections of docs/metrics.md between its markers."""
    lines: list[str] = []
    for title, families in SECTIONS.items():
        lines += ["", f"### {title}", "", "| name | type | labels | meaning |", "|---|---|---|---|"]
        lines += [_row(family) for family in families]
    return "\n".join([*lines, ""])


def _row(family: Family) -> str:
    mark = " †" if family.per_job else ""
    labels = "; ".join(_label(name, values) for name, values in family.labels.items()) or "–"
    return f"| `{PREFIX}{family.name}`{mark} | {family.kind} | {labels} | {family.help} |"


def _label(name: str, values: tuple[str, ...]) -> str:
    return f"{name}: {', '.join(value or '(empty)' for value in values)}" if values else name
