"""A plan as people read it: the bill with a bar, what else was considered, and the estimate that is called one."""

from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.table import Table

from appliance.planning.plan import Plan
from appliance.planning.splits import Split
from appliance.recipe import Recipe
from appliance.texts.wording import duration, size

BAR_WIDTH: Final = 40


def print_plan(made: Plan, recipe: Recipe, advice: list[str]) -> None:
    """Print it. `advice` is what would fit, where this does not."""
    console = Console(highlight=False)
    share = made.trainable_parameters / made.total_parameters
    console.print(
        f"[bold]{recipe.base_model}[/bold]  {made.total_parameters:,} parameters,"
        f" {made.trainable_parameters:,} of them trained ({share:.2%})\n"
    )
    console.print(_bill(made))
    console.print(_bar(made), end="\n\n")
    console.print("[bold]considered[/bold]")
    console.print(_alternatives(made), end="\n\n")
    for line in _lines(made):
        console.print(line)
    if not made.fits and advice:
        console.print("\n[bold]would fit, each by itself, the least painful first[/bold]")
        for change in advice:
            console.print(f"  {change}")


def _bill(made: Plan) -> Table:
    bill = made.memory
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, count in (
        ("weights of the base model", bill.weights_bytes),
        ("adapter and its gradients", bill.adapter_bytes),
        ("optimizer", bill.optimizer_bytes),
        ("activations", bill.activations_bytes),
        ("logits", bill.logits_bytes),
        ("overhead", bill.overhead_bytes),
        ("[bold]together[/bold]", bill.total_bytes),
        ("this machine", made.machine.memory_bytes),
        ("kept in reserve", made.machine.reserve_bytes),
    ):
        table.add_row(label, size(count))
    return table


def _bar(made: Plan) -> str:
    """How much of the machine is taken, kept in reserve, and left."""
    total = made.machine.memory_bytes
    used = min(BAR_WIDTH, round(BAR_WIDTH * made.memory.total_bytes / total))
    reserved = min(BAR_WIDTH - used, round(BAR_WIDTH * made.machine.reserve_bytes / total))
    left = BAR_WIDTH - used - reserved
    verdict = "[green]fits[/green]" if made.fits else "[red]does not fit[/red]"
    return f"\\[{'█' * used}{'·' * left}{'▒' * reserved}] {verdict}"


def _alternatives(made: Plan) -> Table:
    """Every way to cut a step, the fastest first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("micro-batch × accumulation", "gradient checkpointing", "memory", "tokens/s (estimate)", ""):
        table.add_column(heading, justify="right" if heading in ("memory", "tokens/s (estimate)") else "left")
    for split in sorted(made.alternatives, key=lambda split: -split.tokens_per_second):
        table.add_row(
            f"{split.micro_batch} × {split.accumulation}",
            "with" if split.gradient_checkpointing else "without",
            size(split.bill.total_bytes),
            f"{split.tokens_per_second:,.0f}",
            _remark(made, split),
        )
    return table


def _remark(made: Plan, split: Split) -> str:
    if not split.fits(made.machine):
        return "[red]does not fit[/red]"
    return "[green]chosen[/green]" if split.forecast == made.forecast else ""


def _lines(made: Plan) -> Iterator[str]:
    checkpointing = "with" if made.gradient_checkpointing else "without"
    yield (
        f"micro-batch {made.per_device_train_batch_size} × accumulation {made.gradient_accumulation_steps}"
        f" = effective batch size {made.effective_batch_size}, {checkpointing} gradient checkpointing"
    )
    yield f"at most {made.max_seq_length:,} tokens a row"
    if made.total_steps is not None:
        yield f"{made.total_steps:,} steps, {made.num_train_epochs} epochs"
    if made.seconds_estimate is not None:
        yield f"estimate: about {duration(made.seconds_estimate)} until the adapter is trained"
    yield (
        "memory and speed are corrected by what finished trainings have shown on this machine"
        if made.is_measured
        else "memory and speed are worked out from the model's figures; nothing was measured yet"
    )
    for note in made.notes:
        yield f"note: {note}"
