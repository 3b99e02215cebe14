"""Where base models are: in the package, in the models folder, or in the download cache. Touches no network."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.planning.published import published_figures
from appliance.settings import Settings

DEMO = "demo"
LARGEST_CARD = 1 << 20
_LICENSE = re.compile(r"^(license|license_name):[ \t]*[\"']?([A-Za-z0-9][\w.+-]*)", re.MULTILINE)


class UnusableModel(ApplianceError):
    """The files of a base model cannot be trained on; the hint says what would work."""


def demo_folder() -> Path:
    """The tiny base model that ships with the package."""
    return Path(str(files("appliance"))) / "demo" / "model"


def canonical_id(name: str) -> str:
    """The Hub id that a directory `org--name` stands for; other names stand for themselves."""
    return name.replace("--", "/", 1) if "/" not in name else name


def local_folder(base_model: str, models: Path) -> Path | None:
    """The directory that holds a base model under the models folder (or in the package), if there is one.

    `base_model` may be the Hub id or the directory's own name.
    """
    if base_model == DEMO:
        return demo_folder()
    candidates = (models / base_model.replace("/", "--"), models / base_model)
    return next((folder.resolve() for folder in candidates if (folder / "config.json").is_file()), None)


def cache_folder(settings: Settings) -> Path:
    """The Hugging Face cache that downloads go to: `HF_HOME`, else a folder of the state directory."""
    home = os.environ.get("HF_HOME")
    return Path(home) if home else settings.state.resolve() / "cache" / "huggingface"


def repository_folder(base_model: str, cache: Path) -> Path:
    """Where the cache keeps everything of one repository."""
    return cache / "hub" / f"models--{base_model.replace('/', '--')}"


def cached_snapshot(base_model: str, revision: str | None, cache: Path) -> Path | None:
    """The directory of a downloaded snapshot, which may be incomplete; None when nothing of it is there."""
    folder = repository_folder(base_model, cache)
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit if commit else None
    return snapshot if snapshot and snapshot.is_dir() else None


def find_config(base_model: str, revision: str | None, settings: Settings) -> Mapping[str, Any] | None:
    """The `config.json` of a base model that is on this machine, wherever it lies; the figures that come with the
    appliance for those of the shipped recipes; None for any other."""
    folder = local_folder(base_model, settings.models)
    folder = folder or cached_snapshot(base_model, revision, cache_folder(settings))
    if folder and (folder / "config.json").is_file():
        return read_config(folder)
    return published_figures(canonical_id(base_model))


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model. Raises UnusableModel when it is not an object."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UnusableModel(f"the base model's config.json cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UnusableModel("the base model's config.json is not an object")
    return config


def read_license(folder: Path) -> str | None:
    """The licence that a model's card names, in the Hub's words; None when there is no card or no licence in it."""
    try:
        with (folder / "README.md").open(errors="replace") as file:
            text = file.read(LARGEST_CARD)
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    named = dict(_LICENSE.findall(front[1] if front else ""))
    name = named.get("license")
    return named.get("license_name", name) if name == "other" else name


def refuse_unsafe(folder: Path) -> None:
    """Raise UnusableModel when loading the model would run its own code or unpickle its weights."""
    if why := next(unsafe_reasons(folder), None):
        raise UnusableModel(why, hint="Choose a model that Transformers supports itself, with safetensors weights.")


def unsafe_reasons(folder: Path) -> Iterator[str]:
    """What speaks against loading the model in `folder`."""
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in (folder / name).read_text():
            yield f"the base model needs code of its own ({name} has auto_map), which is never run here"
    if not any(folder.glob("*.safetensors")):
        yield "the base model has no safetensors weights, and other weight files can hold code"


def has_all_weights(folder: Path) -> bool:
    """Whether every file that the index of the weights names is there."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return all((folder / name).is_file() for name in names)


def is_whole(folder: Path) -> bool:
    """Whether a model lies in a folder with all that loading it needs: somebody may have made room there since."""
    try:
        return (folder / "config.json").is_file() and (
            (folder / "model.safetensors").is_file() or has_all_weights(folder)
        )
    except OSError:
        return False


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder, each counted once however many links lead to it."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            # A download in progress renames its files while we look.
            continue
        if path.is_file():
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
