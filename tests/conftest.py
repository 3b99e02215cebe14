"""What every test shares: a seed that can be given again, and an environment that is the same on every machine."""

import ctypes
import os
import random
import signal
import time
from contextlib import suppress

import hypothesis
import pytest

from tests.leftovers import Process, left_running, running

# How long an example takes says more of what else runs on the machine.
hypothesis.settings.register_profile("here", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("here")

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


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_tests():
    """Not even what a fixture for several tests held."""
    before = running()
    yield
    assert_none_left(before, with_held=True)


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """Whatever was killed in a test: nothing of it may still run, with or without its parent."""
    before = running()
    yield
    assert_none_left(before)


def assert_none_left(before: frozenset[Process], *, with_held: bool = False) -> None:
    """Wait for what ends by itself; end the rest, which is none of the next test's business, and say what it was."""
    end = time.monotonic() + ORPHAN_SECONDS
    while left := left_running(before, with_held=with_held):
        if time.monotonic() > end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail(f"processes that outlived the test: {left}")
        time.sleep(0.02)
