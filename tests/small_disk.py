"""A disk that is easily full: a small file system in memory, mounted for a while; skips where that is forbidden."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """`folder` on a file system of `size` bytes; what is on it is gone afterwards."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a file that a dying process still holds open must not fail the test.
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)
