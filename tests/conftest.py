"""What every test shares: a seed that can be given again, and an environment without the developer's own settings."""

import os
import random

import pytest

SEED = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="seed of the randomised tests, to repeat a run (default: a new one)")


def pytest_configure(config):
    seed = config.getoption("--seed")
    config.stash[SEED] = random.randrange(2**32) if seed is None else seed
    for name in [name for name in os.environ if name.startswith(("APPLIANCE_", "HF_"))]:
        del os.environ[name]


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"seed of the randomised tests: {config.stash[SEED]} (repeat with --seed)")


@pytest.fixture
def rng(request) -> random.Random:
    """Chance of this test's own: the same for the same seed, whichever other tests run."""
    return random.Random(f"{request.config.stash[SEED]} {request.node.nodeid}")


@pytest.fixture(scope="session")
def trained_job(tmp_path_factory):
    """A tiny job that really trained, in one go. Tests that change it work on a copy."""
    from tests.training_jobs import NOISE, ready_to_train, start_training

    job = ready_to_train(tmp_path_factory.mktemp("trained"), **NOISE)
    assert start_training(job).wait(120) == 0, (job.path / "train" / "stage.log").read_text()[-3000:]
    return job
