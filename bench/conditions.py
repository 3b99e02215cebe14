"""Under which conditions a figure was measured: what every result in bench/results/ says beside its figures."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def conditions(*packages: str) -> dict[str, Any]:
    """`command`, `machine` (its load now) and `versions` of Python and these packages. No path of this machine."""
    module = sys.modules["__main__"].__spec__
    program = f"-m {module.name}" if module else f"bench/{Path(sys.argv[0]).name}"
    return {
        "command": " ".join(["python", program, *sys.argv[1:]]),
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
    }
