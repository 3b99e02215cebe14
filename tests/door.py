"""The door of the appliance for tests: an inbox, a store and the folders between them, without a loop."""

from pathlib import Path

from appliance.copying import copy_in
from appliance.drops import Drop, Kind, Rules, find_drops, observe
from appliance.inbox import Inbox
from appliance.intake import Places, record
from appliance.job import Job
from appliance.job_dir import JobDir
from appliance.store import Store

RULES = Rules(quiet_seconds=0, pair_seconds=0, recipe_folders=frozenset({"demo"}))
RECIPE = "base_model: demo\n"


class Door:
    """An inbox, a store and the folders between them."""

    def __init__(self, root: Path) -> None:
        for name in ("inbox", "outbox", "recipes", "state/incoming", "state/jobs"):
            (root / name).mkdir(parents=True)
        (root / "recipes" / "default.yaml").write_text(RECIPE)
        (root / "recipes" / "demo.yaml").write_text(RECIPE)
        self.inbox = Inbox(root / "inbox", "installation")
        self.store = Store(root / "state" / "appliance.sqlite")
        self.places = Places(root / "state", root / "outbox", root / "recipes")

    def put(self, name: str, content: str | bytes = '{"text": "a"}\n') -> Path:
        path = self.inbox.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def drops(self, **wanted: str) -> list[Drop]:
        listing = self.inbox.listing()
        sightings = observe({}, listing, now=0.0)
        endings = {path: self.inbox.ending(path) for path, entry in listing.items() if entry.kind is Kind.FILE}
        return find_drops(sightings, now=1000.0, rules=RULES, endings=endings, wanted=wanted)

    def take_in(self, drop: Drop, *, max_bytes: float = 1e9) -> list[Job]:
        copied = copy_in(self.inbox, drop, self.inbox.listing(), self.places.incoming, max_bytes=max_bytes)
        return record(copied, inbox=self.inbox, store=self.store, places=self.places, now=100.0)

    def dir(self, job: Job) -> JobDir:
        return JobDir(self.places.jobs / job.id)
