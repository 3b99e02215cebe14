"""What training needs in memory, line by line, from first principles. Pure.

The formulas follow the QLoRA paper's arithmetic and the layout that bitsandbytes and Unsloth really use; every
constant says where it comes from. They are estimates of a peak: what a machine really needed corrects them later.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from appliance.planning.model_shape import Linear, ModelShape

MachineKind = Literal["cpu", "gpu"]

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
# On a CPU nothing is fused: normalisation and activation also keep an fp32 copy.
ACTIVATION_BYTES: Final = {"cpu": 4, "gpu": 2}
# The loss is computed in chunks of about this many tokens; the logits of a chunk exist in bf16 and, as fp32, once
# themselves and once as a gradient.
LOSS_CHUNK_TOKENS: Final = 1024
LOGIT_BYTES: Final = 2 + 4 + 4
CUDA_CONTEXT_BYTES: Final = int(1.4 * GIB)
ALLOCATOR_SLACK: Final = 0.05


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
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.adapter_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.logits_bytes
            + self.overhead_bytes
        )


@dataclass(frozen=True)
class Load:
    """What is trained: the model, how it is loaded, and the adapter on it."""

    shape: ModelShape
    load_in_4bit: bool
    rank: int
    targets: tuple[Linear, ...]
    optim: str
    kind: MachineKind

    @property
    def trainable_parameters(self) -> int:
        return self.shape.layers * sum(linear.lora_parameters(self.rank) for linear in self.targets)


def memory_bill(load: Load, *, micro_batch: int, sequence: int, gradient_checkpointing: bool) -> Bill:
    """What one micro-batch of `micro_batch` examples of `sequence` tokens needs, with everything that stays loaded."""
    tokens = micro_batch * sequence
    activations = _activations_bytes(load, tokens, gradient_checkpointing=gradient_checkpointing)
    logits = _logits_bytes(load, tokens)
    return Bill(
        weights_bytes=weights_bytes(load.shape, load_in_4bit=load.load_in_4bit),
        adapter_bytes=ADAPTER_BYTES * load.trainable_parameters,
        optimizer_bytes=OPTIMIZER_BYTES.get(load.optim, OPTIMIZER_BYTES_32) * load.trainable_parameters,
        activations_bytes=activations,
        logits_bytes=logits,
        overhead_bytes=_overhead_bytes(load) + round(ALLOCATOR_SLACK * (activations + logits)),
    )


def weights_bytes(shape: ModelShape, *, load_in_4bit: bool) -> int:
    """The loaded base model. Only linear layers inside the decoder are quantised; the rest stays in 16 bit."""
    if not load_in_4bit:
        return 2 * shape.total_parameters
    quantised = shape.layers * sum(nf4_bytes(linear.weights) for linear in shape.linears)
    return quantised + 2 * (shape.total_parameters - shape.linear_parameters)


def nf4_bytes(weights: int) -> int:
    """One linear layer in NF4 with double quantisation."""
    scales = ceil(weights / NF4_BLOCK)
    return ceil(weights / 2) + scales + 4 * ceil(scales / NF4_NESTED_BLOCK) + NF4_TABLE_BYTES


def _activations_bytes(load: Load, tokens: int, *, gradient_checkpointing: bool) -> int:
    """What the forward pass keeps for the backward pass."""
    shape, size = load.shape, ACTIVATION_BYTES[load.kind]
    # Inputs and outputs of both norms; queries, keys, values and the attention's output; gate, up and their product;
    # and what each adapter's first matrix gives.
    layer = 4 * shape.hidden_size + 2 * shape.attention_size + 2 * shape.key_value_size + 3 * shape.intermediate_size
    layer += load.rank * len(load.targets)
    if gradient_checkpointing:
        # The input of every layer, and all of the one layer that is being computed again.
        return tokens * size * (shape.layers * shape.hidden_size + layer)
    return tokens * size * shape.layers * layer


def _logits_bytes(load: Load, tokens: int) -> int:
    return min(tokens, LOSS_CHUNK_TOKENS) * load.shape.vocabulary * LOGIT_BYTES


def _overhead_bytes(load: Load) -> int:
    """The buffer that the largest layer is dequantised into, and the CUDA context."""
    buffer = 2 * max(linear.weights for linear in load.shape.linears) if load.load_in_4bit else 0
    return buffer + (CUDA_CONTEXT_BYTES if load.kind == "gpu" else 0)
