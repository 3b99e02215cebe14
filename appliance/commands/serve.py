"""`appliance serve`: the daemon."""

import logging
from typing import Final

from appliance.daemon import Appliance
from appliance.doctor.examine import examine_at_start
from appliance.logs import setup_logging
from appliance.settings import PREFIX, Settings
from appliance.wake import Wake
from appliance.watching import Watching

logger = logging.getLogger(__name__)

# Settings whose work comes with a later version. Nobody may believe that they do something already.
NOT_YET: Final = frozenset(
    {
        *("memory_floor_gb", "memory_kill_floor_gb", "disk_reserve_gb", "stall_minutes"),
        *("max_priority", "train_window", "before_train_url", "after_train_url"),
    }
)


def serve(*, take_over: bool) -> None:
    """Serve until SIGTERM or SIGINT. Raises ApplianceError when this machine or a setting does not allow it."""
    settings = Settings.load()
    setup_logging(settings.log_format, settings.secrets())
    examine_at_start(settings)
    wake = Wake()
    wake.stop_on_signals()
    appliance = Appliance(settings, wake=wake)
    watching = Watching(appliance, settings)
    appliance.recover()
    appliance.prepare_inbox(take_over=take_over)
    watching.start()
    for name in sorted(settings.model_fields_set & NOT_YET):
        logger.warning("%s%s has no effect in this version", PREFIX, name.upper())
    if settings.hub_org is not None and settings.hub_token is None:
        logger.warning("HUB_ORG is set and HUB_TOKEN_FILE is not: what passes the quality gate stays pending")
    where = (appliance.inbox.path, settings.outbox, *watching.address)
    logger.info("serving %s, results in %s, pages on http://%s:%d", *where)
    appliance.run()
    watching.stop()
    logger.info("stopped")
