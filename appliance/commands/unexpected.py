"""What a command says at its end of an error that it did not expect: a sentence and what to do, never a traceback."""

import errno
import os
import sys
import tempfile
import traceback
from typing import Final

from appliance.names import printable

# What the operating system refuses because of how this machine is set up, and what would change that.
_REMEDIES: Final = {
    errno.EACCES: "Let user {user} read and write it, and enter the folders above it.",
    errno.EPERM: "Let user {user} read and write it, and enter the folders above it.",
    errno.EROFS: "Mount its volume writable.",
    errno.ENOSPC: "Make room on its disk.",
    errno.EDQUOT: "Make room, or ask for a larger quota.",
    errno.EIO: "Look at the kernel's log: its disk may be failing.",
    errno.ESTALE: "Mount its share again.",
    errno.EEXIST: "Move away what has that name, or name another.",
    errno.ENOTDIR: "Move away what lies where a folder should be, or name another.",
}


def refused(error: OSError) -> int | None:
    """Say what the operating system refused, and return the exit code; None when it may be a fault of ours."""
    if error.errno not in _REMEDIES:
        return None
    named = isinstance(error.filename, str | bytes)
    place = f"{printable(os.fsdecode(error.filename))}: " if named else ""
    print(f"{place}{error.strerror}", file=sys.stderr)
    print(_REMEDIES[error.errno].format(user=os.geteuid()), file=sys.stderr)
    return 3


def report(error: Exception) -> int:
    """Say that it is a fault of ours, keep the traceback in a file for us, and return the exit code."""
    with tempfile.NamedTemporaryFile("w", prefix="appliance-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    print(f"the appliance met a fault of its own ({type(error).__name__}: {error})", file=sys.stderr)
    print(f"Please report it together with {file.name}.", file=sys.stderr)
    return 1
