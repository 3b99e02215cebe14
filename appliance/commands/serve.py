"""`appliance serve`: the daemon."""

import logging

from appliance.commands.leaving import leave_hanging_behind
from appliance.daemon import Appliance
from appliance.doctor.examine import examine_at_start
from appliance.logs import setup_logging
from appliance.memory import stay_in_memory
from appliance.rebuild import rebuild_database
from appliance.settings import Settings
from appliance.wake import Wake
from appliance.watching import Watching

logger = logging.getLogger(__name__)


def serve(*, take_over: bool, rebuild: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. Raises ApplianceError when this machine or a setting does not allow it."""
    settings = Settings.load()
    setup_logging(settings.log_format, settings.secrets())
    examine_at_start(settings)
    if rebuild:
        rebuild_database(settings)
    wake = Wake()
    wake.stop_on_signals()
    appliance = Appliance(settings, wake=wake)
    watching = Watching(appliance, settings)
    if not stay_in_memory():
        logger.info("the memory guard's own memory is not locked: RLIMIT_MEMLOCK does not allow it")
    appliance.recover()
    appliance.prepare_inbox(take_over=take_over)
    watching.start()
    if settings.hub_org is not None and settings.hub_token is None:
        logger.warning("HUB_ORG is set and HUB_TOKEN_FILE is not: what passes the quality gate stays pending")
    where = (appliance.inbox.path, settings.outbox, *watching.address)
    logger.info("serving %s, results in %s, pages on http://%s:%d", *where)
    appliance.run()
    watching.stop()
    logger.info("stopped")
    leave_hanging_behind(0)
