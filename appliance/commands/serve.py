"""`appliance serve`: the daemon."""

import logging
import time
from typing import Final

from appliance.daemon import Appliance
from appliance.doctor.examine import examine_at_start
from appliance.logs import setup_logging
from appliance.machine_watch import watch_machine
from appliance.metrics import make_registry
from appliance.settings import PREFIX, Settings
from appliance.wake import Wake
from appliance.web.access import Access, allowed_hosts
from appliance.web.app import make_app
from appliance.web.server import WebServer, split_address
from appliance.web.site import Site
from appliance.web.uploads import remove_unfinished

logger = logging.getLogger(__name__)

# Settings whose work comes with a later version. Nobody may believe that they do something already.
NOT_YET: Final = frozenset(
    {
        *("allowed_datasets",),
        *("memory_floor_gb", "memory_kill_floor_gb", "disk_reserve_gb", "stall_minutes", "max_job_hours"),
        *("max_priority", "train_window", "before_train_url", "after_train_url"),
        *("notify_urls", "heartbeat_url"),
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
    host, _ = split_address(settings.listen)
    machine = watch_machine(
        settings, count_error=lambda query: appliance.store.count("gpu_query_errors_total", {"query": query})
    )
    registry = make_registry(
        appliance.store, lambda: appliance.view, time.time, settings=settings, machine=machine.reading
    )
    site = Site(
        store=appliance.store,
        view=lambda: appliance.view,
        settings=settings,
        jobs=appliance.places.jobs,
        access=Access(allowed_hosts(host, settings.allowed_hosts), settings.api_token, settings.read_token),
        clock=time.time,
        recipes=appliance.recipes,
        machine=machine.reading,
    )
    web = WebServer(make_app(site, registry), settings.listen, stopping=site.stopping)
    appliance.recover()
    appliance.prepare_inbox(take_over=take_over)
    remove_unfinished(settings.inbox)
    machine.start()
    web.start()
    for name in sorted(settings.model_fields_set & NOT_YET):
        logger.warning("%s%s has no effect in this version", PREFIX, name.upper())
    if settings.hub_org is not None and settings.hub_token is None:
        logger.warning("HUB_ORG is set and HUB_TOKEN_FILE is not: what passes the quality gate stays pending")
    logger.info("serving %s, results in %s, pages on http://%s:%d", appliance.inbox.path, settings.outbox, *web.address)
    appliance.run()
    web.stop()
    machine.stop()
    logger.info("stopped")
