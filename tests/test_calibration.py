"""What a finished training has shown corrects the next plan, and nothing else does."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hardware import this_machine
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.measurements import read_calibration, record_measurement
from appliance.planning.architectures import read_shape
from appliance.planning.calibration import Calibration, Measurement, measure
from appliance.planning.machine import Machine
from appliance.planning.plan import DataFacts, Plan, make_plan
from appliance.recipe import Recipe
from appliance.settings import Settings
from appliance.store import DATABASE, Store
from tests import shapes

GB = 10**9
SPARK = Machine(memory_bytes=128 * GB, reserve_bytes=12 * GB, kind="gpu", flops_per_second=70e12, unified=True)
LLAMA_8B, QWEN_8B = read_shape(shapes.LLAMA_31_8B), read_shape(shapes.QWEN3_8B)
LLAMA_70B = read_shape(shapes.LLAMA_33_70B)
RECIPE = Recipe(base_model="org/model", per_device_train_batch_size=2, gradient_checkpointing=False)


def plan_for(shape=LLAMA_8B, machine=SPARK, *, longest: int = 2048, **keys) -> Plan:
    data = DataFacts(rows=5000, examples=4750, tokens=4750 * 500, max_seq_length=longest, held_out=250)
    return make_plan(RECIPE.model_copy(update=keys), shape, data, machine)


def measured(plan: Plan, *, memory: float = 1.0, speed: float = 1.0, startup: float = 100.0) -> Measurement:
    """What a training shows whose lengths need `memory` times what was planned, at `speed` times the speed."""
    forecast = plan.forecast
    peak = forecast.fixed_bytes + memory * (forecast.total_bytes - forecast.fixed_bytes)
    return Measurement(forecast, round(peak), forecast.tokens_per_second * speed, startup)


def machine_that_saw(*measurements: Measurement) -> Machine:
    return replace(SPARK, calibration=Calibration(measurements))


def test_the_same_setting_is_planned_as_it_was_measured():
    first = plan_for()
    measurement = measured(first, memory=1.3, speed=0.8)
    again = plan_for(machine=machine_that_saw(measurement))
    assert again.memory.total_bytes == pytest.approx(measurement.peak_bytes, rel=1e-6)
    assert again.tokens_per_second_estimate == pytest.approx(measurement.tokens_per_second, rel=1e-3)
    assert (first.is_measured, again.is_measured) == (False, True)
    # Corrections do not pile up: what is compared next is again the uncorrected forecast.
    assert again.forecast == first.forecast


def test_the_time_counts_start_steps_and_held_out_rows():
    fast, slow = (plan_for(machine=machine_that_saw(measured(plan_for(), startup=s))) for s in (0.0, 500.0))
    assert slow.seconds_estimate == pytest.approx(fast.seconds_estimate + 500, abs=1)
    assert fast.seconds_estimate > fast.total_steps * 16 * 500 / fast.tokens_per_second_estimate


def test_another_length_of_the_same_model_is_corrected_by_the_worst_seen():
    seen = [
        measured(plan_for(longest=512), memory=1.1, speed=0.5),
        measured(plan_for(longest=1024), memory=1.4, speed=0.7),
    ]
    plain, corrected = plan_for(longest=4096), plan_for(longest=4096, machine=machine_that_saw(*seen))
    assert corrected.memory.activations_bytes == pytest.approx(plain.memory.activations_bytes * 1.4, rel=1e-6)
    assert corrected.memory.weights_bytes == plain.memory.weights_bytes
    assert corrected.tokens_per_second_estimate == pytest.approx(plain.tokens_per_second_estimate * 0.6, rel=1e-3)


def test_a_model_of_like_size_lends_its_speed_and_not_its_memory():
    machine = machine_that_saw(measured(plan_for(QWEN_8B), memory=1.5, speed=0.5))
    plain, corrected = plan_for(), plan_for(machine=machine)
    assert corrected.memory == plain.memory
    assert corrected.tokens_per_second_estimate == pytest.approx(plain.tokens_per_second_estimate / 2, rel=1e-3)
    large = plan_for(LLAMA_70B), plan_for(LLAMA_70B, machine)
    assert large[0].tokens_per_second_estimate == large[1].tokens_per_second_estimate


@pytest.mark.parametrize("change", [{"load_in_4bit": False}, {"gradient_checkpointing": True}])
def test_another_precision_or_mode_keeps_its_own_memory(change):
    machine = machine_that_saw(measured(plan_for(), memory=1.5))
    assert plan_for(machine=machine, **change).memory == plan_for(**change).memory


def test_an_odd_measurement_does_not_make_a_plan_absurd():
    plain = plan_for()
    for factor, bound in ((0.01, 0.7), (50.0, 2.0)):
        plan = plan_for(machine=machine_that_saw(measured(plain, memory=factor)))
        assert plan.memory.activations_bytes == pytest.approx(plain.memory.activations_bytes * bound, rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(4, 128), st.floats(0.1, 5), st.floats(0.01, 50)), max_size=6), st.integers(4, 128)
)
def test_whatever_was_measured_a_chosen_plan_fits_and_keeps_the_batch(seen, longest):
    machine = machine_that_saw(
        *(measured(plan_for(longest=64 * length), memory=memory, speed=speed) for length, memory, speed in seen)
    )
    data = DataFacts(rows=5000, examples=4750, tokens=4750 * 60, max_seq_length=64 * longest)
    plan = make_plan(Recipe(base_model="org/model"), LLAMA_8B, data, machine)
    assert plan.per_device_train_batch_size * plan.gradient_accumulation_steps == 16
    assert plan.fits == (plan.memory.total_bytes <= machine.budget_bytes)
    assert plan.fits == any(split.fits(machine) for split in plan.alternatives)


def test_it_is_kept_in_the_store_and_read_by_the_next_plan(tmp_path):
    plan, settings = plan_for(), Settings(state=tmp_path)
    trained = {
        "attempt_steps": 60,
        "per_device_train_batch_size": 2,
        "training_peak_bytes": 30 * GB,
        "steady_tokens_per_second": 1234.5,
        "startup_seconds": 40.0,
    }
    assert read_calibration(tmp_path) == Calibration()
    store, job = Store(tmp_path / DATABASE), JobDir(tmp_path / "job")
    job.path.mkdir()
    job.write_result(Stage.TRAIN, trained)
    record_measurement(store, job, now=1.0)
    assert store.measurements() == []
    (job.stage(Stage.PREPARE) / "plan.json").write_text(as_text(plan))
    record_measurement(store, job, now=2.0)
    store.add_measurement('{"written by": "a later version"}', now=3.0)

    (found,) = this_machine(settings).calibration.measurements
    assert found == measure(plan.as_json(), trained)
    assert (found.peak_bytes, found.tokens_per_second, found.startup_seconds) == (30 * GB, 1234.5, 40.0)
    store.close()


@pytest.mark.parametrize("change", [{"per_device_train_batch_size": 1}, {"attempt_steps": 1}])
def test_a_training_that_went_another_way_than_planned_says_nothing(change):
    trained = {
        "attempt_steps": 60,
        "per_device_train_batch_size": 2,
        "training_peak_bytes": 30 * GB,
        "steady_tokens_per_second": 1234.5,
        "startup_seconds": 40.0,
    }
    assert measure(plan_for().as_json(), trained) is not None
    assert measure(plan_for().as_json(), trained | change) is None
    assert measure({"per_device_train_batch_size": 2}, trained) is None
    assert measure(plan_for().as_json() | {"gradient_checkpointing": True}, trained) is None


def as_text(plan: Plan) -> str:
    value = plan.as_json()
    assert value["forecast"] == asdict(plan.forecast)
    return json.dumps(value)
