"""What the GPUs say of themselves, question by question: a reading that one lacks is None, never 0 and never an error.

NVML sits behind `Driver`, so that tests can be a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pynvml


class Unsupported(Exception):
    """This GPU cannot answer that question, now or ever."""


class NoAnswer(Exception):
    """The driver met an error; the next time it may answer."""


class Driver(Protocol):
    """Answers questions about GPUs. Every method raises NoAnswer when the driver does not work."""

    def count(self) -> int:
        """How many GPUs there are; 0 without a driver."""

    def ask(self, gpu: int, query: str) -> Any:  # noqa: ANN401 (each question has its own kind of answer)
        """The answer to one of `QUESTIONS`. Raises Unsupported where the GPU has none."""


@dataclass(frozen=True)
class GpuReading:
    """One GPU in base units. `throttles` says which reasons hold its clock down, `throttle_seconds` for how long."""

    index: int
    name: str = ""
    uuid: str = ""
    driver_version: str = ""
    memory_type: str = "unified"
    utilization: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    sm_clock_hertz: float | None = None
    sm_clock_max_hertz: float | None = None
    energy_joules: float | None = None
    throttles: Mapping[str, bool] | None = None
    throttle_seconds: Mapping[str, float] | None = None


QUESTIONS: Final = {
    "driver": "driver_version",
    "name": "name",
    "uuid": "uuid",
    "memory_type": "memory_type",
    "utilization": "utilization",
    "power": "power_watts",
    "temperature": "temperature_celsius",
    "sm_clock": "sm_clock_hertz",
    "sm_clock_max": "sm_clock_max_hertz",
    "energy": "energy_joules",
    "throttle": "throttles",
    "throttle_time": "throttle_seconds",
}


class GpuReader:
    """Asks every question of every GPU, each by itself; remembers what a GPU cannot answer."""

    def __init__(self, driver: Driver, *, on_error: Callable[[str], None]) -> None:
        self._driver = driver
        self.on_error = on_error
        self._unsupported: set[tuple[int, str]] = set()

    def read(self) -> tuple[GpuReading, ...]:
        """All GPUs as they are now; none when the driver does not answer."""
        try:
            count = self._driver.count()
        except NoAnswer:
            self.on_error("driver")
            return ()
        return tuple(GpuReading(gpu, **self._answers(gpu)) for gpu in range(count))

    def _answers(self, gpu: int) -> dict[str, Any]:
        answers = {}
        for query, field in QUESTIONS.items():
            if (gpu, query) in self._unsupported:
                continue
            try:
                answers[field] = self._driver.ask(gpu, query)
            except Unsupported:
                self._unsupported.add((gpu, query))
            except NoAnswer:
                self.on_error(query)
        return answers


_BITS: Final = {
    "sw_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hw_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sw_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hw_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "hw_power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
}
_TIMES: Final = {
    "sw_power_cap": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP,
    "sw_thermal": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN,
    "hw_thermal": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
    "hw_power_brake": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
}


class NvmlDriver:
    """NVIDIA's own library, initialised once."""

    def __init__(self) -> None:
        self._ready = False
        self._absent = False

    def count(self) -> int:
        if self._absent:
            return 0
        try:
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError_LibraryNotFound:
            self._absent = True
            return 0
        except pynvml.NVMLError as error:
            self._ready = False
            raise NoAnswer(str(error)) from error

    def ask(self, gpu: int, query: str) -> Any:  # noqa: ANN401 (each question has its own kind of answer)
        try:
            return _ASK[query](pynvml.nvmlDeviceGetHandleByIndex(gpu))
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound) as error:
            # The GPU cannot, or the driver is older than the question.
            raise Unsupported(query) from error
        except pynvml.NVMLError as error:
            raise NoAnswer(str(error)) from error


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _memory_type(handle: object) -> str:
    """GB10 has no memory of its own to report: it shares the machine's."""
    try:
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return "unified"
    return "dedicated"


def _throttles(handle: object) -> dict[str, bool]:
    bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return {reason: bool(bits & bit) for reason, bit in _BITS.items()}


def _throttle_seconds(handle: object) -> dict[str, float]:
    """The driver counts nanoseconds. Reasons that it does not count are left out."""
    fields = pynvml.nvmlDeviceGetFieldValues(handle, list(_TIMES.values()))
    found = {
        reason: field.value.ullVal / 1e9
        for reason, field in zip(_TIMES, fields, strict=True)
        if field.nvmlReturn == pynvml.NVML_SUCCESS
    }
    if not found:
        raise Unsupported("throttle_time")
    return found


_ASK: Final[Mapping[str, Callable[[Any], Any]]] = {
    "driver": lambda _: _text(pynvml.nvmlSystemGetDriverVersion()),
    "name": lambda gpu: _text(pynvml.nvmlDeviceGetName(gpu)),
    "uuid": lambda gpu: _text(pynvml.nvmlDeviceGetUUID(gpu)),
    "memory_type": _memory_type,
    "utilization": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    "power": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
    "temperature": lambda gpu: float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)),
    "sm_clock": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
    "sm_clock_max": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6,
    "energy": lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
    "throttle": _throttles,
    "throttle_time": _throttle_seconds,
}
