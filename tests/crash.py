"""Crashing at every line: run a piece of work in a forked child and kill it with SIGKILL at the k-th line of ours.

The child is forked from the test, so that a crash point costs no imports; only the named modules are traced.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from types import FrameType, ModuleType
from typing import Any

FINISHED, FAULT = 0, 70


def crash_at(line: int, modules: Collection[ModuleType], work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies at its `line`-th traced line. False when it finished before that line.

    Raises AssertionError when the work failed by itself.
    """
    pid = os.fork()
    if pid == 0:
        _run_child(line, {str(module.__file__) for module in modules}, work)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == FINISHED, "the work failed without being killed"
    return os.WIFSIGNALED(status)


def count_lines(modules: Collection[ModuleType], work: Callable[[], object]) -> int:
    """How many traced lines `work` has when nothing kills it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(0, {str(module.__file__) for module in modules}, work, report=writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        counted = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(status) == FINISHED, "the work failed without being killed"
    return int(counted)


def _run_child(line: int, files: set[str], work: Callable[[], object], *, report: int | None = None) -> None:
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    code = FINISHED
    try:
        sys.settrace(trace)
        work()
        sys.settrace(None)
        if report is not None:
            os.write(report, str(seen).encode())
    except BaseException:
        sys.settrace(None)
        traceback.print_exc()
        code = FAULT
    os._exit(code)
