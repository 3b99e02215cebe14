"""`python -m tests.faulty SCENARIO FOLDER ERROR once|lasting N,N...`: file operations that fail, and what comes of it.

Runs the scenario once for every N in a child of its own, in which the N-th file operation fails; then starts it again
without a fault, looks at the promises and prints one JSON line a point. N = 0 counts the operations. The process must
have been started with the library of faults.c before all others.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from appliance.job import Job
from tests import test_crash
from tests.line import Line, closing_line, holds_at_once, holds_in_the_end

LIBRARY = ctypes.CDLL(None)
# The class that a failed job has, by what the operating system refused; where none is named, it never fails.
CLASSES = {errno.ENOSPC: "disk_full", errno.EIO: "disk_full", errno.EMFILE: "worker_crashed"}
DROP = test_crash.DROPS["pair"]


def job_scenario(root: Path) -> Callable[[], object]:
    Line.new(root).store.close()
    return lambda: Line(root).run(patient=True)


def job_promises(root: Path, number: int) -> str:
    holds_at_once(root)
    with closing_line(root) as line:
        line.recover()
        job = line.run()
        line.recover()
    return _end(root, job, number)


def _end(root: Path, job: Job, number: int) -> str:
    if job.state == "failed":
        assert job.failure == CLASSES.get(number), f"the class is {job.failure}"
        return str(job.failure)
    holds_in_the_end(root, job)
    return "succeeded"


def intake_scenario(root: Path) -> Callable[[], object]:
    test_crash.make_door(root, DROP).store.close()

    def take_in() -> None:
        door = test_crash.reopened(root)
        test_crash.take_in_everything(door)

    return take_in


def intake_promises(root: Path, number: int) -> str:
    door = test_crash.restart(root)
    test_crash.promises_hold(door, DROP, 1)
    door.store.close()
    return "taken in"


SCENARIOS = {"job": (job_scenario, job_promises), "intake": (intake_scenario, intake_promises)}


def run_with_fault(work: Callable[[], object], n: int, number: int, *, lasting: bool) -> int:
    """Run `work` in a child whose n-th file operation fails. Returns how many operations there were."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            LIBRARY.fault_arm(ctypes.c_long(n), number, int(lasting))
            work()
        except Exception:
            # A fault of the machine may end the process; what matters is what it leaves behind.
            traceback.print_exc()
        finally:
            os.write(writer, str(LIBRARY.fault_disarm()).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        seen = int(pipe.read() or 0)
    os.waitpid(pid, 0)
    return seen


def main() -> None:
    scenario, promises = SCENARIOS[sys.argv[1]]
    folder, number, lasting = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "lasting"
    for n in map(int, sys.argv[5].split(",")):
        root = folder / f"{sys.argv[1]}-{number}-{n}"
        seen = run_with_fault(scenario(root), n, number, lasting=lasting)
        try:
            end = promises(root, number) if n else "counted"
        except AssertionError as error:
            end = f"BROKEN: {str(error) or traceback.format_exc()}"
        print(json.dumps({"n": n, "seen": seen, "end": end}), flush=True)
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
