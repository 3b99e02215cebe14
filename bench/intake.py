"""What intake costs: checking a large chat JSONL against reading it otherwise, deciding on 20,000 files, taking a pair.

    python bench/intake.py [--megabytes 300] [--pairs 5] [--json bench/results/intake.json]

Checking is `check_files` with every check, rows written nowhere, in a process of its own; the baselines are a bare
`json.loads` loop over the lines and `datasets.load_dataset("json")` with an empty cache, each in a process of its own,
in turn. Peak memory is the sum over the process and its children (proportional set size). Ends with 1 when a bound is
missed.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from conditions import conditions

from appliance.inbox import Inbox
from appliance.settling import DropState, Rules
from appliance.survey import Surveyor

FASTER_THAN_DATASETS = 2.0
FASTER_THAN_A_LOOP = 1.3
MOST_MEMORY_MB = 250.0
MANY_FILES = 20_000
LONGEST_SURVEY = 1.0
LONGEST_DELAY = 2.5
WORDS = Path(__file__).parents[1] / "appliance" / "demo" / "support-tickets.jsonl"

PROGRAMS = {
    "appliance": """
from appliance.checking import Files, check_files
from appliance.settings import Settings
from appliance.sources import Source
checked = check_files(Files(dataset=Source(path.name, path, "0" * 64)), Settings())
assert not checked.problems and checked.dataset.rows == rows, checked
""",
    "json.loads": """
import json
with path.open(encoding="utf-8") as lines:
    assert sum(1 for line in lines if json.loads(line)) == rows
""",
    "datasets": """
from datasets import load_dataset
assert load_dataset("json", data_files=str(path), cache_dir=cache, split="train").num_rows == rows
""",
}
# Imports are not what is measured: everybody pays for them once.
IMPORTS = {
    "appliance": "import appliance.checking, appliance.dataset.plain",
    "json.loads": "import json",
    "datasets": "import datasets",
}


def write_chat(path: Path, megabytes: int) -> int:
    """A chat dataset of short and long conversations, with a few characters that are not ASCII. Returns its rows."""
    rng, size, rows = random.Random(7), 0, 0
    tickets = [json.loads(line) for line in WORDS.open(encoding="utf-8")]
    words = [word for ticket in tickets for message in ticket["messages"] for word in message["content"].split()]
    words += ["naïve", "Größe", "“quoted”", "line\nbreak", 'say "hi"', "日本語", "😀"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(5, 120))) for _ in range(4000)]
    with path.open("wb") as file:
        while size < megabytes * 10**6:
            turns = [{"role": "system", "content": "You help at the support desk."}] if rng.random() < 0.7 else []
            for turn in range(rng.randrange(1, 4)):
                turns.append(
                    {"role": "user", "content": f"#{rows}.{turn} {rng.choice(texts)[: rng.randrange(20, 400)]}"}
                )
                turns.append({"role": "assistant", "content": rng.choice(texts)})
            size += file.write(json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n")
            rows += 1
    return rows


class Run(NamedTuple):
    """Seconds of the work itself, processor seconds of the process and its children, and their peak of memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(name: str, path: Path, rows: int) -> Run:
    """One way to go through the file, in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        program = (
            f"import resource, time; from pathlib import Path; {IMPORTS[name]}\n"
            "def cpu(): return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (0, -1)))\n"
            f"path, rows, cache = Path({str(path)!r}), {rows}, {cache!r}\n"
            f"began, used = time.perf_counter(), cpu()\n{PROGRAMS[name]}\n"
            "print(time.perf_counter() - began, cpu() - used)"
        )
        quiet = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=quiet)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mb(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0, name
        assert process.stdout is not None
        seconds, cpu_seconds = map(float, process.stdout.read().split())
        return Run(seconds, cpu_seconds, peak)


def memory_mb(pid: int) -> float:
    total = 0
    try:
        family = psutil.Process(pid)
        for process in (family, *family.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:
        return 0.0
    return total / 1e6


def compare(path: Path, rows: int, pairs: int) -> dict[str, Any]:
    """Every way in turn, several times; the first round warms the page cache and does not count."""
    runs: dict[str, list[Run]] = {name: [] for name in PROGRAMS}
    for round_ in range(pairs + 1):
        for name, found in runs.items():
            run = measure(name, path, rows)
            if round_:
                found.append(run)
    seconds = {name: [run.seconds for run in found] for name, found in runs.items()}
    ratios = {
        name: statistics.median(theirs / ours for ours, theirs in zip(seconds["appliance"], seconds[name], strict=True))
        for name in ("json.loads", "datasets")
    }
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "fastest_seconds": {name: min(times) for name, times in seconds.items()},
        "cpu_seconds": {name: min(run.cpu_seconds for run in found) for name, found in runs.items()},
        "peak_memory_mb": {name: max(run.peak_mb for run in found) for name, found in runs.items()},
        "times_as_fast_as": ratios,
    }


def survey_many(files: int) -> float:
    """Seconds of one look at an inbox of so many files: listed, looked into, grouped and decided on."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            (Path(folder) / f"{number:05d}.jsonl").write_text('{"text": "a"}\n')
        surveyor = Surveyor(Inbox(Path(folder), "bench"), Rules(quiet_seconds=0, pair_seconds=0))
        began = time.perf_counter()
        survey = surveyor.look(1000.0, [])
        seconds = time.perf_counter() - began
        assert len(survey.drops) == files
        assert any(drop.state is DropState.READY for drop in survey.drops)
        return seconds


def take_a_pair() -> float:
    """Seconds from the last write of a dataset and its recipe until their job is recorded, less the quiet time."""
    from appliance.daemon import Appliance
    from appliance.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "recipes").mkdir()
        folders = {name: root / name for name in ("inbox", "outbox", "recipes", "state", "models")}
        settings = Settings(**folders)  # type: ignore[arg-type]
        appliance = Appliance(settings)
        appliance.prepare_inbox()
        wait_until(appliance, lambda: appliance.reception.last_scan is not None)
        (root / "inbox" / "a.jsonl").write_text('{"text": "a"}\n')
        (root / "inbox" / "a.yaml").write_text("base_model: demo\n")
        written = time.monotonic()
        wait_until(appliance, lambda: appliance.store.job(1) is not None)
        seconds = time.monotonic() - written - settings.quiet_seconds
        appliance.stop()
        return seconds


def wait_until(appliance: Any, condition: Callable[[], bool]) -> None:  # noqa: ANN401
    """The loop as `serve` turns it, without events: as on a network share."""
    while not condition():
        appliance.tick(time.monotonic(), time.time())
        appliance.wake.wait(0.25)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--large-megabytes", type=int, help="also compare the memory of a file of this size")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.jsonl"
        rows = write_chat(path, arguments.megabytes)
        result = {"megabytes": arguments.megabytes, "rows": rows, **compare(path, rows, arguments.pairs)}
        if arguments.large_megabytes:
            rows = write_chat(path, arguments.large_megabytes)
            run = measure("appliance", path, rows)
            result["large"] = {
                "megabytes": arguments.large_megabytes,
                "seconds": run.seconds,
                "peak_memory_mb": run.peak_mb,
            }
    result |= {
        "survey": {"files": MANY_FILES, "seconds": min(survey_many(MANY_FILES) for _ in range(3))},
        "pair_seconds_after_quiet_time": statistics.median(take_a_pair() for _ in range(3)),
        "load_before": load,
        **conditions("msgspec", "datasets"),
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if within_bounds(result) else 1


def within_bounds(result: dict[str, Any]) -> bool:
    """Say how each bound was met."""
    peaks = [result["peak_memory_mb"]["appliance"], *([result["large"]["peak_memory_mb"]] if "large" in result else [])]
    bounds = [
        ("times as fast as datasets", result["times_as_fast_as"]["datasets"], FASTER_THAN_DATASETS, True),
        ("times as fast as a json.loads loop", result["times_as_fast_as"]["json.loads"], FASTER_THAN_A_LOOP, True),
        ("MB at the peak", max(peaks), MOST_MEMORY_MB, False),
        (f"seconds to decide on {MANY_FILES:,} files", result["survey"]["seconds"], LONGEST_SURVEY, False),
        ("seconds after the quiet time for a pair", result["pair_seconds_after_quiet_time"], LONGEST_DELAY, False),
    ]
    met = [(value >= bound) if least else (value <= bound) for _, value, bound, least in bounds]
    for (what, value, bound, least), good in zip(bounds, met, strict=True):
        print(f"{'met   ' if good else 'MISSED'} {value:8.2f} {what} ({'at least' if least else 'at most'} {bound:g})")
    return all(met)


if __name__ == "__main__":
    sys.exit(main())
