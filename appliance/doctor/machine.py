"""Memory, kernel, user, and the versions of what is installed."""

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from appliance import __version__, sandbox, surroundings
from appliance.doctor.finding import Finding, ok, problem, warning
from appliance.hardware import this_machine
from appliance.memory import memory_reserve_bytes, read_memory
from appliance.settings import Settings
from appliance.texts.wording import size

GB: Final = 10**9
DISTRIBUTION: Final = "spark-appliance"
# Below this nothing but the demo's own model can be trained.
LEAST_MEMORY_BYTES: Final = 4 * GB
_SWAPS: Final = Path("/proc/swaps")
# The 7.0 kernels of DGX OS are known to hang a Spark under load.
_HANGING_KERNEL: Final = re.compile(r"7\.0\.0-\d+-nvidia")


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Enough memory beyond the reserve; on a machine whose GPU shares it, no swap to thrash in."""
    memory = read_memory()
    reserve = memory_reserve_bytes(settings, memory.total_bytes, unified=this_machine(settings).unified)
    facts = {"total_bytes": memory.total_bytes, "available_bytes": memory.available_bytes}
    said = f"{size(memory.available_bytes)} of {size(memory.total_bytes)} memory available"
    if memory.total_bytes < LEAST_MEMORY_BYTES:
        yield problem("memory", f"{said}: too little to train anything", "use a machine with more memory", facts)
    elif memory.available_bytes <= reserve:
        message = f"{said}, and {size(reserve)} are kept in reserve: trainings would wait"
        look = surroundings.on_host("ps aux --sort=-rss | head")
        yield warning("memory", message, f"stop what uses it (`{look}`), or lower APPLIANCE_MEMORY_RESERVE_GB", facts)
    else:
        yield ok("memory", said, facts)
    if surroundings.is_spark() and len(_SWAPS.read_text().splitlines()) > 1:
        message = "swap is on: running out of memory then wedges a Spark for minutes before anything can act"
        yield warning("swap", message, surroundings.on_host("sudo swapoff -a (docs/install.md makes it last)"))


def check_host(_settings: Settings) -> Iterator[Finding]:
    """Kernel and user."""
    release, user = platform.release(), os.geteuid()
    facts = {"kernel": release, "machine": platform.machine()}
    if _HANGING_KERNEL.fullmatch(release):
        message = f"kernel {release} is known to hang under load on a DGX Spark"
        yield warning("kernel", message, surroundings.on_host("boot a 6.17 kernel (docs/install.md)"), facts)
    else:
        yield ok("kernel", f"Linux {release} on {platform.machine()}", facts)
    if user == 0 and surroundings.in_container():
        remedy = surroundings.on_host("set PUID and PGID in .env (`make secrets` does), then docker compose up -d")
        yield warning("user", "the appliance runs as root in its container", remedy)
    else:
        yield ok("user", f"runs as user {user}, group {os.getegid()}", {"uid": user, "gid": os.getegid()})


def check_isolation(_settings: Settings) -> Iterator[Finding]:
    """The kernel can take from a training what it does not need."""
    version = sandbox.landlock_version()
    if version == 0:
        message = "the kernel has no Landlock: trainings cannot be kept from reading secrets and other jobs' rows"
        remedy = surroundings.on_host("add landlock to the kernel's lsm= list (cat /sys/kernel/security/lsm)")
        yield warning("isolation", message, remedy, {"landlock": 0})
    else:
        message = f"trainings get no internet socket and see no secret (Landlock {version})"
        yield ok("isolation", message, {"landlock": version})


def check_versions(settings: Settings) -> Iterator[Finding]:
    """The training stack is there in the versions that work together, built for the hardware that is here."""
    wanted = _training_stack()
    found = {requirement.name: _installed(requirement.name) for requirement in wanted}
    wrong = [
        f"{requirement.name} {found[requirement.name] or 'missing'} (wanted {requirement.specifier or 'any'})"
        for requirement in wanted
        if not requirement.specifier.contains(found[requirement.name] or "0", prereleases=True)
        or found[requirement.name] is None
    ]
    if wrong:
        yield problem("versions", f"the training stack is not what was tested: {', '.join(wrong)}", _reinstall())
        return
    yield ok("versions", f"appliance {__version__}, torch {found['torch']}, unsloth {found['unsloth']}", found)
    if this_machine(settings).kind == "gpu" and _installed("cuda-toolkit") is None:
        yield problem("versions", "there is a GPU, and torch was installed without CUDA", _reinstall())


def _training_stack() -> list[Requirement]:
    requirements = map(Requirement, metadata.requires(DISTRIBUTION) or ())
    return [one for one in requirements if one.marker is not None and one.marker.evaluate({"extra": "training"})]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _reinstall() -> str:
    if surroundings.in_container():
        return surroundings.on_host("docker compose build --pull && docker compose up -d")
    return "make install"
