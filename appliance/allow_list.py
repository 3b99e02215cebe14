"""Which base models may be trained here."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from appliance.models import canonical_id, local_folder
from appliance.recipe_yaml import peek
from appliance.settings import Settings

# Unsloth loads these in place of a model it is asked to load in 4 bits.
_MIRRORS: Final = ("unsloth/{}-unsloth-bnb-4bit", "unsloth/{}-bnb-4bit")


def is_allowed(base_model: str, settings: Settings) -> bool:
    """Whether this model, or the repository loaded in its place, may be used.

    The demo model and whatever lies in the models folder always may.
    """
    if local_folder(base_model, settings.models):
        return True
    return any(fnmatchcase(canonical_id(base_model), pattern) for pattern in allowed_base_models(settings))


def allowed_base_models(settings: Settings) -> tuple[str, ...]:
    """The administrator's patterns, or else the shipped recipes' models and Unsloth's 4-bit mirrors of them."""
    if settings.allowed_base_models is not None:
        return settings.allowed_base_models
    shipped = sorted({model for path in settings.recipes.glob("*.y*ml") if (model := _base_model(path))})
    mirrors = [mirror.format(model.rpartition("/")[2]) for model in shipped for mirror in _MIRRORS if "/" in model]
    return (*shipped, *mirrors)


def _base_model(recipe: Path) -> str | None:
    try:
        return peek(recipe.read_bytes()).base_model
    except OSError:
        return None
