"""What decides the labels of a dataset, as one hash: two jobs with the same one have the same labels. Light.

Labelling gets a recipe of which only `settings_that_matter` are left, so that no other setting can have a say.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import appliance
from appliance.files import sha256_of
from appliance.recipe import Recipe

SETTINGS: Final = (
    "base_model",
    "chat_template",
    "chat_template_kwargs",
    "train_on",
    "long_examples",
    "max_seq_length",
    "eval_fraction",
    "eval_max_rows",
    "sample_prompts",
)
# What Transformers reads a tokenizer, its template and its stop tokens from; weights are none of it.
TOKENIZER_FILES: Final = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
OUR_CODE: Final = ("stages/prepare.py", "chat_templates.py", "dataset/split.py", "planning/fitting.py")
LIBRARIES: Final = ("jinja2", "tokenizers", "transformers")


def settings_that_matter(recipe: Recipe) -> Recipe:
    """The recipe with every setting that labels do not depend on as if it had been left out."""
    given = recipe.model_dump(mode="json")
    return Recipe.model_validate({name: given[name] for name in SETTINGS})


def label_key(recipe: Recipe, rows: Path, held_out: Path | None, model: Path, created: float, **more: object) -> str:
    """The hash of rows, tokenizer, template, settings and code; of `created` only the day, where a template stamps it.

    `more` is what else the labels depend on, as JSON values.
    """
    parts = {
        "settings": settings_that_matter(recipe).model_dump(mode="json"),
        "rows": [sha256_of(rows), held_out and sha256_of(held_out)],
        "model": {str(path.relative_to(model)): sha256_of(path) for path in _tokenizer_files(model)},
        "day": _day(created) if any(b"strftime_now" in path.read_bytes() for path in _tokenizer_files(model)) else None,
        "code": [sha256_of(path) for path in _our_code()],
        "libraries": [version(name) for name in LIBRARIES],
        **more,
    }
    return hashlib.sha256(_as_json(parts)).hexdigest()


def _tokenizer_files(model: Path) -> list[Path]:
    return sorted({path for pattern in TOKENIZER_FILES for path in model.rglob(pattern) if path.is_file()})


def _our_code() -> Iterator[Path]:
    package = Path(appliance.__file__).parent
    yield from (package / name for name in OUR_CODE)
    yield from sorted((package / "stages" / "training" / "labels").glob("*.py"))


def _day(created: float) -> str:
    return f"{datetime.fromtimestamp(created, UTC):%Y-%m-%d}"


def _as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode()
