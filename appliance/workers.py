"""The same work on every core: batches go in turn to forked copies of this process, and come back in order."""

import ctypes
import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, Final, TypeVar

from appliance.errors import StageFailure
from appliance.job import FailureClass

_PR_SET_PDEATHSIG: Final = 1
# What a worker ends with when memory ran out in it; an error of ours ends it with 1.
_NO_MEMORY: Final = 3

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def spread(work: Callable[[Batch], Result], batches: Iterable[Batch], workers: int) -> Iterator[Result]:
    """`map(work, batches)`, at most `workers` batches at a time.

    Raises StageFailure `worker_crashed` when a worker is killed or runs out of memory, EOFError when `work` fails.
    Forked and not started anew: a worker has everything that `work` needs, loaded and proven.
    """
    crew = [_hire(work) for _ in range(workers)]
    try:
        yield from _in_turn(batches, crew)
    finally:
        for worker in crew:
            worker.dismiss()


@dataclass(frozen=True)
class _Worker:
    process: ForkProcess
    connection: Connection

    def send(self, batch: object) -> None:
        with self._death_explained():
            self.connection.send(batch)

    def recv(self) -> Any:  # noqa: ANN401 (whatever the work makes)
        with self._death_explained():
            return self.connection.recv()

    def dismiss(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    @contextmanager
    def _death_explained(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self.process.join()
            code = self.process.exitcode or 0
            if code == _NO_MEMORY or code < 0:
                raise StageFailure(FailureClass.WORKER_CRASHED, _death(code)) from None
            raise EOFError("a worker met an error; what it was stands above") from error


def _death(code: int) -> str:
    """What is said of a worker that was killed. The kernel and earlyoom take one process, not the whole stage."""
    if code == _NO_MEMORY:
        return "memory ran out in one of the processes that share the work"
    name = signal.Signals(-code).name
    return f"one of the processes that share the work was ended by {name}, most likely because memory ran out"


def _in_turn(batches: Iterable[Batch], crew: list[_Worker]) -> Iterator[Result]:
    idle, busy = list(crew), deque[_Worker]()
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


def _hire(work: Callable[[Batch], Result]) -> _Worker:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(work: Callable[[Batch], Result], connection: Connection, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Whoever stops the stage stops it as a whole: a worker that alone is told to end has been killed.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # What is loaded stays: looking for garbage in it would cost time, and copies of its memory.
    gc.freeze()
    # There is a process for every core already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        while True:
            connection.send(work(connection.recv()))
    except MemoryError:
        os._exit(_NO_MEMORY)
