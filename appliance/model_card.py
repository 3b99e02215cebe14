"""`adapter/README.md`, the model card: what the adapter is, what it was trained on and how to load it. Pure.

Byte-stable: it holds no time and no path, so that pushing it again changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.recipe import Recipe
from appliance.report import Facts


@dataclass(frozen=True)
class Card:
    """What the card tells. `check`, `fetch`, `labels`, `train` and `evaluation` are the objects the stages left.

    `base_license` is the base model's own, where it is known; the recipe's comes first.
    """

    name: str
    recipe: Recipe
    recipe_yaml: str
    check: Facts
    fetch: Facts
    labels: Facts
    train: Facts
    evaluation: Facts | None = None
    base_license: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def model_card(card: Card) -> str:
    """The text of `adapter/README.md`."""
    return f"# {card.name}\n"
