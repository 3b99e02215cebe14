"""What a test left running: any process below this one, whatever it is called, in whichever session or group it runs.

This process is the subreaper of all that it starts (conftest.py): whoever loses its parent becomes a child of ours. So
every worker of pytest-xdist sees its own, and nobody else's.
"""

from pathlib import Path

from appliance.processes import started_at

# A pid with the time that its process began: one process for good.
Process = tuple[int, int]

_held: set[Process] = set()


def hold(pid: int) -> None:
    """Let a process outlive the test that starts it: a fixture for several tests holds it, and ends it."""
    _held.update(_known(pid))


def running() -> frozenset[Process]:
    """The children of this process that run now."""
    return frozenset(process for pid in _children("self") for process in _known(pid))


def left_running(before: frozenset[Process], *, with_held: bool = False) -> dict[int, str]:
    """The commands of what runs below this process, but for what ran `before` or is held, and what these started."""
    found: dict[int, str] = {}
    # Twice: one that loses its parent meanwhile is on its way to us, and nobody's child in the first look.
    for _ in range(2):
        _look_below("self", before if with_held else before | _held, found)
    return found


def _look_below(pid: int | str, spared: frozenset[Process], found: dict[int, str]) -> None:
    for child in _children(pid):
        known = _known(child)
        if not known or known <= spared:
            continue
        if command := _command(child):
            found[child] = command
        _look_below(child, spared, found)


def _children(pid: int | str) -> list[int]:
    children: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children.update(map(int, path.read_text().split()))
        except OSError:
            continue
    return sorted(children)


def _known(pid: int) -> frozenset[Process]:
    """The process of that number; none when it is gone."""
    started = started_at(pid)
    return frozenset() if started is None else frozenset({(pid, started)})


def _command(pid: int) -> str:
    """What a process was started with; nothing when it has ended, whether or not anybody waited for it."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        # Empty is that of an ended process, and for a moment that of one which becomes another program.
        return command or _name_of_running(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return ""


def _name_of_running(status: str) -> str:
    before, _, after = status.rpartition(")")
    ended = after.split()[0] in "ZX"
    return "" if ended else before.partition("(")[2]
