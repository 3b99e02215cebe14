"""earlyoom, where the host has it: it may act only where the guard should have acted long before."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from getopt import GetoptError, gnu_getopt
from pathlib import Path
from typing import Final

from appliance import surroundings
from appliance.doctor.finding import Finding, ok, warning
from appliance.memory import memory_floors, read_memory
from appliance.settings import Settings
from appliance.texts.wording import size

# What the package's service starts it with; our image does not see the host's.
DEFAULTS: Final = Path("/etc/default/earlyoom")
# Of the memory, in percent, where no argument says otherwise.
_USUAL_PERCENT: Final = 10.0
_ASSIGNMENT: Final = re.compile(r"^\s*EARLYOOM_ARGS=(.*?)\s*$", re.MULTILINE)
_SHORT: Final = "m:s:M:S:r:w:N:P:kidvpngh"
_LONG: Final = ["prefer=", "avoid=", "ignore=", "ignore-root-user", "sort-by-rss", "dryrun", "debug", "syslog", "help"]
_MEND: Final = "sudo cp container/host/earlyoom /etc/default/earlyoom && sudo systemctl restart earlyoom"


def check_earlyoom(settings: Settings) -> Iterator[Finding]:
    """Where it is set up, it waits until memory is below the floor at which the guard kills."""
    total = read_memory().total_bytes
    threshold = None if surroundings.in_container() else _set_up(total)
    if threshold is None:
        return
    floor = memory_floors(settings, total).second_bytes
    facts = {"threshold_bytes": int(threshold), "kill_floor_bytes": floor}
    said = f"earlyoom acts below {size(threshold)} of free memory"
    if threshold > floor:
        message = f"{said}, the guard kills only below {size(floor)}: earlyoom would end trainings that fit"
        yield warning("earlyoom", message, _MEND, facts)
    else:
        yield ok("earlyoom", f"{said}, later than the guard", facts)


def _set_up(total_bytes: int) -> float | None:
    with suppress(OSError, UnicodeDecodeError):
        return threshold_bytes(DEFAULTS.read_text(), total_bytes)
    return None


def threshold_bytes(text: str, total_bytes: int) -> float | None:
    """Available memory below which earlyoom ends a process, by the text of its file of defaults.

    None when it never does, or has arguments that are not known here.
    """
    try:
        given, _ = gnu_getopt(_arguments(text), _SHORT, _LONG)
        options = dict(given)
        if "--dryrun" in options:
            return None
        found = [_first(options["-m"]) / 100 * total_bytes] if "-m" in options else []
        found += [_first(options["-M"]) * 1024] if "-M" in options else []
    except (GetoptError, ValueError):
        return None
    # Of a share and a size the lower one counts.
    return min(found, default=_USUAL_PERCENT / 100 * total_bytes)


def _arguments(text: str) -> list[str]:
    values = _ASSIGNMENT.findall(text)
    value = values[-1] if values else ""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return shlex.split(value)


def _first(value: str) -> float:
    """When it asks to end; after a comma stands when it kills, which is lower."""
    return float(value.partition(",")[0])
