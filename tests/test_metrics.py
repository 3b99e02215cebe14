"""The metric table: what docs/metrics.md promises is what `/metrics` serves, and the other way round."""

import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from appliance.disk import Space
from appliance.gpu import QUESTIONS, GpuReader, NoAnswer, Unsupported
from appliance.inbox import Availability
from appliance.job import DroppedFile, Job, JobState, Push, Role, Stage, move
from appliance.machine_watch import MachineReading, MachineWatch, Watched
from appliance.memory import read_memory, read_pressure
from appliance.metric_table import FAMILIES, GPU_QUERIES, PREFIX, Family, Kind, table_markdown
from appliance.metrics import make_registry
from appliance.progress import Pace, Progress
from appliance.running import Running
from appliance.settings import Settings
from appliance.store import Store
from appliance.view import View

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")
NOW = 1_790_000_000.0
TRAINED = Progress(
    last_event=NOW - 2,
    step=30,
    total_steps=90,
    epoch=1.5,
    loss=1.25,
    eval_loss=1.5,
    learning_rate=2e-4,
    grad_norm=0.5,
    content_tokens=9000,
    cuda_reserved_bytes=8_000_000_000,
    cuda_peak_reserved_bytes=9_000_000_000,
    memory_peak_bytes=4_000_000_000,
    memory_estimate_bytes=10_000_000_000,
    model_flops_per_token=3.2e10,
    last_checkpoint=NOW - 60,
    pace=(Pace(NOW - 4, 2.0, 8000), Pace(NOW - 2, 2.0, 9000)),
)
EVERYTHING_ELSE = {
    "driver": "580.95",
    "name": "NVIDIA GB10",
    "uuid": "GPU-1",
    "memory_type": "unified",
    "utilization": 0.96,
    "power": 92.5,
    "temperature": 71.0,
    "sm_clock": 2.4e9,
    "sm_clock_max": 3.0e9,
    "energy": 123_456.0,
    "throttle": {"sw_power_cap": True, "hw_slowdown": False, "sw_thermal": False, "hw_thermal": False}
    | {"hw_power_brake": False},
    "throttle_time": {"sw_power_cap": 12.5, "sw_thermal": 0.0, "hw_thermal": 0.0, "hw_power_brake": 0.0},
}


class FakeDriver:
    """A GPU that answers as the test says; an exception class is raised."""

    def __init__(self, **answers: object) -> None:
        self.answers = EVERYTHING_ELSE | answers
        self.asked: list[str] = []

    def count(self) -> int:
        return 1

    def ask(self, gpu: int, query: str) -> object:
        self.asked.append(query)
        answer = self.answers[query]
        if isinstance(answer, type):
            raise answer(query)
        return answer


class Meter:
    """A collector over a store and a view of the test's own."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.store = Store(root / "appliance.sqlite")
        self.view = View(NOW, 100.0, True, Availability.AVAILABLE, (), (), {}, NOW - 1, False)
        self.machine = MachineReading({})
        self.now = NOW
        self.registry = make_registry(
            self.store,
            lambda: self.view,
            lambda: self.now,
            settings=Settings(**settings),  # type: ignore[arg-type]
            machine=lambda: self.machine,
        )

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """By name without the prefix, and labels."""
        return {
            (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name.startswith(PREFIX)
        }

    def sample(self, name: str, **labels: str) -> float | None:
        return self.samples().get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    return Meter(tmp_path)


def full(root: Path) -> Meter:
    """A machine with a GPU and a job in training: every family has a sample."""
    meter = Meter(root, gpu_peak_tflops=125)
    file = DroppedFile("s.jsonl", Role.DATASET, "dropped/s.jsonl", 9, "ab" * 32, "inbox/s.jsonl", 1, 2, 3)
    job = Job(7, "0007-support", "u", "support", JobState.QUEUED, NOW - 900, (file,), started=NOW - 800, method="sft")
    meter.store.add_job(job)
    meter.view = replace(meter.view, trained={7: TRAINED})
    gpus = GpuReader(FakeDriver(), on_error=lambda query: None).read()
    disks = {volume: Space(50, 100, 10) for volume in ("inbox", "outbox", "state", "cache")}
    meter.machine = MachineReading(disks, gpus, 1000, NOW)
    return meter


def test_the_document_is_the_table():
    text = DOCUMENT.read_text()
    shown = text.partition("<!-- table -->\n")[2].partition("\n<!-- end of table -->")[0]
    assert shown == table_markdown(), "write docs/metrics.md anew: python -m tests.write_metrics_document"


def test_the_page_serves_exactly_what_the_document_promises(tmp_path):
    promised = dict(re.findall(r"^\| `(appliance_\w+)`(?: †)? \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE))
    served = dict(re.findall(r"^# TYPE (appliance_\w+) (\w+)$", full(tmp_path).text(), re.MULTILINE))
    assert served == promised


def label_names(family: Family) -> set[str]:
    return {*family.labels, "le"} if family.kind is Kind.HISTOGRAM else set(family.labels)


def test_every_family_has_a_sample_with_its_labels_and_every_value_of_the_closed_ones(tmp_path):
    samples = full(tmp_path).samples()
    for family in FAMILIES:
        suffix = "_bucket" if family.kind is Kind.HISTOGRAM else ""
        found = [dict(labels) for name, labels in samples if name == family.name + suffix]
        assert found, family.name
        assert all(set(labels) == label_names(family) for labels in found), family.name
        for label, values in family.labels.items():
            shown = {labels[label] for labels in found}
            assert not values or shown == set(values), (family.name, label)


def test_only_the_families_of_one_job_carry_its_number():
    assert {family.name for family in FAMILIES if "job_id" in family.labels} == {f.name for f in FAMILIES if f.per_job}


def test_no_family_uses_the_labels_that_belong_to_prometheus():
    assert not [family.name for family in FAMILIES if {"job", "instance"} & set(family.labels)]


def test_a_counter_ends_in_total_and_nothing_else_does():
    assert not [family.name for family in FAMILIES if (family.kind is Kind.COUNTER) != family.name.endswith("_total")]


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here; on Debian: apt-get install prometheus")
def test_promtool_has_nothing_to_say(tmp_path):
    page = full(tmp_path).text()
    said = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_what_the_machine_lacks_is_not_there(meter):
    names = {name for name, _ in meter.samples()}
    assert not {name for name in names if name.startswith("gpu_")} - {"gpu_query_errors_total"}
    assert not names & {"disk_free_bytes", "model_cache_bytes", "job_mfu_ratio"}


def test_an_unsupported_question_is_asked_once_and_exports_nothing(meter):
    driver, errors = FakeDriver(energy=Unsupported, sm_clock=NoAnswer), []
    reader = GpuReader(driver, on_error=errors.append)
    reader.read()
    [reading] = reader.read()

    assert driver.asked.count("energy") == 1
    assert driver.asked.count("sm_clock") == 2
    assert errors == ["sm_clock", "sm_clock"]
    meter.machine = MachineReading({}, (reading,))
    assert meter.sample("gpu_energy_joules_total", gpu="0") is None
    assert meter.sample("gpu_sm_clock_hertz", gpu="0") is None
    assert meter.sample("gpu_power_watts", gpu="0") == 92.5


def test_a_driver_that_hangs_is_counted_once(tmp_path):
    hung, errors = threading.Event(), []

    class Hanging(FakeDriver):
        def count(self) -> int:
            hung.wait(60)
            return 0

    watch = MachineWatch(Settings(state=tmp_path), GpuReader(Hanging(), on_error=errors.append), every_seconds=0.01)
    watch.start()
    deadline = time.monotonic() + 60
    while not errors:
        assert time.monotonic() < deadline
        assert watch.reading().gpus == ()
    watch.reading()
    assert errors == ["deadline"]
    hung.set()
    watch.stop()


def test_every_question_has_its_place_in_the_count_of_errors():
    assert set(QUESTIONS) < set(GPU_QUERIES)


def test_the_use_of_the_peak_is_model_flops_over_the_configured_ones(tmp_path):
    # 500 tokens a second at 3.2e10 FLOP each are 1.6e13 of 1.25e14.
    assert full(tmp_path).sample("job_mfu_ratio", job_id="7") == pytest.approx(0.128)


def test_progress_of_any_stage_counts_as_progress(meter):
    job = Job(7, "0007-support", "u", "support", JobState.QUEUED, NOW)
    meter.store.add_job(job)
    running = Running(job, Stage.FETCH, None, began=40.0)  # type: ignore[arg-type]
    meter.view = replace(meter.view, running=(running,))
    assert meter.sample("job_last_progress_timestamp_seconds", job_id="7") == NOW - 60
    running.progress = Progress(last_event=NOW - 5)
    assert meter.sample("job_last_progress_timestamp_seconds", job_id="7") == NOW - 5


def test_a_loss_that_is_no_number_is_exported_as_one_that_is_none(meter):
    meter.store.add_job(Job(7, "0007-support", "u", "support", JobState.QUEUED, NOW))
    meter.view = replace(meter.view, trained={7: replace(TRAINED, loss=None, nonfinite_losses=1)})
    loss = meter.sample("job_train_loss", job_id="7")
    assert loss is not None
    assert math.isnan(loss)
    assert meter.sample("job_nonfinite_losses_total", job_id="7") == 1


def test_pending_pushes_are_counted_from_the_jobs(meter):
    for number, push in ((1, Push.PENDING), (2, Push.PUSHED), (3, Push.PENDING)):
        job = Job(number, f"000{number}-a", str(number), "a", JobState.QUEUED, NOW)
        meter.store.add_job(job)
        ended = move(move(job, JobState.RUNNING), JobState.SUCCEEDED, finished=NOW + number, push=push)
        meter.store.save(ended)
    assert meter.sample("hub_pushes_pending") == 2
    assert meter.sample("hub_oldest_pending_timestamp_seconds") == NOW + 1


def test_a_counter_goes_on_after_a_restart(tmp_path):
    Meter(tmp_path).store.count("notifications_total", {"event": "finished", "outcome": "sent"})
    again = Meter(tmp_path)
    again.store.count("notifications_total", {"event": "finished", "outcome": "sent"})
    assert again.sample("notifications_total", event="finished", outcome="sent") == 2


def test_what_hangs_is_missing_and_holds_up_nothing():
    hung, entered = threading.Event(), threading.Event()

    def hang() -> int:
        entered.set()
        hung.wait(60)
        return 1

    watched = Watched(hang, name="hangs", every_seconds=0.01)
    watched.start()
    assert entered.wait(60)
    assert watched.value() is None
    deadline = time.monotonic() + 60
    while not watched.overdue:
        assert time.monotonic() < deadline
    hung.set()
    watched.stop()


def test_a_disk_that_is_gone_is_missing(tmp_path):
    def read() -> int:
        raise OSError

    watched = Watched(read, name="gone", every_seconds=5)
    watched.turn()
    assert watched.value() is None


def test_the_watch_reads_the_disks_of_this_machine(tmp_path):
    folders = {name: tmp_path / name for name in ("inbox", "outbox", "state", "models")}
    watch = MachineWatch(Settings(**folders), GpuReader(FakeDriver(), on_error=lambda query: None))  # type: ignore[arg-type]
    for watched in watch._all:
        watched.turn()
    reading = watch.reading()
    assert set(reading.disks) == {"inbox", "outbox", "state", "cache"}
    assert all(0 < space.free_bytes <= space.size_bytes for space in reading.disks.values())
    assert reading.gpus[0].name == "NVIDIA GB10"
    assert reading.model_cache_bytes == 0


def test_pressure_is_in_seconds(tmp_path):
    (tmp_path / "memory").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
    )
    pressure = read_pressure(tmp_path / "memory")
    assert pressure is not None
    assert (pressure.waiting_seconds, pressure.stalled_seconds) == (2.5, 0.5)
    assert read_pressure(tmp_path / "none") is None


def test_swap_in_use_is_what_is_not_free(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\nSwapTotal: 100 kB\nSwapFree: 40 kB\n")
    assert read_memory(tmp_path / "meminfo").swap_used_bytes == 60 * 1024


READ_GPU = """
import dataclasses, json
from appliance.gpu import GpuReader, NvmlDriver
errors = []
readings = GpuReader(NvmlDriver(), on_error=errors.append).read()
print(json.dumps([[dataclasses.asdict(reading) for reading in readings], errors]))
"""


def read_gpu(**environment: str) -> list:
    """What a process of its own reads through NVIDIA's bindings."""
    command = [sys.executable, "-c", READ_GPU]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60).stdout)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler here")
def test_nvidias_bindings_are_asked_the_right_questions_in_the_right_units(tmp_path):
    source = Path(__file__).with_name("fake_nvml.c")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    [reading], errors = read_gpu(LD_LIBRARY_PATH=str(tmp_path), DRIVER="580.95.05", CUDA="13000", CAPABILITY="12")
    assert errors == []
    assert reading == {
        "index": 0,
        "name": "NVIDIA GB10",
        "uuid": "GPU-1",
        "driver_version": "580.95.05",
        "memory_type": "unified",
        "utilization": 0.96,
        "power_watts": 92.5,
        "temperature_celsius": 71.0,
        "sm_clock_hertz": 2.4e9,
        "sm_clock_max_hertz": 3.003e9,
        "energy_joules": None,
        "throttles": {"sw_power_cap": True, "hw_slowdown": False, "sw_thermal": True, "hw_thermal": False}
        | {"hw_power_brake": False},
        "throttle_seconds": {"sw_power_cap": 37.0, "sw_thermal": 134.5, "hw_thermal": 135.0},
    }


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_machine_without_nvidias_library_has_no_gpu_and_no_error():
    assert read_gpu(LD_LIBRARY_PATH="") == [[], []]
