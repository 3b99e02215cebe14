"""YAML 1.2 as plain values, each with its line. Only what a recipe needs, and nothing that runs code. Pure.

The parser's events are folded by hand: anchors, aliases, tags and depth are refused before anything is built from
them, scalars follow the core schema of YAML 1.2 (`2e-4` is a number, `no` is a word), and nothing here recurses.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from appliance.errors import Problem, Reason
from appliance.texts.wording import clip, visible
from appliance.yaml_text import decode, explain, scalar

DEEPEST: Final = 8
LONGEST_VALUE: Final = 60
_SYNTAX_ERRORS: Final = 20
_TOP_KEY: Final = re.compile(r"[A-Za-z_][\w.]*:(\s|$)")

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a key stands and how its value is written there."""

    file: str
    line: int | None
    written: str | None


@dataclass
class Tree:
    """The values of one YAML file, where each key stands, and everything that is wrong with it.

    `spoilt` holds the keys whose values were refused here, so that nobody complains about them twice. `whole` is False
    when the file could not be read to its end: what is missing then may only be out of sight.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spoilt: set[Path] = field(default_factory=set)
    whole: bool = True

    def problem(self, path: Path, code: str, message: str, reason: Reason, *, expected: str | None = None) -> Problem:
        """A problem with the value at `path`, at its place; with the whole file when it stands nowhere."""
        place = self.places.get(path) or Place(self.name, None, None)
        found = None if place.written is None else clip(visible(place.written), LONGEST_VALUE)
        return Problem(code, message, reason, place.file, place.line, ".".join(path), found, expected)


def read_tree(data: bytes, *, name: str) -> Tree:
    """Everything that can be read from a recipe's bytes; never raises for what is in them."""
    text, problem = decode(data, name=name)
    if problem:
        return Tree(name, problems=[problem], whole=False)
    builder = _Builder(name)
    builder.read(_without_leading_tabs(text, builder))
    return builder.tree


def _without_leading_tabs(text: str, builder: "_Builder") -> str:
    """Tabs that indent, reported once and read as two spaces, so that the lines below them are still looked at."""
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if re.match(r" *\t[ \t]*[^\s#]", line)]
    if not lines:
        return text
    others = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
    builder.refuse("tab", f"this line is indented with a tab{others}; YAML wants spaces", lines[0])
    builder.tree.whole = False
    return re.sub(r"^[ \t]+", lambda indent: indent[0].replace("\t", "  "), text, flags=re.MULTILINE)


@dataclass
class _Frame:
    """A map or list that is being filled. `key` is the map's key whose value comes next."""

    value: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None
    key_line: int = 0


class _TooDeep(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Builder:
    """Folds the parser's events into a Tree. `_above` is how many lines of the file lie above what is being parsed."""

    def __init__(self, name: str) -> None:
        self.tree = Tree(name)
        self._open: list[_Frame] = []
        self._documents = 0
        self._above = 0
        self._newest: Path = ()

    def refuse(self, code: str, message: str, line: int, *, key: str | None = None) -> None:
        self.tree.problems.append(Problem(code, message, Reason.RECIPE_SYNTAX, file=self.tree.name, line=line, key=key))

    def read(self, text: str) -> None:
        """Read all of it; behind a syntax error, go on at the next line that looks like a key of its own."""
        lines = text.splitlines(keepends=True)
        for _ in range(_SYNTAX_ERRORS):
            failed = self._read_part("".join(lines[self._above :]))
            if failed is None:
                return
            following = range(failed, len(lines))
            self._above = next((number for number in following if _TOP_KEY.match(lines[number])), len(lines))
            self._open, self._documents = [], 0

    def _read_part(self, text: str) -> int | None:
        """Read up to the first syntax error and return its line, or None at the end."""
        try:
            self._fold(YAML(typ="safe", pure=True).parse(text))
        except _TooDeep as error:
            self._spoil(error.line)
        except YAMLError as error:
            line, message = explain(error)
            line += self._above
            # A syntax error behind tabs is most likely theirs.
            if not any(problem.code == "tab" for problem in self.tree.problems):
                self.refuse("yaml_syntax", message, line)
            self._spoil(line)
            return line
        return None

    def _spoil(self, line: int) -> None:
        """What was being read when it broke off on this line was not read to its end."""
        self.tree.whole = False
        opened = (self._newest[:length] for length in range(1, len(self._newest) + 1))
        self.tree.spoilt.update(path for path in opened if self._line_of(path) == line)

    def _line_of(self, path: Path) -> int | None:
        place = self.tree.places.get(path)
        return place.line if place else None

    def _fold(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, DocumentStartEvent):
                self._start_document(event)
            elif isinstance(event, CollectionEndEvent):
                self._open.pop()
            elif isinstance(event, NodeEvent) and self._documents == 1:
                self._add(event)
            if self._documents > 1:
                return

    def _start_document(self, event: DocumentStartEvent) -> None:
        self._documents += 1
        line = self._above + event.start_mark.line + 1
        if event.version or event.tags:
            self.refuse("yaml_directive", "this line is a YAML directive (%); remove it, recipes are YAML 1.2", line)
        if self._documents > 1:
            self.refuse(
                "several_documents",
                "a second document begins here (---); a recipe is one document, remove the line",
                line,
            )

    def _add(self, event: NodeEvent) -> None:
        line = self._above + event.start_mark.line + 1
        value, written = _value(event)
        if not self._open and isinstance(event, MappingStartEvent):
            value = self.tree.values
        elif not self._open:
            self._refuse_top(event, line)
        path = self._newest = self._attach(event, value, line, written)
        self._refuse_specials(event, line, path)
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            self._open.append(_Frame(value, self._inside(path)))
            if len(self._open) > DEEPEST:
                self.refuse(
                    "too_deep",
                    f"this is nested more than {DEEPEST} levels deep; a recipe needs three, remove the others",
                    line,
                )
                raise _TooDeep(line)

    def _refuse_top(self, event: NodeEvent, line: int) -> None:
        if isinstance(event, ScalarEvent) and event.style is None and not event.value:
            return  # an empty file: everything it does not say has a default or is missing
        what = "a list" if isinstance(event, SequenceStartEvent) else "plain text"
        self.refuse(
            "not_a_map",
            f"this is {what}; a recipe is lines such as base_model: demo, with a space after the colon",
            line,
        )
        self.tree.whole = False

    def _attach(self, event: NodeEvent, value: Any, line: int, written: str) -> Path:  # noqa: ANN401
        """Put a value where it belongs and return its path."""
        if not self._open:
            return ()
        frame = self._open[-1]
        if isinstance(frame.value, list):
            frame.value.append(value)
            return frame.path
        if frame.key is None:
            self._take_key(frame, event, line)
            return (*frame.path, frame.key or "")
        path = (*frame.path, frame.key)
        frame.value[frame.key] = value
        self.tree.places[path] = Place(self.tree.name, frame.key_line, written)
        frame.key = None
        return path

    def _inside(self, path: Path) -> Path:
        """Where the keys below the value just put at `path` stand; each item of a list is a place of its own."""
        above = self._open[-1].value if self._open else None
        return (*path, f"[{len(above)}]") if isinstance(above, list) else path

    def _take_key(self, frame: _Frame, event: NodeEvent, line: int) -> None:
        frame.key, frame.key_line = event.value if isinstance(event, ScalarEvent) else "?", line
        path = (*frame.path, frame.key)
        if not isinstance(event, ScalarEvent):
            self.refuse("complex_key", "this key is not a word; a recipe is lines such as base_model: demo", line)
            self.tree.spoilt.add(path)
        elif first := self.tree.places.get(path):
            key = _dotted(path)
            self.refuse("duplicate_key", f"{key} is set twice, here and on line {first.line}; keep one", line, key=key)

    def _refuse_specials(self, event: NodeEvent, line: int, path: Path) -> None:
        """Anchors, aliases and tags: the parts of YAML that make bombs and run code."""
        key = _dotted(path) or None
        if isinstance(event, AliasEvent):
            self.refuse("yaml_alias", f"*{event.anchor} is a YAML alias; write the value out", line, key=key)
        elif event.anchor is not None:
            self.refuse("yaml_anchor", f"&{event.anchor} is a YAML anchor; remove it", line, key=key)
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            self.refuse("yaml_tag", f"{shown} is a YAML tag; remove it and write a plain value", line, key=key)
        if tag is not None or isinstance(event, AliasEvent):
            self.tree.spoilt.add(path)


def _dotted(path: Path) -> str:
    """A path as it is written in prose: `lora.r`, `sample_prompts[2].role`, counted from one."""
    return ".".join(path).replace(".[", "[")


def _value(event: NodeEvent) -> tuple[Any, str]:
    """A node's value (containers still empty) and how it is written."""
    if isinstance(event, MappingStartEvent):
        return {}, "a group of keys"
    if isinstance(event, SequenceStartEvent):
        return [], "a list"
    if isinstance(event, ScalarEvent):
        plain = event.style is None
        return (scalar(event.value) if plain else event.value), event.value if plain else f'"{event.value}"'
    return None, "an alias"
