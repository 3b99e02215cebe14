"""A box with its HTTP port, turned by the test: real files, processes and sockets, made-up stages."""

import time
from pathlib import Path

from appliance.web.access import Access, allowed_hosts
from appliance.web.app import make_app
from appliance.web.server import WebServer
from appliance.web.site import Site
from tests.box import Box
from tests.served import API_TOKEN, Client


class Whole:
    """An appliance with its HTTP port."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.box = Box(root, api_token=API_TOKEN, **settings)
        appliance = self.box.appliance
        self.site = Site(
            appliance.store,
            lambda: appliance.view,
            self.box.settings,
            appliance.places.jobs,
            Access(allowed_hosts("127.0.0.1", ()), api_token=API_TOKEN),
            time.time,
            lambda: appliance.recipes,
        )
        self.server = WebServer(make_app(self.site), "127.0.0.1:0", stopping=self.site.stopping)
        self.server.start()
        self.client = Client(self.server.address)

    def stop(self) -> None:
        self.server.stop()
        self.box.stop()
