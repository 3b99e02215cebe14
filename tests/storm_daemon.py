"""`python -m tests.storm_daemon ROOT`: the real daemon with its HTTP port, on made-up stages; says where it listens."""

import os
import sys
from functools import partial
from pathlib import Path

from appliance.daemon import Appliance
from appliance.processes import start_stage
from appliance.settings import Settings
from appliance.wake import Wake
from appliance.watching import Watching
from tests.box import fake_command


def storm_settings(root: Path) -> Settings:
    folders = {name: root / name for name in ("inbox", "outbox", "recipes", "state", "models")}
    quick = {"quiet_seconds": 0, "pair_seconds": 0, "scan_seconds": 0.05, "disk_reserve_gb": 0}
    # Killing at random is not the jobs' fault: let nobody be given up for it.
    return Settings(**folders, **quick, listen="127.0.0.1:0", max_attempts=1000)  # type: ignore[arg-type]


def main(root: Path) -> None:
    settings = storm_settings(root)
    wake = Wake()
    wake.stop_on_signals()
    appliance = Appliance(settings, wake=wake, start=partial(start_stage, settings=settings, command=fake_command))
    watching = Watching(appliance, settings)
    appliance.recover()
    appliance.prepare_inbox()
    watching.start()
    address = root / f"address-{os.getpid()}"
    address.write_text("{}:{}".format(*watching.address))
    address.rename(root / "address")
    appliance.run()
    watching.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
