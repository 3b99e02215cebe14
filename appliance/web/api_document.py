"""The OpenAPI document in plain words, for `/docs`. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Document = Mapping[str, Any]

LIMITS: Final = {"minimum": "at least", "maximum": "at most"}


@dataclass(frozen=True)
class Operation:
    """One thing that the API can do."""

    method: str
    path: str
    summary: str
    parameters: list[tuple[str, str]]
    answers: list[tuple[str, str]]


def operations_of(document: Document) -> Iterator[Operation]:
    """Every operation, in the order of the document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            summary = operation.get("description") or operation.get("summary", "")
            yield Operation(method.upper(), path, summary, list(_parameters(operation)), list(_answers(operation)))


def types_of(document: Document) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The objects that are answered, with their fields."""
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        if "properties" in schema and "Error" not in name:
            yield name, [(field, _type(what)) for field, what in schema["properties"].items()]


def _parameters(operation: Document) -> Iterator[tuple[str, str]]:
    for parameter in operation.get("parameters", ()):
        yield f"{parameter['name']} ({parameter['in']})", _type(parameter["schema"])
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        for name, schema in content["schema"].get("properties", {}).items():
            yield f"{name} ({kind})", schema.get("description") or _type(schema)


def _answers(operation: Document) -> Iterator[tuple[str, str]]:
    for code, answer in operation["responses"].items():
        kinds = [_type(content["schema"]) for content in answer.get("content", {}).values() if content.get("schema")]
        yield code, f"{answer['description'].rstrip('.')}{': ' + ', '.join(kinds) if kinds else ''}"


def _type(schema: Document) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema]
    return ", ".join([str(schema.get("type", "anything")), *limits])
