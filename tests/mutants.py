"""Planting a bug: one line of a real function is changed, and a harness must notice."""

import inspect
import textwrap
from typing import Any

import pytest


def plant(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str, **more: object) -> None:
    """Replace one line of the function `owner.name`; `more` are names that the new line uses."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{name} has no line {old!r} to change"
    # Compiled under its own file name: the crash harness counts lines by it.
    code = compile(source.replace(old, new), inspect.getsourcefile(function) or "", "exec")
    scope = {**function.__globals__, **more}
    exec(code, scope)
    monkeypatch.setattr(owner, name, scope[name])
