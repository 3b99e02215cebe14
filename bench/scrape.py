"""What a scrape costs: `python -m bench.scrape`.

Fills a database with 10,000 finished jobs and one in training, serves it as the appliance does and scrapes it over a
real socket. The baseline, in the same run and in turns with it, is the same server on an empty database. The bound is
50 ms for the median.
"""

import argparse
import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from appliance.disk import Space
from appliance.inbox import Availability
from appliance.job import Job, JobState, Push, Verdict, move
from appliance.machine_watch import MachineReading
from appliance.settings import Settings
from appliance.store import Store
from appliance.view import View
from appliance.web.access import Access, allowed_hosts
from appliance.web.app import make_app
from appliance.web.server import WebServer
from appliance.web.site import Site
from bench.conditions import conditions

BOUND_SECONDS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        full = serve(Path(folder) / "full.sqlite", jobs=arguments.jobs)
        empty = serve(Path(folder) / "empty.sqlite", jobs=0)
        figures = compare(full, empty, rounds=arguments.rounds) | {"jobs": arguments.jobs}
        full.stop()
        empty.stop()
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def serve(path: Path, *, jobs: int) -> WebServer:
    """The appliance's own HTTP port on a database with that many finished jobs."""
    store, now = Store(path), time.time()
    with store.transaction():
        for number in range(1, jobs + 1):
            add(store, number, now - 3600 - jobs + number)
        store.add_job(Job(jobs + 1, f"{jobs + 1:04d}-running", "running", "running", JobState.QUEUED, now))
    view = View(now, 0.0, True, Availability.AVAILABLE, (), (), {}, now, False)
    machine = MachineReading({name: Space(1, 2, 3) for name in ("inbox", "outbox", "state", "cache")})
    access = Access(allowed_hosts("127.0.0.1", ()))
    site = Site(store, lambda: view, Settings(), path.parent, access, clock=lambda: now, machine=lambda: machine)
    server = WebServer(make_app(site), "127.0.0.1:0")
    server.start()
    return server


def add(store: Store, number: int, finished: float) -> None:
    job = Job(number, f"{number:04d}-support", str(number), "support", JobState.QUEUED, finished - 60)
    store.add_job(job)
    ended = move(job, JobState.RUNNING)
    store.save(
        move(ended, JobState.SUCCEEDED, finished=finished, verdict=Verdict.IMPROVED, push=Push.PUSHED, started=finished)
    )
    store.observe("job_stage_duration_seconds", 60, (1, 60, 3600), {"stage": "train"})


def compare(full: WebServer, empty: WebServer, *, rounds: int) -> dict[str, object]:
    times: dict[str, list[float]] = {"full": [], "empty": []}
    for _ in range(rounds):
        for name, server in (("full", full), ("empty", empty)):
            times[name].append(scrape(server))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        "median_ms": round(1e3 * medians["full"], 2),
        "p95_ms": round(1e3 * statistics.quantiles(times["full"], n=20)[-1], 2),
        "empty_database_median_ms": round(1e3 * medians["empty"], 2),
        "ratio_to_empty_database": round(medians["full"] / medians["empty"], 2),
        "holds": medians["full"] < BOUND_SECONDS,
        "rounds": rounds,
        **conditions("prometheus-client"),
    }


def scrape(server: WebServer) -> float:
    host, port = server.address
    begun = time.perf_counter()
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as answer:
        answer.read()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
