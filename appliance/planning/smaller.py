"""The same training in smaller pieces, after it ran out of memory. Pure.

The effective batch stays what it was, so steps, samples and learning rates do; only how much is in memory at once goes
down.
"""

from typing import Any

from appliance.planning.splits import smaller_split


def smaller_plan(plan: dict[str, Any], why: str, *, may_recompute: bool) -> dict[str, Any] | None:
    """The object of `plan.json` with half the micro-batch, or recomputed activations; None when neither is left.

    `may_recompute`: the recipe does not forbid gradient checkpointing. `why` goes into the notes.
    """
    micro_batch, accumulation = plan["per_device_train_batch_size"], plan["gradient_accumulation_steps"]
    split = smaller_split(micro_batch, accumulation)
    if split is not None:
        note = f"after {why}, the micro-batch went from {micro_batch} to {split[0]}; the effective batch is the same"
        memory = _scaled(plan["memory"], split[0] / micro_batch) if "memory" in plan else {}
        change = {"per_device_train_batch_size": split[0], "gradient_accumulation_steps": split[1]}
    elif may_recompute and not plan["gradient_checkpointing"]:
        note = f"after {why}, activations are recomputed (gradient checkpointing), which takes longer and needs less"
        memory, change = plan.get("memory", {}), {"gradient_checkpointing": True}
    else:
        return None
    return plan | change | ({"memory": memory} if memory else {}) | {"notes": [*plan.get("notes", []), note]}


def _scaled(memory: dict[str, int], share: float) -> dict[str, int]:
    """The bill with activations in proportion to the micro-batch; weights, adapter and optimizer stay."""
    activations = round(memory["activations_bytes"] * share)
    saved = memory["activations_bytes"] - activations
    return memory | {"activations_bytes": activations, "total_bytes": memory["total_bytes"] - saved}
