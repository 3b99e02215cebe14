"""Which repository holds a base model in 4 bits already: a quarter of the download, and the same model.

The names are those of the installed Unsloth, read from its own table and from nothing else of it: the table is a file
of data that imports nothing, and importing the package would take seconds and gigabytes.
"""

import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, cast

# Where Unsloth's loader departs from its table: this mirror keeps so many layers in 16 bits that it is no gain.
_RATHER: Final = {"unsloth/Qwen3-32B-unsloth-bnb-4bit": "unsloth/Qwen3-32B-bnb-4bit"}


def mirror_in_4_bits(base_model: str) -> str | None:
    """The Hub id of the mirror that Unsloth loads in place of a base model in 4 bits; None when it knows none."""
    mirror = _table().get(base_model.lower())
    mirror = _RATHER.get(mirror, mirror) if mirror else None
    return mirror if mirror and mirror.endswith("-bnb-4bit") else None


@cache
def _table() -> Mapping[str, str]:
    package = importlib.util.find_spec("unsloth")
    if package is None or not package.submodule_search_locations:
        return {}
    path = Path(package.submodule_search_locations[0]) / "models" / "mapper.py"
    spec = importlib.util.spec_from_file_location("_unsloth_mapper", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Mapping[str, str]", module.FLOAT_TO_INT_MAPPER)
