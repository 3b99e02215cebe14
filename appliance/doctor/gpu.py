"""The GPU and its driver, by NVML. Every reading is optional: a Spark does not answer all of them."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pynvml

from appliance import surroundings
from appliance.doctor.finding import Finding, ok, problem, warning
from appliance.settings import Settings

PCI: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAY_CLASS: Final = "0x03"
# What the CUDA 13 libraries of the lock files need.
OLDEST_DRIVER: Final = 580
OLDEST_CUDA: Final = 13000
OLDEST_CAPABILITY: Final = (7, 5)
_UPDATE_SPARK: Final = "sudo apt update && sudo apt full-upgrade && sudo reboot"
_UPDATE: Final = "sudo apt install nvidia-driver-580-open && sudo reboot"


def check_gpu(_settings: Settings) -> Iterator[Finding]:
    """There is a GPU that the training code can use, with a driver that is new enough."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield _no_gpu(str(error))
        return
    try:
        yield from _look(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        yield problem("gpu", f"the GPU does not answer: {error}", surroundings.on_host("sudo nvidia-smi; sudo reboot"))
    finally:
        pynvml.nvmlShutdown()


def _no_gpu(why: str) -> Finding:
    """A card that is plugged in and does not answer is a fault; none at all is a machine for trying things out."""
    if not _card_is_plugged_in():
        message = f"no NVIDIA GPU ({why}): trainings run on the CPU, which is fine for the demo and little else"
        return warning("gpu", message, None)
    if surroundings.in_container():
        command = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
        message = f"this machine has an NVIDIA GPU that the container was not given ({why})"
        return problem("gpu", message, f"{surroundings.on_host(command)}, then docker compose up -d without a cpu file")
    return problem("gpu", f"there is an NVIDIA GPU whose driver does not answer ({why})", update_driver())


def _card_is_plugged_in() -> bool:
    for device in PCI.glob("*") if PCI.is_dir() else ():
        with suppress(OSError):
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
            if vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASS):
                return True
    return False


def _look(count: int) -> Iterator[Finding]:
    if count == 0:
        yield _no_gpu("NVML lists none")
        return
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    name = str(pynvml.nvmlDeviceGetName(device))
    capability = _capability(device)
    if capability is not None and capability < OLDEST_CAPABILITY:
        message = f"the {name} has compute capability {_dotted(capability)}, and {_dotted(OLDEST_CAPABILITY)} is needed"
        yield problem("gpu", message, "use a GPU of the Turing generation or newer", {"name": name})
    else:
        more = f" (the first of {count}; one is used)" if count > 1 else ""
        yield ok("gpu", f"{name}{more}", {"name": name, "count": count, "capability": _dotted(capability)})
    yield driver_finding(str(pynvml.nvmlSystemGetDriverVersion()), pynvml.nvmlSystemGetCudaDriverVersion_v2())


def _capability(device: object) -> tuple[int, int] | None:
    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    except pynvml.NVMLError:
        return None
    return int(major), int(minor)


def _dotted(version: tuple[int, int] | None) -> str | None:
    return version and f"{version[0]}.{version[1]}"


def driver_finding(driver: str, cuda: int) -> Finding:
    """What to say of a driver, `cuda` as NVML writes it: 13020 is CUDA 13.2."""
    found = f"{cuda // 1000}.{cuda % 1000 // 10}"
    facts = {"driver": driver, "cuda": found}
    branch = driver.partition(".")[0]
    if cuda < OLDEST_CUDA or (branch.isdigit() and int(branch) < OLDEST_DRIVER):
        message = (
            f"the NVIDIA driver {driver} (CUDA {found}) is too old: {OLDEST_DRIVER} (CUDA 13.0) or newer is needed"
        )
        return problem("driver", message, update_driver(), facts)
    return ok("driver", f"NVIDIA driver {driver}, CUDA {found}", facts)


def update_driver() -> str:
    return surroundings.on_host(_UPDATE_SPARK if surroundings.is_spark() else _UPDATE)
