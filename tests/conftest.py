"""What every test shares: a seed that can be given again, and an environment that is the same on every machine."""

import ctypes
import os
import random
import time
from pathlib import Path

import pytest

PR_SET_CHILD_SUBREAPER = 36
ORPHAN_SECONDS = 30.0


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="seed of the randomised tests, to repeat a run (default: a new one)")


def pytest_configure(config):
    # Whoever loses its parent becomes a child of ours, and can be seen.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if config.option.seed is None:
        # As an option it reaches the workers of pytest-xdist, too.
        config.option.seed = random.randrange(2**32)
    # The last two are the size of the terminal, which pytest-xdist tells its workers.
    for name in [name for name in os.environ if name.startswith(("APPLIANCE_", "HF_", "COLUMNS", "LINES"))]:
        del os.environ[name]
    # However full the disk of this machine is: what keeps a reserve free is tried with disks of its own.
    os.environ["APPLIANCE_DISK_RESERVE_GB"] = "0"


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"seed of the randomised tests: {config.option.seed} (repeat with --seed)")


@pytest.fixture
def rng(request) -> random.Random:
    """Chance of this test's own: the same for the same seed, whichever other tests run."""
    return random.Random(f"{request.config.option.seed} {request.node.nodeid}")


@pytest.fixture(scope="session")
def trained_job(tmp_path_factory):
    """A tiny job that really trained, in one go. Tests that change it work on a copy."""
    from tests.training_jobs import NOISE, ready_to_train, start_training

    job = ready_to_train(tmp_path_factory.mktemp("trained"), **NOISE)
    assert start_training(job).wait(120) == 0, (job.path / "train" / "stage.log").read_text()[-3000:]
    return job


@pytest.fixture(autouse=True)
def no_stage_outlives_its_test():
    """Whatever was killed in a test: no stage of it may still run, with or without its parent."""
    yield
    end = time.monotonic() + ORPHAN_SECONDS
    while left := stages_of_ours():
        assert time.monotonic() < end, f"stages that outlived the test: {left}"
        time.sleep(0.02)


def stages_of_ours() -> dict[int, str]:
    """The stages, real and made up, whose parent is this process or was somebody that died."""
    found = {}
    for pid in {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        # A process that has ended and was not waited for has no command any more.
        if "appliance.stages" in command or "fake_stage.py" in command:
            found[int(pid)] = command
    return found
