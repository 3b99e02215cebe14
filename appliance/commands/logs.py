"""`appliance logs`: what the stages of a job printed."""

import sys
import time
from pathlib import Path

from appliance.commands.state import find_job, open_state
from appliance.job import ENDED, Stage
from appliance.places import Places

POLL_SECONDS = 0.5


def logs(name: str, *, follow: bool) -> None:
    """Print every stage's log in order; with `follow`, go on until the job has ended."""
    store, settings = open_state()
    job = find_job(store, name)
    folder = Places.of(settings).jobs / job.id
    seen: dict[Stage, int] = {}
    _print_new(folder, seen)
    while follow and find_job(store, name).state not in ENDED:
        time.sleep(POLL_SECONDS)
        _print_new(folder, seen)
    _print_new(folder, seen)
    if not seen:
        # A job's folder is removed some time after its end.
        gone = job.state in ENDED and not folder.exists()
        print(f"job {job.id}: {'its logs are gone' if gone else 'its stages have printed nothing'}", file=sys.stderr)


def _print_new(folder: Path, seen: dict[Stage, int]) -> None:
    for stage in Stage:
        try:
            with (folder / stage / "stage.log").open("rb") as file:
                file.seek(seen.get(stage, 0))
                text = file.read()
        except FileNotFoundError:
            continue
        if not text:
            continue
        if stage not in seen:
            print(f"── {stage}")
        seen[stage] = seen.get(stage, 0) + len(text)
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()
