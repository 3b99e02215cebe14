import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InputError, Reason
from appliance.planning.advice import does_not_fit, would_fit
from appliance.planning.architectures import read_shape
from appliance.planning.fitting import load_of, sequence_cap, sequence_length
from appliance.planning.machine import Machine
from appliance.planning.memory_bill import memory_bill, nf4_bytes, weights_bytes
from appliance.planning.model_shape import Tier
from appliance.planning.plan import DataFacts, make_plan
from appliance.planning.published import PUBLISHED
from appliance.planning.splits import smaller_split
from appliance.recipe import Recipe
from tests import shapes

GB = 10**9
SPARK = Machine(memory_bytes=128 * GB, reserve_bytes=12 * GB, kind="gpu", flops_per_second=70e12)
LAPTOP = Machine(memory_bytes=16 * GB, reserve_bytes=2 * GB, kind="cpu", flops_per_second=1e11)
LLAMA_8B, LLAMA_70B = read_shape(shapes.LLAMA_31_8B), read_shape(shapes.LLAMA_33_70B)
MISTRAL = read_shape(shapes.MISTRAL_7B)


def recipe(**keys) -> Recipe:
    return Recipe(base_model="org/model", **keys)


def facts(rows: int, *, examples: int | None = None, length: int = 512, longest: int = 2048) -> DataFacts:
    examples = rows if examples is None else examples
    return DataFacts(rows=rows, examples=examples, tokens=examples * length, max_seq_length=longest)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"), [(10, 3, 8), (999, 3, 8), (1000, 2, 16), (9999, 2, 16), (10_000, 1, 16)]
)
def test_auto_goes_by_the_number_of_rows(rows, epochs, batch):
    plan = make_plan(recipe(), LLAMA_8B, facts(rows), SPARK)
    assert (plan.num_train_epochs, plan.effective_batch_size) == (epochs, batch)


def test_steps_are_counted_in_whole_batches():
    plan = make_plan(recipe(num_train_epochs=2), LLAMA_8B, facts(100, examples=90), SPARK)
    assert plan.total_steps == 2 * 12


def test_max_steps_is_taken_as_given():
    plan = make_plan(recipe(max_steps=60), LLAMA_8B, facts(100), SPARK)
    assert (plan.total_steps, plan.num_train_epochs) == (60, 4.6154)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({"max_steps": 1000}, 50),
        ({"max_steps": 60}, 5),
        ({"max_steps": 4}, 2),
        ({"max_steps": 60, "warmup_ratio": 0.0}, 0),
        ({"max_steps": 60, "warmup_steps": 1}, 1),
    ],
)
def test_warmup_is_the_recipes_share_but_at_least_five_steps(keys, steps):
    assert make_plan(recipe(**keys), LLAMA_8B, facts(100), SPARK).warmup_steps == steps


@pytest.mark.parametrize("steps", range(1, 30))
@pytest.mark.parametrize(
    "keys",
    [{}, {"warmup_ratio": 0.1}, {"warmup_ratio": 1.0}, {"warmup_steps": 1}, {"warmup_steps": 7}, {"warmup_steps": 500}],
)
def test_every_training_has_a_step_at_the_full_learning_rate(keys, steps):
    plan = make_plan(recipe(max_steps=steps, **keys), LLAMA_8B, facts(100), SPARK)
    assert 0 <= plan.warmup_steps < steps


@pytest.mark.parametrize(
    ("keys", "noted"),
    [
        (
            {"max_steps": 3, "warmup_steps": 500},
            "warmup_steps: 500 leaves no step of 3 at the full learning rate; warmup_steps: 1 is used instead",
        ),
        (
            {"max_steps": 20, "warmup_ratio": 1.0},
            "warmup_ratio: 1.0 leaves no step of 20 at the full learning rate; warmup_steps: 10 is used instead",
        ),
        ({"max_steps": 3, "warmup_steps": 2}, None),
        ({"max_steps": 1}, None),
    ],
)
def test_a_warmup_that_would_take_the_whole_training_is_cut_and_said_to_be(keys, noted):
    notes = make_plan(recipe(**keys), LLAMA_8B, facts(100), SPARK).notes
    assert [note for note in notes if note.startswith("warmup")] == ([noted] if noted else [])


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused_with_the_nearest_that_does():
    with pytest.raises(InputError) as caught:
        make_plan(recipe(effective_batch_size=10, per_device_train_batch_size=4), LLAMA_8B, facts(100), SPARK)
    assert caught.value.problems[0].expected == "8"


def test_auto_batch_respects_the_micro_batch_that_was_asked_for():
    plan = make_plan(recipe(per_device_train_batch_size=3), LLAMA_8B, facts(100), SPARK)
    assert (plan.per_device_train_batch_size, plan.gradient_accumulation_steps) == (3, 3)


def test_without_rows_the_memory_is_planned_and_the_steps_stay_open():
    plan = make_plan(recipe(), LLAMA_8B, None, SPARK)
    assert plan.fits
    assert (plan.total_steps, plan.warmup_steps, plan.seconds_estimate) == (None, None, None)


def test_headroom_is_spent_on_not_recomputing_activations():
    roomy = make_plan(recipe(), LLAMA_8B, facts(5000), SPARK)
    tight = make_plan(recipe(), LLAMA_8B, facts(5000), Machine(14 * GB, 2 * GB, "gpu", 70e12))
    assert roomy.fits
    assert tight.fits
    assert not roomy.gradient_checkpointing
    assert tight.gradient_checkpointing
    assert tight.per_device_train_batch_size < roomy.per_device_train_batch_size


def test_published_figures_come_out():
    assert 14.0 * GB < weights_bytes(MISTRAL, load_in_4bit=False) < 14.6 * GB
    assert 4.12 * GB < weights_bytes(MISTRAL, load_in_4bit=True) < 4.14 * GB
    load = load_of(recipe(), LLAMA_70B, "gpu")
    bill = memory_bill(load, micro_batch=1, sequence=512, gradient_checkpointing=True)
    assert bill.total_bytes < 48 * GB
    # The QLoRA paper: 0.127 bit a weight for the scales with double quantisation.
    assert nf4_bytes(2**30) * 8 / 2**30 == pytest.approx(4.127, abs=0.001)


def test_a_model_that_cannot_fit_is_planned_and_says_what_would():
    machine = Machine(24 * GB, 2 * GB, "gpu", 70e12)
    plan = make_plan(recipe(), LLAMA_70B, facts(100), machine)
    problem = does_not_fit(plan.memory, machine, would_fit(recipe(), LLAMA_70B, machine, 2048))
    assert not plan.fits
    assert problem.reason is Reason.WOULD_NOT_FIT
    assert "a smaller base_model such as mistralai/Mistral-Small-24B-Instruct-2501 or Qwen/Qwen3-14B" in problem.message


def test_loading_in_4_bit_is_offered_when_that_would_fit():
    machine = Machine(20 * GB, 2 * GB, "gpu", 70e12)
    asked = recipe(load_in_4bit=False, effective_batch_size=1)
    assert "load_in_4bit: true" in would_fit(asked, LLAMA_8B, machine, 2048)


def test_a_mixture_of_experts_in_4_bits_is_refused_with_what_would_work():
    shape = read_shape(shapes.GPT_OSS_20B)
    with pytest.raises(InputError) as caught:
        make_plan(recipe(), shape, facts(100), SPARK)
    assert caught.value.problems[0].key == "load_in_4bit"
    assert "in 16 bits only" in caught.value.problems[0].message
    plan = make_plan(recipe(load_in_4bit=False), shape, facts(100), SPARK)
    assert plan.fits
    assert plan.target_module_count == 4 * 24


def test_the_sequence_is_capped_by_model_memory_and_8192():
    assert sequence_cap(recipe(), LLAMA_8B, SPARK) == 8192
    assert sequence_cap(recipe(max_seq_length=20_000), LLAMA_8B, SPARK) == 20_000
    assert sequence_cap(recipe(max_seq_length=200_000), LLAMA_8B, SPARK) == 131_072
    tight = Machine(9 * GB, 1 * GB, "gpu", 70e12)
    cap = sequence_cap(recipe(), LLAMA_8B, tight)
    assert 0 < cap < 8192
    assert cap % 64 == 0
    notes = make_plan(recipe(), LLAMA_8B, facts(100, longest=cap), tight).notes
    assert any(f"max_seq_length at {cap}" in note for note in notes)


def test_the_longest_row_is_rounded_up_to_a_multiple_of_64():
    assert [sequence_length(longest, 8192) for longest in (0, 1, 64, 65, 9000)] == [64, 64, 64, 128, 8192]


def test_another_try_halves_the_micro_batch_and_keeps_the_effective_batch():
    assert smaller_split(8, 2) == (4, 4)
    assert smaller_split(3, 4) == (1, 12)
    assert smaller_split(1, 16) is None


def test_packing_is_off_and_says_so():
    plan = make_plan(recipe(), LLAMA_8B, facts(100), LAPTOP)
    assert not plan.packing
    assert any("packing is off" in note for note in plan.notes)


def test_an_optimizer_that_needs_a_gpu_has_a_stand_in_on_a_cpu():
    plan = make_plan(recipe(), LLAMA_8B, facts(100), LAPTOP)
    assert plan.optim == "adamw_torch_fused"
    assert plan.memory.optimizer_bytes == 8 * plan.trainable_parameters
    assert any("adamw_8bit needs a GPU" in note for note in plan.notes)


def test_a_paged_optimizer_is_warned_about_where_there_is_one_memory():
    asked = recipe(optim="paged_adamw_8bit")
    for unified in (True, False):
        plan = make_plan(asked, LLAMA_8B, facts(100), replace(SPARK, unified=unified))
        assert plan.optim == "paged_adamw_8bit"
        assert any("pages between two memories" in note for note in plan.notes) is unified


@pytest.mark.parametrize(
    ("patience", "epochs", "can_act"), [(1, 3, True), (1, 2, False), (2, 3, False), (None, 1, True)]
)
def test_a_patience_that_cannot_run_out_is_said_to(patience, epochs, can_act):
    asked = recipe(early_stopping_patience=patience, num_train_epochs=epochs)
    notes = make_plan(asked, LLAMA_8B, facts(100), SPARK).notes
    assert any(note.startswith("early_stopping_patience") for note in notes) is not can_act


def test_the_json_has_every_field_of_the_contract():
    value = make_plan(recipe(), LLAMA_8B, facts(5000), SPARK).as_json()
    assert {"total_parameters", "trainable_parameters", "fits", "max_seq_length", "total_steps"} <= value.keys()
    assert {"per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"} <= value.keys()
    assert {"tokens_per_second_estimate", "seconds_estimate", "target_modules", "target_module_count"} <= value.keys()
    bill = {"weights", "adapter", "optimizer", "activations", "logits", "overhead", "total", "machine", "reserve"}
    assert value["memory"].keys() == {f"{line}_bytes" for line in bill}
    assert value["target_module_count"] == 7 * 32


def test_the_speed_estimate_is_of_the_order_the_arithmetic_gives():
    # 70 TFLOP/s over 4 FLOP a parameter and token, minus the fixed cost of every micro-batch.
    assert 1200 < make_plan(recipe(), LLAMA_8B, facts(5000), SPARK).tokens_per_second_estimate < 2400


def test_planning_is_quick_and_loads_nothing_heavy():
    make_plan(recipe(), LLAMA_70B, facts(5000), SPARK)
    began = time.thread_time()
    make_plan(recipe(), LLAMA_70B, facts(5000), SPARK)
    assert time.thread_time() - began < 0.05
    heavy = "{'torch', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules)"
    code = f"import sys, appliance.planning.plan; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MACHINES = st.builds(
    Machine,
    memory_bytes=st.integers(1 * GB, 200 * GB),
    reserve_bytes=st.just(GB // 2),
    kind=st.sampled_from(["cpu", "gpu"]),
    flops_per_second=st.just(1e12),
)


@given(MACHINES, st.integers(1, 96), st.integers(1, 32), st.sampled_from([LLAMA_8B, LLAMA_70B, MISTRAL]))
def test_the_effective_batch_is_always_exact_and_a_fitting_plan_fits(machine, batch, kilotokens, shape):
    data = facts(5000, longest=kilotokens * 256)
    plan = make_plan(recipe(effective_batch_size=batch), shape, data, machine)
    assert plan.per_device_train_batch_size * plan.gradient_accumulation_steps == batch
    assert plan.fits == (plan.memory.total_bytes <= machine.memory_bytes - machine.reserve_bytes)


ALL_SHAPES = [read_shape(figures) for figures in PUBLISHED.values()]


@given(
    st.sampled_from(ALL_SHAPES),
    st.integers(1, 64),
    st.integers(16, 8192),
    st.integers(1, 256),
    st.integers(1, 64),
    st.integers(0, 64),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["cpu", "gpu"]),
)
def test_more_sequence_batch_rank_or_lengths_never_needs_less_memory(
    shape, micro_batch, sequence, rank, lengths, more, checkpointing, in_4_bits, kind
):
    in_4_bits = in_4_bits and shape.tier is Tier.IN_4_BIT

    def needed(micro_batch: int, sequence: int, rank: int, lengths: int) -> int:
        load = load_of(recipe(lora={"r": rank}, load_in_4bit=in_4_bits), shape, kind)
        mode = {"gradient_checkpointing": checkpointing, "lengths": lengths}
        return memory_bill(load, micro_batch=micro_batch, sequence=sequence, **mode).total_bytes

    base = needed(micro_batch, sequence, rank, lengths)
    assert needed(micro_batch + more, sequence, rank, lengths) >= base
    assert needed(micro_batch, sequence + more, rank, lengths) >= base
    assert needed(micro_batch, sequence, rank + more, lengths) >= base
    assert needed(micro_batch, sequence, rank, lengths + more) >= base


@given(
    st.sampled_from(ALL_SHAPES), MACHINES, st.integers(1, 64), st.integers(1, 128), st.sampled_from([None, True, False])
)
def test_what_is_chosen_fits_whenever_anything_does_and_nothing_that_fits_is_much_faster(
    shape, machine, batch, hundreds, checkpointing
):
    keys = {"gradient_checkpointing": "auto" if checkpointing is None else checkpointing}
    asked = recipe(effective_batch_size=batch, load_in_4bit=shape.tier is Tier.IN_4_BIT, **keys)
    plan = make_plan(asked, shape, facts(5000, longest=64 * hundreds), machine)
    fitting = [split for split in plan.alternatives if split.fits(machine)]
    assert plan.fits == bool(fitting)
    assert plan.per_device_train_batch_size * plan.gradient_accumulation_steps == batch
    assert all(split.tokens_per_second <= plan.tokens_per_second_estimate / 0.979 for split in fitting)
