"""The machine that a plan is made for. Pure."""

from dataclasses import dataclass, field
from typing import Literal

from appliance.planning.calibration import Calibration

MachineKind = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Machine:
    """What a plan may spend. `flops_per_second` is what training really reaches, not what the brochure says.

    `unified` machines have one memory for CPU and GPU. `calibration` is what finished trainings have shown here.
    """

    memory_bytes: int
    reserve_bytes: int
    kind: MachineKind
    flops_per_second: float
    unified: bool = False
    calibration: Calibration = field(default=Calibration(), repr=False)

    @property
    def budget_bytes(self) -> int:
        return self.memory_bytes - self.reserve_bytes
