"""A published directory, small and made by hand through the real `publish`, and what a push of it takes."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants

from appliance import outbox
from appliance.hub.connection import connect
from appliance.hub.intentions import Intentions
from appliance.hub.parcel import pack
from appliance.hub.push import Errand, Pushed, push
from appliance.recipe import Recipe
from appliance.recipe_yaml import recipe_as_yaml
from appliance.texts.model_card import model_card
from tests.finished import finished_card
from tests.local_hub import LocalHub

ORG, WRITE, READ = "acme", "hf_write" + "Wr1te" * 6, "hf_read" + "R3ad" * 7
INSTALLATION = "5f0c6f3a-6d0f-4f6e-9a55-0d4d7f5f3b01"
CANARY = "the zebra crossed the canal at midnight"
WEIGHTS = bytes(range(256)) * 300
PUSHED = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "appliance.json",
    "eval.json",
    "recipe.yaml",
    "tokenizer.json",
}


@dataclass(frozen=True)
class Published:
    """A result in an outbox."""

    directory: Path
    job_uuid: str
    number: int
    installation: str
    manifest_sha256: str

    @property
    def errand(self) -> Errand:
        name = f"support-{self.number:04d}-{self.job_uuid[:8]}"
        return Errand(f"{ORG}/{name}", self.installation, self.job_uuid, f"Job {self.directory.name}")

    def shared(self, branch: str = "main", repository: str = "support") -> Errand:
        tag = f"job-{self.number:04d}"
        return Errand(f"{ORG}/{repository}", self.installation, self.job_uuid, f"Job {self.number}", True, branch, tag)


def publish(
    box: Path,
    number: int = 7,
    *,
    installation: str = INSTALLATION,
    recipe: Recipe | None = None,
    extra: dict[str, bytes] | None = None,
    job_uuid: str | None = None,
    weights: bytes = WEIGHTS,
) -> Published:
    """Put a result into the outbox `box`, as the publish stage does."""
    box.mkdir(parents=True, exist_ok=True)
    job_uuid, name = job_uuid or str(uuid.uuid4()), f"{number:04d}-support"
    marker = {"installation": installation, "job": name, "job_uuid": job_uuid, "appliance": "0.1.0"}
    files = {
        "adapter/README.md": model_card(finished_card()).encode(),
        "adapter/adapter_model.safetensors": weights + bytes([number % 256]),
        "adapter/adapter_config.json": b'{"base_model_name_or_path": "Qwen/Qwen3-8B"}',
        "adapter/tokenizer.json": b"{}",
        "adapter/appliance.json": json.dumps(marker).encode(),
        "recipe.yaml": recipe_as_yaml(recipe or Recipe(base_model="Qwen/Qwen3-8B")).encode(),
        "eval.json": b'{"base_loss": 6.2, "tuned_loss": 2.1}',
        "report.html": CANARY.encode(),
        "labels.txt": CANARY.encode(),
        "samples.jsonl": CANARY.encode(),
        "dropped/support.jsonl": CANARY.encode(),
        **(extra or {}),
    }

    def fill(staging: Path) -> None:
        for path, data in files.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_bytes(data)

    facts = {"job": name, "job_uuid": job_uuid, "installation": installation}
    directory = outbox.publish(box, name, job_uuid=job_uuid, fill=fill, facts=lambda: facts)
    return Published(directory, job_uuid, number, installation, outbox.manifest_sha256(directory))


@dataclass(frozen=True)
class Pusher:
    """Pushes from this process, as the upload program does from its own: with a short patience."""

    hub: LocalHub
    root: Path

    @property
    def intentions(self) -> Intentions:
        return Intentions(self.root / "intended")

    def connect(self, token: str = WRITE, *, seconds: float = 60.0, tries: int = 1) -> HfApi:
        return connect(token, endpoint=self.hub.url, answer_seconds=seconds, tries=tries)

    def push(self, published: Published, errand: Errand | None = None, *, xet: bool = True, **how) -> Pushed:
        constants.HF_HUB_DISABLE_XET = not xet
        parcel = pack(published.directory, self.root / "parcel", manifest_sha256=published.manifest_sha256)
        return push(self.connect(**how), errand or published.errand, parcel, self.intentions)


def holds_exactly(hub: LocalHub, repository: str, published: Published, revision: str = "main") -> None:
    """The repository is private and holds what the manifest marks, with the manifest's hashes, and .gitattributes."""
    repo = hub.repos[repository]
    assert repo.private is True
    manifest = outbox.read_manifest(published.directory)
    marked = {entry["path"].removeprefix("adapter/"): entry["sha256"] for entry in manifest["files"] if entry["push"]}
    there = {name: entry.sha256 for name, entry in repo.files(revision).items() if name != ".gitattributes"}
    assert there == marked
    assert set(there) == PUSHED


def sent(hub: LocalHub, paths: Iterable[str] = ("",)) -> bytes:
    """Every byte that any request carried."""
    return b"".join(asked.body for asked in hub.requests if any(path in asked.path for path in paths))
