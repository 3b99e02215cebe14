"""`appliance serve`: the daemon."""

import logging
import time

from appliance.daemon import Appliance
from appliance.logs import setup_logging
from appliance.metrics import make_registry
from appliance.settings import Settings
from appliance.wake import Wake
from appliance.web.app import allowed_hosts, make_app
from appliance.web.server import WebServer, split_address

logger = logging.getLogger(__name__)


def serve(*, take_over: bool) -> None:
    """Serve until SIGTERM or SIGINT. Raises ApplianceError when this machine or a setting does not allow it."""
    settings = Settings.load()
    setup_logging(settings.log_format, settings.secrets())
    wake = Wake()
    wake.stop_on_signals()
    appliance = Appliance(settings, wake=wake)
    host, _ = split_address(settings.listen)
    registry = make_registry(appliance.store, lambda: appliance.view, time.time)
    app = make_app(lambda: appliance.view, registry, hosts=allowed_hosts(host, settings.allowed_hosts), clock=time.time)
    web = WebServer(app, settings.listen)
    appliance.recover()
    appliance.prepare_inbox(take_over=take_over)
    web.start()
    logger.info("serving %s, results in %s, pages on http://%s:%d", appliance.inbox.path, settings.outbox, *web.address)
    appliance.run()
    web.stop()
    logger.info("stopped")
