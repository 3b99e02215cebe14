"""`appliance demo`: the real way from inbox to outbox, with the tiny base model that ships with the package.

A real daemon serves folders of its own, a sample dataset is dropped into its inbox, and what comes out is shown. Needs
no network and no GPU.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from appliance.commands.follow import Follower
from appliance.disk import space_of
from appliance.errors import ApplianceError
from appliance.job import ENDED, Job, JobState
from appliance.outbox import find_result
from appliance.settings import PREFIX
from appliance.store import DATABASE, Store
from appliance.texts.wording import size

SAMPLE: Final = ("support-tickets.jsonl", "support-tickets.yaml")
FOLDERS: Final = ("inbox", "outbox", "recipes", "state", "models")
DEADLINE_SECONDS: Final = 900.0
STOP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.2
ANSWERS_SHOWN: Final = 3
# What it writes and what its stages ask for, with room to spare.
NEEDED_BYTES: Final = 500 * 10**6


class DemoError(ApplianceError):
    """The demo did not end with an adapter that beats its base."""


def demo(keep: Path | None) -> None:
    """Run the demo and print what it showed. Raises DemoError unless the adapter beats the base on held-out rows."""
    root = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="appliance-demo-"))
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    free = space_of(root).free_bytes
    if free < NEEDED_BYTES:
        raise DemoError(
            f"{root} has {size(free)} free, and the demo needs {size(NEEDED_BYTES)}",
            hint="Make room there, or name a folder on another disk with --keep.",
        )
    console = Console(highlight=False)
    console.print(f"An appliance starts on folders of its own: [bold]{escape(str(root))}[/bold]", soft_wrap=True)
    before = newest_job(root)
    with _daemon(root) as daemon:
        _drop_sample(root / "inbox")
        console.print(
            f"{SAMPLE[0]} and its recipe lie in the inbox; the rest is the appliance's work.\n", soft_wrap=True
        )
        job = _wait_for_end(root, daemon, after=before.number if before else 0)
    _show(job, root / "outbox", console)


@contextmanager
def _daemon(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon on these folders, ended as a container engine would end it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {f"{PREFIX}{name.upper()}": str(root / name) for name in FOLDERS}
    ours |= {f"{PREFIX}LISTEN": "127.0.0.1:0", f"{PREFIX}QUIET_SECONDS": "1", f"{PREFIX}SCAN_SECONDS": "0.5"}
    # A reserve is for the work of months, and the demo's folders go with it.
    ours[f"{PREFIX}DISK_RESERVE_GB"] = "0"
    with (root / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "appliance", "serve"], cwd=root, env=inherited | ours, stdout=log, stderr=log
        )
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()


def _drop_sample(inbox: Path) -> None:
    for name in SAMPLE:
        with resources.as_file(resources.files("appliance") / "demo" / name) as source:
            shutil.copyfile(source, inbox / name)


def _wait_for_end(root: Path, daemon: subprocess.Popen[bytes], *, after: int) -> Job:
    """Show how the job with a number above `after` goes on until it has ended."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with Follower(root / "state" / "jobs") as follower:
        while time.monotonic() < deadline:
            if daemon.poll() is not None:
                raise DemoError("the appliance ended by itself", hint=f"{root / 'daemon.log'} says why.")
            job = newest_job(root)
            if job is not None and job.number > after:
                follower.show(job)
                if job.state in ENDED:
                    return job
            time.sleep(POLL_SECONDS)
    raise DemoError(f"the demo took longer than {DEADLINE_SECONDS:.0f} s", hint=f"See {root / 'daemon.log'}.")


def newest_job(root: Path) -> Job | None:
    database = root / "state" / DATABASE
    if not database.exists():
        return None
    store = Store(database, readonly=True)
    try:
        return next(iter(store.recent_jobs(1)), None)
    except sqlite3.OperationalError:
        # The daemon is making it at this very moment.
        return None
    finally:
        store.close()


def _show(job: Job, outbox: Path, console: Console) -> None:
    result = find_result(outbox, job.id)
    if result is None or job.state is not JobState.SUCCEEDED:
        raise DemoError(f"the job {job.state}: {job.message}", hint=f"{result or outbox} says why.")
    facts = json.loads((result / "eval.json").read_text())
    manifest = json.loads((result / "manifest.json").read_text())
    _show_answers(result, console)
    console.print()
    rate = manifest["tokens_per_second"]
    low, high = facts["interval"]
    for label, value in (
        ("Held-out loss", f"base {facts['base_loss']:.3f} → tuned {facts['tuned_loss']:.3f}"),
        ("", f"on {facts['held_out_rows']} rows that were not trained on"),
        ("", f"difference {facts['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"),
        ("Verdict", facts["verdict"]),
        ("Speed", f"{rate:,.0f} tokens/s, padding not counted"),
        ("Adapter", str(result / "adapter")),
        ("Report", str(result / "report.html")),
    ):
        # Soft-wrapped: a path that is broken over two lines cannot be copied.
        console.print(f"[bold]{label:<14}[/bold] {escape(value)}", soft_wrap=True)
    if facts["tuned_loss"] >= facts["base_loss"]:
        raise DemoError("the adapter does not fit the held-out rows better than the base does")


def _show_answers(result: Path, console: Console) -> None:
    table = Table(title="The same questions, before and after", title_justify="left", show_lines=True)
    for column in ("question", "base model", "with the adapter", "wanted"):
        table.add_column(column, overflow="fold", ratio=1)
    for sample in _samples(result)[:ANSWERS_SHOWN]:
        question = next(m["content"] for m in reversed(sample["messages"]) if m["role"] == "user")
        table.add_row(*(escape(text or "") for text in (question, sample["base"], sample["tuned"], sample["answer"])))
    console.print(table)


def _samples(result: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result / "samples.jsonl").read_text().split("\n") if line]
