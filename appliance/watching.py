"""Everything that lets people and programs see the appliance at work: pages, metrics, notifications, the heartbeat."""

import time
from functools import partial
from typing import Final

from appliance.counting import try_to_count
from appliance.daemon import Appliance
from appliance.heartbeat import Heartbeat
from appliance.machine_watch import watch_machine
from appliance.notifier import Notifier
from appliance.settings import Settings
from appliance.store import Store
from appliance.web.access import Access, allowed_hosts
from appliance.web.app import STUCK_SECONDS, make_app
from appliance.web.server import WebServer, split_address
from appliance.web.site import Site
from appliance.web.uploads import remove_unfinished

GPU_ERRORS: Final = "gpu_query_errors_total"


class Watching:
    """Threads of the daemon that only read, and leave requests. The port is bound at once."""

    def __init__(self, appliance: Appliance, settings: Settings) -> None:
        """Raises ListenError or HeartbeatError when a setting cannot be used."""
        self._settings = settings
        host, _ = split_address(settings.listen)
        store, jobs = appliance.store, appliance.places.jobs
        self._machine = watch_machine(settings, count_error=partial(count_gpu_error, store))
        site = Site(
            store=store,
            view=lambda: appliance.view,
            settings=settings,
            jobs=jobs,
            access=Access(allowed_hosts(host, settings.allowed_hosts), settings.api_token, settings.read_token),
            clock=time.time,
            recipes=lambda: appliance.recipes,
            machine=self._machine.reading,
        )
        self._web = WebServer(make_app(site), settings.listen, stopping=site.stopping)
        self.address = self._web.address
        self._notifier = Notifier(settings, store, jobs, self._machine.reading)
        self._heartbeat = Heartbeat(
            settings.heartbeat_url, alive=lambda: time.time() - appliance.view.time < STUCK_SECONDS
        )

    def start(self) -> None:
        """Begin to watch and to answer. Called once the inbox is ours."""
        remove_unfinished(self._settings.inbox)
        self._machine.start()
        self._web.start()
        self._notifier.start(time.time())
        self._heartbeat.start()

    def stop(self) -> None:
        self._heartbeat.stop()
        self._notifier.stop()
        self._web.stop()
        self._machine.stop()


def count_gpu_error(store: Store, query: str) -> None:
    try_to_count(store, GPU_ERRORS, {"query": query}, what=f"an error of the GPU's driver ({query})")
