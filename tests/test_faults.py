"""The n-th file operation fails, once or from then on, with every error that disks and shares have: no promise breaks.

Over the intake, and over a job's whole way with its checkpoints, its retry and its publishing. The faults are injected
below Python, between libc and the program, SQLite's own operations among them.
"""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line import fast_folder

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE]
WAYS = ["once", "lasting"]
SOURCE = Path(__file__).with_name("faults.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
    return library


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=fast_folder(tmp_path)))
    yield folder
    shutil.rmtree(folder)


def inject(library: Path, folder: Path, scenario: str, number: int, way: str, points: list[int]) -> list[dict]:
    """What came of each point. The library is loaded before all others, in a process of its own."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.faulty", scenario, str(folder), str(number), way, ",".join(map(str, points))],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    return [json.loads(line) for line in said.stdout.splitlines()]


def operations(library: Path, folder: Path, scenario: str) -> int:
    (counted,) = inject(library, folder, scenario, errno.EIO, "once", [0])
    return counted["seen"]


def assert_kept(ends: list[dict], number: int, way: str) -> None:
    broken = [f"operation {end['n']}: {end['end']}" for end in ends if "BROKEN" in end["end"]]
    assert broken == [], (errno.errorcode[number], way)


@pytest.mark.parametrize("scenario", ["intake", "job"])
def test_a_file_operation_that_fails_breaks_no_promise(library: Path, folder: Path, scenario: str, rng: random.Random):
    """A seeded sample; the long tier takes every operation, every error, both ways."""
    total = operations(library, folder, scenario)
    assert total > 50
    for number, way in zip(rng.sample(ERRORS, 5), ["once", "lasting", "once", "lasting", "once"], strict=True):
        points = sorted(rng.sample(range(1, total + 1), 6))
        assert_kept(inject(library, folder, scenario, number, way, points), number, way)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", ERRORS, ids=[errno.errorcode[number] for number in ERRORS])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scenario", ["intake", "job"])
def test_every_file_operation_may_fail(library: Path, folder: Path, scenario: str, number: int, way: str):
    points = list(range(1, operations(library, folder, scenario) + 1))
    assert_kept(inject(library, folder, scenario, number, way, points), number, way)
