"""Being somebody else for a moment."""

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may read and write anything: be nobody for a moment."""
    user = os.geteuid()
    # Python may lie where nobody may read, and a codec that was not found once is never found again.
    codecs.lookup("utf-8-sig")
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
