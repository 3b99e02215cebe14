"""One daemon a state directory."""

import fcntl
import os
import socket
from pathlib import Path

from appliance.errors import ApplianceError


class AlreadyRunningError(ApplianceError):
    """Another daemon works on this state directory."""

    exit_code = 3


class InstanceLock:
    """Held for the life of the process; the kernel lets go of it however the process ends."""

    def __init__(self, state: Path) -> None:
        """Take the lock, or raise AlreadyRunningError naming who holds it."""
        self._file = (state / "lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "an unknown process"
            self._file.close()
            raise AlreadyRunningError(
                f"another appliance works on {state}: {holder}",
                hint="Stop that one first, or give this one a state directory of its own (APPLIANCE_STATE).",
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()
