"""What the pages and the API see of the appliance, and all that they may do: read, and leave a request."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.machine_watch import NOTHING_READ, MachineReading
from appliance.settings import Settings
from appliance.store import Store
from appliance.view import View
from appliance.web.access import Access


@dataclass(frozen=True)
class Site:
    """One appliance, as its HTTP port shows it. `clock` gives Unix seconds."""

    store: Store
    view: Callable[[], View]
    settings: Settings
    jobs: Path
    access: Access
    clock: Callable[[], float]
    recipes: Callable[[], tuple[str, ...]] = tuple
    machine: Callable[[], MachineReading] = lambda: NOTHING_READ
    stopping: threading.Event = field(default_factory=threading.Event)
