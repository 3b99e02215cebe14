"""What being watched costs: `python -m bench.watching`.

A real daemon trains a real small job on its own folders. For a minute, twenty clients follow events and something
scrapes once a second: the daemon's processor time is read from /proc and must stay below a tenth of a core. Meanwhile
windows of three seconds with and without watchers alternate; the ratio of step times between neighbouring windows is
printed with its interval (95 %, bootstrap over the pairs), the unwatched windows of the same run being the baseline.
Then fifty scrapes a second for ten seconds: every answer in time, within one core and 150 MB; and clients that do not
read, and some that vanish.
"""

import argparse
import http.client
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil

from bench.conditions import conditions
from tests.real_daemon import RealDaemon

WATCHERS = 20
WINDOW_SECONDS = 3.0
PAIRS = 12
FLOOD_SECONDS = 10.0
FLOOD_RATE = 50
MOST_SHARE, MOST_ANSWER_SECONDS, MOST_BYTES = 0.10, 1.0, 150e6


class Crowd:
    """Clients that follow the events of a job, and one that scrapes every second. They can be sent away."""

    def __init__(self, address: tuple[str, int], job: int) -> None:
        self._address, self._gone = address, threading.Event()
        self.received = 0
        self._sockets = [
            self._watch(f"/live/jobs/{job}" if n % 2 else f"/api/v1/jobs/{job}/events") for n in range(WATCHERS)
        ]
        self._threads = [threading.Thread(target=self._read, args=(one,)) for one in self._sockets]
        self._threads.append(threading.Thread(target=self._scrape))
        for thread in self._threads:
            thread.start()

    def _watch(self, path: str) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=30)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.settimeout(0.5)
        return connection

    def _read(self, connection: socket.socket) -> None:
        while not self._gone.is_set():
            try:
                self.received += len(connection.recv(65536))
            except TimeoutError:
                continue
            except OSError:
                return

    def _scrape(self) -> None:
        while not self._gone.wait(1.0):
            scrape(self._address)

    def leave(self) -> None:
        self._gone.set()
        for thread in self._threads:
            thread.join()
        for connection in self._sockets:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of windows, watched and unwatched")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        daemon = RealDaemon(Path(folder))
        try:
            figures = measure(daemon, pairs=arguments.pairs)
        finally:
            daemon.stop()
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(daemon: RealDaemon, *, pairs: int) -> dict[str, object]:
    daemon.drop("watched", steps=100_000)
    daemon.wait_for(lambda: (daemon.job(1) or {}).get("stage") == "train")
    log = next(daemon.root.glob("state/jobs/*/train")) / "progress.jsonl"
    daemon.wait_for(lambda: log.exists() and log.read_text().count('"step"') > 20)
    process = psutil.Process(daemon.process.pid)
    figures = {
        "minute": minute(process, daemon.address),
        "step_times": step_times(log, daemon.address, pairs=pairs),
        "flood": flood(process, daemon.address),
        "lazy_and_vanished": lazy(process, daemon.address),
        **conditions("unsloth", "torch"),
    }
    figures["holds"] = (
        figures["minute"]["share_of_one_core"] <= MOST_SHARE
        and figures["flood"]["slowest_answer_seconds"] < MOST_ANSWER_SECONDS
        and figures["flood"]["share_of_one_core"] <= 1
        and figures["flood"]["highest_rss_bytes"] < MOST_BYTES
    )
    return figures


def minute(process: psutil.Process, address: tuple[str, int]) -> dict[str, float]:
    """The daemon's share of a core with twenty watchers and a scrape a second, and alone just before."""
    alone = share(process, 20.0)
    crowd = Crowd(address, 1)
    watched = share(process, 60.0)
    crowd.leave()
    return {"share_of_one_core": round(watched, 4), "alone": round(alone, 4), "received_bytes": crowd.received}


def share(process: psutil.Process, seconds: float) -> float:
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / (time.monotonic() - began)


def step_times(log: Path, address: tuple[str, int], *, pairs: int) -> dict[str, object]:
    """The ratio of step times in windows with and without watchers, which take turns."""
    windows: list[tuple[bool, float, float]] = []
    for pair in range(pairs):
        for watched in (True, False) if pair % 2 else (False, True):
            crowd = Crowd(address, 1) if watched else None
            began = time.time()
            time.sleep(WINDOW_SECONDS)
            windows.append((watched, began, time.time()))
            if crowd is not None:
                crowd.leave()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [(event["time"], event["seconds"]) for event in events if event["event"] == "step"]
    medians = [
        (watched, statistics.median([s for at, s in steps if began + s <= at <= ended] or [float("nan")]))
        for watched, began, ended in windows
    ]
    ratios = []
    for one, other in zip(medians[::2], medians[1::2], strict=True):
        with_crowd, without = (one[1], other[1]) if one[0] else (other[1], one[1])
        ratios.append(with_crowd / without)
    low, high = interval(ratios)
    return {
        "ratio_watched_to_unwatched": round(statistics.median(ratios), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "windows": len(windows),
        "window_seconds": WINDOW_SECONDS,
    }


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % of the medians of resampled pairs."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[49], medians[1949]


def scrape(address: tuple[str, int]) -> float:
    began = time.monotonic()
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    connection.close()
    return time.monotonic() - began


def flood(process: psutil.Process, address: tuple[str, int]) -> dict[str, float]:
    """Fifty scrapes a second, each begun when it is due, whether the one before has been answered or not."""
    answers: list[float] = []
    before, began = process.cpu_times(), time.monotonic()
    threads, highest = [], 0
    for number in range(int(FLOOD_SECONDS * FLOOD_RATE)):
        time.sleep(max(0.0, began + number / FLOOD_RATE - time.monotonic()))
        threads.append(threading.Thread(target=lambda: answers.append(scrape(address))))
        threads[-1].start()
        highest = max(highest, process.memory_info().rss)
    for thread in threads:
        thread.join()
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return {
        "answers": len(answers),
        "slowest_answer_seconds": round(max(answers), 4),
        "median_answer_seconds": round(statistics.median(answers), 4),
        "share_of_one_core": round(used / (time.monotonic() - began), 4),
        "highest_rss_bytes": highest,
    }


def lazy(process: psutil.Process, address: tuple[str, int]) -> dict[str, object]:
    """Clients that never read, and some that vanish without a word: when are their connections given up?"""
    connections = []
    for _ in range(10):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(address)
        connection.sendall(b"GET /live/jobs/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connections.append(connection)
    time.sleep(2)
    held = len(process.net_connections())
    began = time.monotonic()
    for connection in connections[5:]:
        connection.close()
    while (
        len([c for c in process.net_connections() if c.status == "ESTABLISHED"]) > 0 and time.monotonic() - began < 120
    ):
        time.sleep(1)
    given_up = round(time.monotonic() - began, 1)
    left = len([c for c in process.net_connections() if c.status == "ESTABLISHED"])
    for connection in connections[:5]:
        connection.close()
    return {
        "connections": held,
        "all_given_up_after_seconds": given_up if not left else None,
        "left": left,
        "rss_bytes": process.memory_info().rss,
    }


if __name__ == "__main__":
    main()
