"""The end of a process in which a thread hangs on a share."""

import logging
import os
import sys
import threading
import time
from typing import Final

logger = logging.getLogger(__name__)

LEAVE_SECONDS: Final = 5.0


def leave_hanging_behind(code: int) -> None:
    """End at once, with `code`, where a thread hangs on a share: Python would wait for it for as long as that takes."""
    end = time.monotonic() + LEAVE_SECONDS
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.current_thread()]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    if hanging := [thread.name for thread in others if thread.is_alive()]:
        logger.warning("not waited for, still busy or without an answer: %s", ", ".join(hanging))
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
