"""The door of the appliance for tests: an inbox, a store and the folders between them, without a loop."""

from collections.abc import Callable
from pathlib import Path

from appliance.copying import Copied, copy_in
from appliance.drops import find_drops
from appliance.inbox import Inbox
from appliance.intake import EarlierRows, record, remove_source
from appliance.job import Job
from appliance.job_dir import JobDir
from appliance.places import Places
from appliance.settling import Drop, Rules
from appliance.sightings import Kind, observe
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
        return self.record(self.copy(drop, max_bytes=max_bytes))

    def copy(
        self, drop: Drop, *, max_bytes: float = 1e9, is_recipe: Callable[[str], bool] = lambda name: False
    ) -> Copied:
        listing = self.inbox.listing()
        entries = {path: listing[path] for path, _ in drop.files}
        rows_of = EarlierRows(self.store, self.places).files_of
        return copy_in(
            self.inbox,
            drop,
            entries,
            self.places.incoming,
            max_bytes=max_bytes,
            rows_of=rows_of,
            is_recipe=is_recipe,
        )

    def record(self, copied: Copied) -> list[Job]:
        """Record a drop and take its sources away, as the reception does."""
        jobs = record(copied, installation="installation", store=self.store, places=self.places, now=100.0)
        self.take_away(copied)
        return jobs

    def take_away(self, copied: Copied) -> None:
        for (path, entry), key in zip(copied.sources, copied.keys, strict=True):
            if not key.kept and remove_source(self.inbox, path, entry, copied.drop.folder):
                self.store.forget_source(key)

    def dir(self, job: Job) -> JobDir:
        return JobDir(self.places.jobs / job.id)
