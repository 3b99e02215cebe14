"""From the YAML somebody dropped to a Recipe, or to every problem in it at once. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from appliance.errors import InputError, Problem, Reason
from appliance.foreign_names import explain_unknown
from appliance.job import Priority
from appliance.recipe import EXPECTED, RIVALS, BatchSize, DatasetName, ModelName, Recipe, Sha256, resolve, uneven_batch
from appliance.texts.wording import clip, visible
from appliance.yaml_tree import LONGEST_VALUE, Path, Place, Tree, read_tree

_MOST_PROBLEMS: Final = 100
_SCHEMA: Final = Reason.RECIPE_SCHEMA
_GROUPS: Final = ("lora", "hub", "chat_template_kwargs")


class ReadRecipe(NamedTuple):
    """A recipe as far as it could be read: `recipe` is None unless its values make one, whatever else is wrong."""

    recipe: Recipe | None
    tree: Tree
    problems: list[Problem]


def parse_recipe(text: bytes, *, name: str, library: tuple[str, bytes] | None = None) -> Recipe:
    """Read a recipe, over the library recipe it inherits from if there is one.

    Raises one InputError naming every problem in both, each with its file and line.
    """
    read = read_recipe(text, name=name, library=library)
    if read.problems or read.recipe is None:
        raise InputError(read.problems)
    return read.recipe


def read_recipe(text: bytes, *, name: str, library: tuple[str, bytes] | None = None) -> ReadRecipe:
    """The same without raising, for those who have more to say about a recipe."""
    own = read_tree(text, name=name)
    tree = _merge(own, read_tree(library[1], name=library[0])) if library else own
    recipe, found = _validate(tree)
    problems = sorted([*tree.problems, *found], key=lambda problem: (problem.file != name, problem.line or 0))
    return ReadRecipe(recipe, tree, problems[:_MOST_PROBLEMS])


class Peek(NamedTuple):
    """What intake needs of a recipe before anybody has checked it; None for what is not there or cannot be used."""

    base_model: str | None = None
    dataset: str | None = None
    sha256: str | None = None
    priority: Priority | None = None


def peek(text: bytes) -> Peek:
    """Read what can be read of a recipe, whatever else is wrong with it. Never raises."""
    values = read_tree(text, name="").values
    return Peek(*(_usable(values.get(key), adapter) for key, adapter in _PEEKED.items()))


_PEEKED: Final[Mapping[str, TypeAdapter[Any]]] = {
    "base_model": TypeAdapter(ModelName),
    "dataset": TypeAdapter(DatasetName),
    "sha256": TypeAdapter(Sha256),
    "priority": TypeAdapter(Priority),
}


_BATCH_SIZE: Final = TypeAdapter(BatchSize)


def _usable(value: object, adapter: TypeAdapter[Any]) -> Any:  # noqa: ANN401
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None


def _merge(own: Tree, library: Tree) -> Tree:
    return Tree(
        own.name,
        values=resolve(own.values, library.values),
        places={**library.places, **own.places},
        problems=[*own.problems, *library.problems],
        spoilt=own.spoilt | {path for path in library.spoilt if path not in own.places},
        whole=own.whole and library.whole,
    )


def _validate(tree: Tree) -> tuple[Recipe | None, list[Problem]]:
    """The recipe if the values make one, and whatever keeps them from it."""
    rivals = list(_rivals(tree))
    too_many = {problem.key for problem in rivals}
    problems = [*rivals, *_not_yet(tree), *_batch(tree)]
    try:
        recipe = Recipe.model_validate({key: value for key, value in tree.values.items() if key not in too_many})
    except ValidationError as error:
        return None, [*problems, *_explain_all(error.errors(include_url=False), tree)]
    return recipe, problems


def _rivals(tree: Tree) -> Iterator[Problem]:
    for one, other in RIVALS:
        if all(tree.values.get(key) not in (None, "auto") for key in (one, other)):
            later = max((one, other), key=lambda key: tree.places[key,].line or 0)
            message = f"{one} and {other} are both set, and they exclude each other; keep one of them"
            yield tree.problem((later,), "exclusive_keys", message, _SCHEMA, expected=f"{one} or {other}, not both")


def _not_yet(tree: Tree) -> Iterator[Problem]:
    """What the model of a recipe knows, and the appliance cannot do before a later release."""
    method = tree.values.get("method")
    if method in ("dpo", "orpo", "kto"):
        message = f"method is {method}, not yet: preference training comes with a later release; use method: sft"
        yield tree.problem(("method",), "not_yet", message, _SCHEMA, expected="sft")


def _batch(tree: Tree) -> Iterator[Problem]:
    """An effective batch that the micro-batch does not divide, at the line that this recipe wrote of the two."""
    keys = ("effective_batch_size", "per_device_train_batch_size")
    effective, micro_batch = (_usable(tree.values.get(key), _BATCH_SIZE) for key in keys)
    if effective and micro_batch and (problem := uneven_batch(effective, micro_batch)):
        places = [tree.places[key,] for key in keys]
        place = next((place for place in places if place.file == tree.name), places[0])
        yield replace(problem, file=place.file, line=place.line)


def _explain_all(errors: list[ErrorDetails], tree: Tree) -> Iterator[Problem]:
    """One problem for each key that pydantic complains of."""
    unknown = {_path(e): explain_unknown(".".join(_path(e))) for e in errors if e["type"] == "extra_forbidden"}
    misspelt = {meant for _, meant in unknown.values()}
    # Of a union's complaints the one about an item says most.
    by_path = {_path(error): error for error in sorted(errors, key=_names_item)}
    for path, error in by_path.items():
        key = ".".join(path)
        if any(path[:length] in tree.spoilt for length in range(len(path) + 1)):
            continue
        if path in unknown:
            message, meant = unknown[path]
            problem = tree.problem(path, "unknown_key", message, _SCHEMA, expected=meant or ", ".join(EXPECTED))
            # What stands behind an unknown key may be a token: only the key is repeated.
            yield replace(problem, found=key)
        elif error["type"] != "missing":
            message = _complaint(key, error, tree.places.get(path))
            yield tree.problem(path, "bad_value", message, _SCHEMA, expected=EXPECTED[key])
        elif tree.whole and key not in misspelt:
            message = f"{key} is missing; it must be {EXPECTED[key]}"
            yield tree.problem(path, "missing_key", message, _SCHEMA, expected=EXPECTED[key])


def _path(error: ErrorDetails) -> Path:
    """The key an error is about. What follows it in `loc` are branches of unions and places in lists."""
    loc = error["loc"]
    return tuple(str(part) for part in loc[: 2 if loc[0] in _GROUPS else 1])


def _names_item(error: ErrorDetails) -> bool:
    return any(isinstance(part, int) for part in error["loc"])


def _complaint(key: str, error: ErrorDetails, place: Place | None) -> str:
    written = (place.written if place else None) or ""
    if written in ("", "~", "null", "Null", "NULL"):
        return f"{key} is empty; it must be {EXPECTED[key]}, or leave the line out"
    if _names_item(error):
        return f"{key} holds {_item(error['input'])}; it must be {EXPECTED[key]}"
    match error["type"]:
        case "too_short":
            written = "an empty list"
        case "too_long":
            written = f"a list of {len(error['input'])}"
    return f"{key} is {_shown(written)}; it must be {EXPECTED[key]}"


def _item(value: object) -> str:
    """An item of a list, in the words of YAML."""
    match value:
        case None:
            return "an empty item"
        case bool():
            return str(value).lower()
        case dict():
            return "a group of keys"
        case list():
            return "a list"
    return _shown(value)


def _shown(value: object) -> str:
    return clip(visible(str(value)), LONGEST_VALUE) or "an empty text"


class _Representer(SafeRepresenter):
    def represent_str(self, data: str) -> ScalarNode:
        """Texts with line breaks and their kin in double quotes, where nothing is folded."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def recipe_as_yaml(recipe: Recipe) -> str:
    """A recipe with every key, defaults included, in the form `parse_recipe` reads."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 4096
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()
