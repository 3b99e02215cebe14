"""How fast a training is, from the arithmetic of one token. Pure. An estimate, and called one wherever it is shown."""

from typing import Final

from appliance.planning.machine import Machine
from appliance.planning.memory_bill import Load

# What one micro-batch costs whatever its size: launching kernels, collating, logging.
MICRO_BATCH_SECONDS: Final = {"cpu": 0.04, "gpu": 0.05}
# Until the first step where nothing was measured: importing the libraries, then reading the weights.
IMPORT_SECONDS: Final = {"cpu": 15.0, "gpu": 30.0}
LOADED_BYTES_PER_SECOND: Final = 1e9


def tokens_per_second(
    load: Load, machine: Machine, *, micro_batch: int, gradient_checkpointing: bool, length: float
) -> float:
    """Real tokens a second for rows of `length` tokens, from the arithmetic and the fixed cost of a micro-batch."""
    seconds_per_token = flops_per_token(load, gradient_checkpointing, length) / machine.flops_per_second
    tokens = micro_batch * length
    return tokens / (tokens * seconds_per_token + MICRO_BATCH_SECONDS[machine.kind])


def seconds_of_evaluation(load: Load, machine: Machine, *, length: float, factor: float) -> float:
    """Scoring one held-out row: forward only, one row at a time. `factor` corrects the speed."""
    arithmetic = length * flops_per_token(load, False, length) / 2 / machine.flops_per_second
    return (arithmetic + MICRO_BATCH_SECONDS[machine.kind] / 2) / factor


def startup_seconds(load: Load, machine: Machine, weights_bytes: int) -> float:
    """Until the first step, where nothing was measured."""
    return IMPORT_SECONDS[machine.kind] + weights_bytes / LOADED_BYTES_PER_SECOND


def model_flops_per_token(load: Load, length: float) -> float:
    """What the model itself takes, for the utilisation (MFU): recomputed activations are not counted.

    4 FLOP a weight of the frozen base, 6 a weight of the adapters, and for attention what the PaLM paper (appendix B)
    counts, 12 × layers × heads × head size × sequence, without a discount for the causal mask; a layer with a window
    looks no further back than that.
    """
    attention = 12 * sum(
        layer.count * layer.attention_size * min(length, layer.window or length) for layer in load.shape.layers
    )
    return 4 * load.shape.compute_parameters + 6 * load.trainable_parameters + attention


def flops_per_token(load: Load, gradient_checkpointing: bool, length: float) -> float:
    """Forward and backward pass through a frozen base: 4 FLOP a weight (no weight gradients), 6 when recomputed.

    Attention looks back half the sequence on average, or its window, and has a gradient on both sides; so have the
    adapters.
    """
    passes = 4 if gradient_checkpointing else 3
    base = (6 if gradient_checkpointing else 4) * load.shape.compute_parameters
    looked_at = sum(
        layer.count * layer.attention_size * min(length, 2 * (layer.window or length)) for layer in load.shape.layers
    )
    return base + passes * 2 * looked_at + 2 * passes * load.trainable_parameters
