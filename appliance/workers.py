"""The same work on every core: batches go in turn to forked copies of this process, and come back in order."""

import ctypes
import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Final, TypeVar

_PR_SET_PDEATHSIG: Final = 1

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def spread(work: Callable[[Batch], Result], batches: Iterable[Batch], workers: int) -> Iterator[Result]:
    """`map(work, batches)`, at most `workers` batches at a time. Raises EOFError when a worker dies.

    Forked and not started anew: a worker has everything that `work` needs, loaded and proven.
    """
    crew = [_hire(work) for _ in range(workers)]
    try:
        yield from _in_turn(batches, [connection for _, connection in crew])
    finally:
        for process, connection in crew:
            connection.close()
            process.kill()
            process.join()


def _in_turn(batches: Iterable[Batch], crew: list[Connection]) -> Iterator[Result]:
    idle, busy = list(crew), deque[Connection]()
    for batch in batches:
        if idle:
            busy.append(idle.pop())
            busy[-1].send(batch)
            continue
        worker = busy.popleft()
        result: Result = worker.recv()
        # Only now: a worker that is still sending does not read, and both would wait for ever.
        worker.send(batch)
        busy.append(worker)
        yield result
    while busy:
        yield busy.popleft().recv()


def _hire(work: Callable[[Batch], Result]) -> tuple[ForkProcess, Connection]:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _serve(work: Callable[[Batch], Result], connection: Connection, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # What is loaded stays: looking for garbage in it would cost time, and copies of its memory.
    gc.freeze()
    # There is a process for every core already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    while True:
        connection.send(work(connection.recv()))
