"""`appliance jobs` and `appliance show`."""

import json
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from appliance.commands.follow import how_it_goes, why_waiting
from appliance.commands.state import find_job, open_state
from appliance.job import Job, JobState, Outcome, Push
from appliance.job_dir import job_to_json, read_progress
from appliance.outbox import find_result
from appliance.places import Places
from appliance.progress import Progress
from appliance.push_store import PushRow, PushStore
from appliance.settings import Settings
from appliance.texts.board import CHECKED, ONLY_CHECKED
from appliance.texts.wording import PUSHES, VERDICTS, plural

LISTED = 50
UNCUT = 10_000
NARROWEST_JOB = 10
# `running: prepare`, a date and a time, and room to say how a job stands.
OTHER_COLUMNS = 54
COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.RUNNING: "cyan",
    JobState.FAILED: "red",
    JobState.REJECTED: "yellow",
}


def jobs(*, as_json: bool) -> None:
    """Print the newest jobs as a table, or as JSON."""
    store, settings = open_state()
    found = store.recent_jobs(LISTED)
    if as_json:
        print(json.dumps([_facts(job, settings) for job in found], indent=2))
        return
    if not found:
        print("No jobs yet. Drop a .jsonl file into the inbox.")
        return
    console = Console()
    if not console.is_terminal:
        # A pipe or a file has no edge at which anything would have to be cut.
        console = Console(width=UNCUT)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job", no_wrap=True, overflow="ellipsis", max_width=_widest_job(console.width))
    for column in ("state", "taken in"):
        table.add_column(column, no_wrap=True)
    table.add_column("how it stands", overflow="fold")
    for job in found:
        table.add_row(*_row(job, settings))
    console.print(table)


def show(name: str, *, as_json: bool) -> None:
    """Print all that is known of one job."""
    store, settings = open_state()
    job = find_job(store, name)
    hub = PushStore(store).row(job.number)
    facts = {**_facts(job, settings), "hub": _hub_facts(hub), "events": store.events(job.number)}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{escape(job.id)}[/bold]  {_state(job)}")
    for label, value in [*_lines(job, settings), *_hub_lines(job, hub)]:
        console.print(f"  {label:<12}{escape(value)}")
    console.print("\n[bold]history[/bold]")
    for event in facts["events"]:
        console.print(f"  {_when(event['time'])}  {escape(_event(event))}")


def _hub_facts(hub: PushRow) -> dict[str, Any]:
    names = ("attempts", "next_try", "result", "message", "hint", "repository", "url")
    return {name: getattr(hub, name) for name in names}


def _hub_lines(job: Job, hub: PushRow) -> list[tuple[str, str]]:
    """What became of the push, in words; nothing where there is none."""
    if job.push is Push.OFF or job.outcome is not Outcome.SUCCEEDED:
        return []
    lines = [("Hub", f"{job.push}: {PUSHES[job.push]}"), ("", hub.url or ""), ("", hub.message), ("", hub.hint or "")]
    if job.push is Push.PENDING and hub.attempts:
        tried = f"tried {plural(hub.attempts, 'time')}, next at {_when(hub.next_try)}"
        lines.append(("", tried))
    return [line for line in lines if line[1]]


def _facts(job: Job, settings: Settings) -> dict[str, Any]:
    progress = _progress(job, settings)
    result = find_result(settings.outbox, job.id)
    return {
        **job_to_json(job),
        "result": str(result) if result else None,
        "step": progress.step,
        "total_steps": progress.total_steps,
        "tokens_per_second": progress.tokens_per_second,
        "seconds_left": progress.seconds_left,
        "loss": progress.loss,
    }


def _widest_job(width: int) -> int:
    """How much of a line a job's name may take, so that how it stands can be read beside it."""
    return width if width == UNCUT else min(width // 3, max(NARROWEST_JOB, width - OTHER_COLUMNS))


def _row(job: Job, settings: Settings) -> tuple[str, ...]:
    state = f"[{COLOURS.get(job.state, 'default')}]{_state(job)}[/]"
    taken_in = datetime.fromtimestamp(job.created).astimezone().strftime("%m-%d %H:%M")
    return (escape(job.id), state, taken_in, escape(_how_it_stands(job, settings)))


def _how_it_stands(job: Job, settings: Settings) -> str:
    """The progress of a running job, why another waits, what came of one that has ended."""
    if job.state is JobState.RUNNING:
        return how_it_goes(_progress(job, settings))
    if job.outcome is Outcome.CHECKED:
        return CHECKED
    if job.verdict is not None and job.state is JobState.SUCCEEDED:
        return VERDICTS[job.verdict]
    # What a library said may be a whole traceback; `show` has the rest.
    return _message(job).partition("\n")[0] or (ONLY_CHECKED if job.dry_run else "")


def _lines(job: Job, settings: Settings) -> list[tuple[str, str]]:
    result = find_result(settings.outbox, job.id)
    lines = [
        ("base model", job.base_model or ""),
        ("purpose", ONLY_CHECKED if job.dry_run else ""),
        ("files", ", ".join(f"{file.name} ({file.bytes:,} bytes)" for file in job.files)),
        ("verdict", job.verdict or ""),
        ("message", CHECKED if job.outcome is Outcome.CHECKED else _message(job)),
        ("progress", how_it_goes(_progress(job, settings)) if job.state is JobState.RUNNING else ""),
        ("result", str(result) if result else ""),
    ]
    return [(label, value) for label, value in lines if value]


def _state(job: Job) -> str:
    return f"{job.state}: {job.stage}" if job.stage else str(job.state)


def _message(job: Job) -> str:
    return job.message or why_waiting(job)


def _progress(job: Job, settings: Settings) -> Progress:
    """What the running stage has reported."""
    if job.state is not JobState.RUNNING or job.stage is None:
        return Progress()
    return read_progress(Places.of(settings).jobs / job.id / job.stage)


def _when(time: float) -> str:
    return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _event(event: dict[str, Any]) -> str:
    """One line of a job's history: what happened, then the facts of it."""
    facts = {key: value for key, value in event.items() if key not in ("time", "event")}
    match event["event"]:
        case "stage_started":
            return f"{facts['stage']} started, attempt {facts['attempt']}"
        case "stage_ended":
            return f"{facts['stage']} {facts['kind']} (exit code {facts['exit_code']})"
    listed = ", ".join(f"{key} {value}" for key, value in facts.items())
    return str(event["event"]).replace("_", " ") + (f" ({listed})" if listed else "")
