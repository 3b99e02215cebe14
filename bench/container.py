"""How large the images are, and how soon after its container's start the daemon serves. Baseline: Debian's own shell.

    python -m bench.container

Needs what `make test-container` needs. The result goes to bench/results/container.json.
"""

import json
import statistics
import sys
import time
from datetime import datetime
from typing import Final

from bench.conditions import conditions
from tests.container import images
from tests.container.engine import BASE_IMAGE, ROOT, Engine, NoEngine, find_engine
from tests.container.stack import Stack

STARTS: Final = 5
RESULT: Final = ROOT / "bench" / "results" / "container.json"


def main() -> int:
    try:
        engine = find_engine()
        images.build(engine)
    except NoEngine as reason:
        print(f"nothing was measured: {reason}", file=sys.stderr)
        return 3
    try:
        measured = measure(engine)
    finally:
        engine.stop()
    RESULT.write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    return 0


def measure(engine: Engine) -> dict[str, object]:
    stack = Stack(engine, name="bench")
    stack.remove()
    stack.lay_out()
    try:
        stack.compose("up", "--detach", "--wait", "appliance")
        ready = [start(stack) for _ in range(STARTS)]
    finally:
        stack.remove()
    shell = [seconds(engine) for _ in range(STARTS)]
    sizes = {name: size(engine, name) for name in (images.APPLIANCE, images.SHARE, BASE_IMAGE)}
    return {
        "engine": engine.docker("version", "--format", "{{.Server.Version}}").strip(),
        **conditions(),
        "image_bytes": sizes,
        "appliance_image_to_base": round(sizes[images.APPLIANCE] / sizes[BASE_IMAGE], 1),
        "serving_after_container_start_seconds": {"median": statistics.median(ready), "all": ready},
        "shell_run_and_removed_seconds": {"median": statistics.median(shell), "all": shell},
    }


def start(stack: Stack) -> float:
    """Seconds from the start of the appliance's container to its own word that it serves."""
    stack.compose("restart", "appliance")
    begun = stack.inspect()["State"]["StartedAt"]

    def served() -> str | None:
        log = stack.engine.run("logs", "--timestamps", "--since", begun, stack.container()).stderr
        return next((line.split()[0] for line in log.splitlines() if " serving " in line), None)

    return round(moment(stack.wait(served, "it serves")) - moment(begun), 2)


def moment(text: str) -> float:
    """Docker writes nanoseconds, of which Python takes the first six digits."""
    return datetime.fromisoformat(text.rstrip("Z")[:26] + "+00:00").timestamp()


def seconds(engine: Engine) -> float:
    begun = time.monotonic()
    engine.docker("run", "--rm", BASE_IMAGE, "true")
    return round(time.monotonic() - begun, 2)


def size(engine: Engine, name: str) -> int:
    return int(engine.docker("image", "inspect", name, "--format", "{{.Size}}"))


if __name__ == "__main__":
    sys.exit(main())
