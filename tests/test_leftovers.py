"""A process that a test leaves behind is found, whatever it is and wherever it hides; what is held is not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import leftovers
from tests.leftovers import hold, left_running, running
from tests.waiting import until

pytest_plugins = "pytester"

# How each starts `sleep`, and whether in a new session.
WAYS = {
    "a child": ("exec sleep 300", False),
    "a child's child": ("sleep 300; true", False),
    "one that lost its parent": ("sleep 300 &", False),
    "one in a session of its own": ("exec sleep 300", True),
    "one that lost the leader of its session": ("sleep 300 & exec sleep 0", True),
    "one that lost its parent and hides in a session": ("setsid sleep 300 &", False),
    "one without a variable": ("exec env -i /bin/sleep 300", False),
}


@contextmanager
def planted(way: str) -> Iterator[int]:
    """A process as a test may leave it; it is ended here."""
    script, session = WAYS[way]
    quiet = subprocess.DEVNULL
    shell = subprocess.Popen(["sh", "-c", script], start_new_session=session, stdout=quiet, stderr=quiet)
    try:
        until(sleepers)
        (pid,) = sleepers()
        yield pid
    finally:
        left = sleepers()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shell.wait()
        for pid in left:
            # Whoever lost its parent is a child of ours by now.
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def sleepers() -> list[int]:
    """Those that sleep by now: a shell about to become one has its words in its command as well."""
    running = left_running(frozenset(), with_held=True)
    return [pid for pid, command in running.items() if command in ("sleep 300", "/bin/sleep 300")]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_test_leaves_behind_is_found(way: str):
    before = running()
    with planted(way) as pid:
        assert "sleep 300" in left_running(before)[pid]
    until(lambda: left_running(before) == {})


def test_what_ran_before_the_test_and_what_is_held_is_spared_with_all_that_it_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leftovers, "_held", set())
    before = running()
    program = "import subprocess, sys; subprocess.run(['sleep', '300']); sys.exit()"
    holder = subprocess.Popen([sys.executable, "-c", program])
    until(lambda: sleepers())
    assert set(left_running(before)) == {holder.pid, *sleepers()}
    assert left_running(running()) == {}
    hold(holder.pid)
    assert left_running(before) == {}
    assert holder.pid in left_running(before, with_held=True)
    # What loses the one that held it is left behind.
    (child,) = sleepers()
    holder.kill()
    holder.wait()
    assert set(left_running(before)) == {child}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_leak_fails_the_test_that_left_it_and_not_the_one_beside_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    """With the conftest of these tests, in two workers beside one another."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makeconftest("from tests import conftest\nconftest.ORPHAN_SECONDS = 1.0\nfrom tests.conftest import *\n")
    leak = "import subprocess\ndef test_leak():\n    subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
    pytester.makepyfile(
        test_a=leak + "def test_next():\n    pass\n",
        test_b="import time\n" + "".join(f"def test_{n}():\n    time.sleep(0.5)\n" for n in range(3)),
    )
    result = pytester.runpytest_subprocess("-n", "2", "--dist", "loadfile", "-W", "ignore")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*processes that outlived the test: *sleep 300*"])
