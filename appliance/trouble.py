"""What goes wrong with the files of one job: who hears of it, and in which words. Pure."""

import os
from collections.abc import Callable
from pathlib import PurePath

Told = Callable[[BaseException], object]
"""Told of an error with the files of one job, by which no other is held up: a full disk is everybody's all the same."""


def nobody_told(error: BaseException) -> None:
    pass


def trouble_with(error: Exception) -> str:
    """What keeps a job from going on, for people."""
    if isinstance(error, OSError):
        # What is written whole is written beside its place first, under a name that nobody knows.
        path = error.filename2 or error.filename
        name = PurePath(os.fsdecode(path)).name if path else "something"
        return f"{name} in its folder cannot be used ({error.strerror or error}); the log says where it lies"
    return f"a fault of the appliance's own holds it up ({type(error).__name__}); the log has the details"
