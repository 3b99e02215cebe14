"""Towers for images and sound around a language model: loaded with it in 16 bits, never trained here. Pure."""

from collections.abc import Mapping
from typing import Any, Final

TOWERS: Final = ("vision_config", "audio_config")


def tower_parameters(config: Mapping[str, Any]) -> int:
    """About how many parameters the towers have.

    From width, depth and MLP of each; exact counts would need every tower's own code. The true sum, where it is known,
    stands in the figures as `tower_parameters`.
    """
    if "tower_parameters" in config:
        return int(config["tower_parameters"])
    return sum(_tower(config[name]) for name in TOWERS if config.get(name))


def _tower(tower: Mapping[str, Any]) -> int:
    hidden = tower.get("hidden_size") or 0
    depth = tower.get("num_hidden_layers") or tower.get("depth") or 0
    inner = tower.get("intermediate_size") or 4 * hidden
    # Two matrices in the MLP of most, three in some, and the projection into the language model.
    return int(depth * (4 * hidden * hidden + 3 * hidden * inner) + 4 * hidden * hidden)
