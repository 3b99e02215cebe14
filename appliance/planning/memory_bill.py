"""What training needs in memory, line by line, from first principles. Pure.

The formulas follow the QLoRA paper's arithmetic and the layout that bitsandbytes and Unsloth really use; every
constant says where it comes from. They are estimates of a peak: what a machine really needed corrects them later.
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from appliance.planning.machine import MachineKind
from appliance.planning.model_shape import Layer, Linear, ModelShape

GIB: Final = 1024**3
# bitsandbytes: one 8-bit scale for 64 weights, one fp32 scale for 256 of those, and per layer two code tables
# (16 and 256 fp32 values) and an fp32 offset.
NF4_BLOCK: Final = 64
NF4_NESTED_BLOCK: Final = 256
NF4_TABLE_BYTES: Final = 4 * (16 + 256 + 1)
# Adapter weights and their gradients are kept in fp32.
ADAPTER_BYTES: Final = 4 + 4
OPTIMIZER_BYTES: Final = {"adamw_8bit": 2, "paged_adamw_8bit": 2}
OPTIMIZER_BYTES_32: Final = 8
# Bytes that one number kept for the backward pass takes. On a CPU nothing is fused and much is kept in fp32 besides:
# measured there, on models of 4 to 300 million parameters (bench/memory.py).
ACTIVATION_BYTES: Final = {"cpu": 4.3, "gpu": 2.0}
# The same for the input of a layer that is computed again, with what lies around it.
CHECKPOINT_BYTES: Final = {"cpu": 15.0, "gpu": 2.0}
# In 16 bits a linear layer of torch keeps its input in bf16; the 4-bit one of bitsandbytes does not.
KEPT_INPUT_BYTES: Final = {"cpu": 2, "gpu": 0}
# Unsloth's loss never holds all logits: on a GPU those of 512 tokens or of an eighth of all, whichever is more, and no
# more than 2 GiB; on a CPU 16 Mi of them. Those exist in bf16, in fp32, and as a gradient.
LOSS_CHUNK_TOKENS: Final = 512
LOSS_CHUNK_SHARE: Final = 8
LOSS_CHUNK_BYTES: Final = 2 * GIB
LOSS_CHUNK_LOGITS_CPU: Final = 16 * 1024**2
LOGIT_BYTES: Final = 2 + 4 + 4
# What a process grows by before it holds anything of the model: code that is loaded at first use, what malloc keeps.
PROCESS_BYTES_CPU: Final = 45 * 10**6
# On a CPU oneDNN makes its kernels anew for every length that rows come in, and keeps 1,024 of them: measured, those of
# about 54 lengths. Making them again instead costs a tenth of the speed.
KERNEL_LENGTHS: Final = 54
KERNEL_BYTES: Final = 12 * 10**6
KERNEL_BYTES_PER_WIDTH: Final = 47_000
CUDA_CONTEXT_BYTES: Final = int(1.4 * GIB)
# What torch's caching allocator holds beyond what is in use.
ALLOCATOR_SLACK: Final = {"cpu": 0.0, "gpu": 0.05}


@dataclass(frozen=True)
class Bill:
    """The peak of one training process, in bytes."""

    weights_bytes: int
    adapter_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    overhead_bytes: int

    @property
    def fixed_bytes(self) -> int:
        """What stays whatever the length of the rows."""
        return self.weights_bytes + self.adapter_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        return self.fixed_bytes + self.activations_bytes + self.logits_bytes + self.overhead_bytes


@dataclass(frozen=True)
class Load:
    """What is trained: the model, how it is loaded, and the adapter on it."""

    shape: ModelShape
    load_in_4bit: bool
    rank: int
    targets: tuple[str, ...]
    optim: str
    kind: MachineKind

    @property
    def trainable_parameters(self) -> int:
        return sum(count * linear.lora_parameters(self.rank) for count, linear in self.shape.named(self.targets))

    @property
    def target_module_count(self) -> int:
        return sum(count for count, _ in self.shape.named(self.targets))

    @property
    def unquantised_target_count(self) -> int:
        """Modules with an adapter that stay in 16 bits although the base model is loaded in 4."""
        return sum(count for count, linear in self.shape.named(self.targets) if not linear.quantised)


def memory_bill(load: Load, *, micro_batch: int, sequence: int, gradient_checkpointing: bool, lengths: int = 1) -> Bill:
    """What one micro-batch of `micro_batch` examples of `sequence` tokens needs, with everything that stays loaded.

    `lengths` is how many different lengths the examples have.
    """
    tokens = micro_batch * sequence
    activations = _activations_bytes(load, tokens, gradient_checkpointing=gradient_checkpointing)
    logits = _logits_bytes(load, tokens)
    return Bill(
        weights_bytes=weights_bytes(load.shape, load_in_4bit=load.load_in_4bit),
        adapter_bytes=ADAPTER_BYTES * load.trainable_parameters,
        optimizer_bytes=OPTIMIZER_BYTES.get(load.optim, OPTIMIZER_BYTES_32) * load.trainable_parameters,
        activations_bytes=activations,
        logits_bytes=logits,
        overhead_bytes=_overhead_bytes(load, lengths) + round(ALLOCATOR_SLACK[load.kind] * (activations + logits)),
    )


def corrected(bill: Bill, factor: float) -> Bill:
    """The bill with the part that depends on lengths multiplied by what other trainings have shown."""
    return replace(
        bill,
        activations_bytes=round(bill.activations_bytes * factor),
        logits_bytes=round(bill.logits_bytes * factor),
        overhead_bytes=round(bill.overhead_bytes * factor),
    )


def weights_bytes(shape: ModelShape, *, load_in_4bit: bool) -> int:
    """The loaded base model with the towers around it. Only linear layers inside the decoder are quantised, and of
    those not the ones that a base model stored in 4 bits keeps in 16; the rest stays in 16 bit."""
    everything = 2 * (shape.total_parameters + shape.tower_parameters)
    if not load_in_4bit:
        return everything
    saved = sum(
        layer.count * (2 * linear.weights - nf4_bytes(linear.weights))
        for layer in shape.layers
        for linear in layer.linears
        if linear.quantised
    )
    return everything - saved


def nf4_bytes(weights: int) -> int:
    """One linear layer in NF4 with double quantisation."""
    scales = ceil(weights / NF4_BLOCK)
    return ceil(weights / 2) + scales + 4 * ceil(scales / NF4_NESTED_BLOCK) + NF4_TABLE_BYTES


def _activations_bytes(load: Load, tokens: int, *, gradient_checkpointing: bool) -> int:
    """What the forward pass keeps for the backward pass."""
    shape = load.shape
    layers = [(layer.count, _bytes_of_layer(load, layer)) for layer in shape.layers]
    if gradient_checkpointing:
        # The input of every layer, and all of the one layer that is being computed again.
        inputs = CHECKPOINT_BYTES[load.kind] * shape.layer_count * shape.hidden_size
        return round(tokens * (inputs + max(size for _, size in layers)))
    return round(tokens * sum(count * size for count, size in layers))


def _bytes_of_layer(load: Load, layer: Layer) -> float:
    """What one token leaves in one layer."""
    kept = 0 if load.load_in_4bit else KEPT_INPUT_BYTES[load.kind] * sum(linear.inputs for linear in layer.linears)
    return ACTIVATION_BYTES[load.kind] * _elements_of_layer(load, layer) + kept


def _elements_of_layer(load: Load, layer: Layer) -> int:
    """How many numbers one token leaves in one layer: inputs and outputs of both norms; queries, keys, values and the
    attention's output; gate, up and their product; and what each adapter's first matrix gives."""
    adapters = sum(linear.suffix in load.targets for linear in layer.linears)
    kept = 4 * load.shape.hidden_size + 2 * layer.attention_size + 2 * layer.key_value_size + 3 * layer.mlp_size
    return kept + load.rank * adapters


def _logits_bytes(load: Load, tokens: int) -> int:
    """The logits that exist at the same time. More tokens never make them fewer."""
    vocabulary = load.shape.vocabulary
    if load.kind == "cpu":
        return min(tokens * vocabulary, LOSS_CHUNK_LOGITS_CPU) * LOGIT_BYTES
    rows = min(tokens, max(LOSS_CHUNK_TOKENS, ceil(tokens / LOSS_CHUNK_SHARE)))
    return min(rows * vocabulary, max(LOSS_CHUNK_BYTES // 8, 2 * vocabulary)) * LOGIT_BYTES


def _overhead_bytes(load: Load, lengths: int) -> int:
    """The buffer that the largest layer is dequantised into, and what the process itself needs."""
    buffer = 2 * _largest_linear(load.shape).weights if load.load_in_4bit else 0
    if load.kind == "gpu":
        return buffer + CUDA_CONTEXT_BYTES
    kernels = KERNEL_BYTES + KERNEL_BYTES_PER_WIDTH * load.shape.hidden_size
    return buffer + PROCESS_BYTES_CPU + (min(lengths, KERNEL_LENGTHS) - 1) * kernels


def _largest_linear(shape: ModelShape) -> Linear:
    return max((linear for layer in shape.layers for linear in layer.linears), key=lambda linear: linear.weights)
