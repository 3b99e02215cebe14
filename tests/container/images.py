"""`make image`: the images, built for real. Where no registry can be reached, also what they and the stack stand on.

`python -m tests.container.images`, with the standard library only.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.container.engine import ROOT, TRIES, Engine, NoEngine, ensure_base_image, find_engine

APPLIANCE: Final = "spark-appliance:latest"
SHARE: Final = "spark-appliance-share:latest"
WHEELS: Final = ROOT / "requirements" / "wheels"
FILES: Final = ("--file", "compose.yaml", "--file", "compose.cpu.yaml")

# Debian's Prometheus where the real image has its own, with the same paths, user and entry point.
PROMETHEUS: Final = """
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65534 -g 65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""
# Grafana cannot be had without a registry. This one only shows what happens around its start.
GRAFANA: Final = r"""
FROM debian:bookworm-slim
RUN printf '#!/bin/sh\necho stand-in started\nexec sleep 600\n' >/run.sh \
 && chmod +x /run.sh \
 && mkdir -m 0777 /var/lib/grafana
ENTRYPOINT ["/run.sh"]
"""


def build(engine: Engine, *, gpu: bool = False, say: Callable[[str], None] = print) -> None:
    """Appliance and share, as compose.yaml names them; for a machine without a GPU unless `gpu`."""
    ensure_base_image(engine)
    offline = not gpu and fetch_wheels()
    files = FILES[:2] if gpu else FILES
    environment = {**engine.environment, "PIP_OPTIONS": "--no-index" if offline else "", "REVISION": revision()}
    for attempt in range(1, TRIES + 1):
        done = engine.run("compose", *files, "build", "appliance", "share", timeout=1500, cwd=ROOT, env=environment)
        if done.returncode == 0:
            return
        say(f"docker compose build failed, try {attempt} of {TRIES}: {(done.stdout + done.stderr)[-1500:]}")
        time.sleep(5 * attempt)
    raise AssertionError(f"the images cannot be built: {(done.stdout + done.stderr)[-4000:]}")


def revision() -> str:
    """The commit that is built, and whether it was changed since."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build_stand_ins(engine: Engine, tags: dict[str, str]) -> None:
    """Stand-ins under the names that compose.yaml has, unless the real ones are there."""
    for service, dockerfile in (("prometheus", PROMETHEUS), ("grafana", GRAFANA)):
        if not engine.has_image(tags[service]):
            engine.docker("build", "--tag", tags[service], "-", input=dockerfile)


def fetch_wheels() -> bool:
    """Everything that the CPU image installs, checked against the lock, by the pip of this machine.

    False where that fails: the build then asks the index that pip has inside the image.
    """
    pip = [ROOT / ".venv" / "bin" / "python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", WHEELS]
    wanted = (["--require-hashes", "--requirement", "requirements/cpu.lock"], ["-r", "requirements/cpu-torch.txt"])
    for words in wanted:
        command = [*pip, "--find-links", WHEELS, *words]
        done = subprocess.run(command, cwd=ROOT, timeout=1200, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"pip here has no wheels for the image: {done.stderr.strip()[-500:]}")
            return False
    return True


def main() -> int:
    try:
        engine = find_engine()
    except NoEngine as reason:
        print(f"no image was built: {reason}", file=sys.stderr)
        return 3
    build(engine, gpu=Path("/proc/driver/nvidia/version").exists())
    for name in (APPLIANCE, SHARE):
        print(f"{name}: {int(engine.docker('image', 'inspect', name, '--format', '{{.Size}}')) / 1e9:.2f} GB")
    host = engine.environment.get("DOCKER_HOST")
    if host:
        print(f"export DOCKER_HOST={host} DOCKER_CONFIG={engine.environment.get('DOCKER_CONFIG', '')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
