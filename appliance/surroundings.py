"""Where we run, as far as advice depends on it: a command for the host is another one inside a container."""

import os
from pathlib import Path
from typing import Final

# Set by our image: there, and only there, the advice is about compose.yaml.
IMAGE: Final = "SPARK_APPLIANCE_IMAGE"
PRODUCT: Final = Path("/sys/class/dmi/id/product_name")
# Below it compose.yaml mounts what lies in secrets/ on the host, under the same names.
MOUNTED_SECRETS: Final = Path("/run/secrets")
# Volumes of compose.yaml, which no folder on the host stands for.
_VOLUMES: Final = ("state", "models")
_ON_THE_HOST: Final = "on the host, in the folder of compose.yaml: "


def in_container() -> bool:
    return IMAGE in os.environ


def give(path: Path, *, recursive: bool = False) -> str:
    """The command that makes `path` ours."""
    owner = f"{os.geteuid()}:{os.getegid()}"
    flag = "-R " if recursive else ""
    if not in_container():
        return f"sudo chown {flag}{owner} {path.resolve()}"
    if path.name in _VOLUMES:
        run = f"docker run --rm --user 0 --volume spark-appliance_{path.name}:/{path.name} --entrypoint chown"
        return f"{_ON_THE_HOST}{run} spark-appliance {flag}{owner} /{path.name}"
    folder = f"secrets/{path.name}" if path.parent == MOUNTED_SECRETS else path.name
    return f"{_ON_THE_HOST}sudo chown {flag}{owner} {folder}"


def on_host(command: str) -> str:
    """`command`, with where to type it."""
    return f"{_ON_THE_HOST}{command}" if in_container() else command


def is_spark() -> bool:
    """Whether this is a DGX Spark or another machine of its kind, by the name its firmware gives it."""
    try:
        return "spark" in PRODUCT.read_text().lower()
    except OSError:
        return False
