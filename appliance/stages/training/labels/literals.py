"""One regular expression for many literal strings: tokenizers have thousands of control tokens. Pure."""

import re
from collections.abc import Iterable
from typing import Any, Final

_END: Final = ""


def any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of these strings; nothing when there are none."""
    return re.compile(_alternatives(strings))


def any_of_bytes(strings: Iterable[str]) -> re.Pattern[bytes]:
    """The same for UTF-8 bytes."""
    return re.compile(_alternatives(strings).encode())


def _alternatives(strings: Iterable[str]) -> str:
    # A tree of shared beginnings: plain alternatives would be tried one by one at every place.
    tree: dict[str, Any] = {}
    for string in strings:
        node = tree
        for character in string:
            node = node.setdefault(character, {})
        node[_END] = {}
    return _pattern(tree) if tree else "(?!)"


def _pattern(tree: dict[str, Any]) -> str:
    branches = [re.escape(character) + _pattern(node) for character, node in sorted(tree.items()) if character]
    if not branches:
        return ""
    group = branches[0] if len(branches) == 1 and _END not in tree else f"(?:{'|'.join(branches)})"
    return group + "?" if _END in tree else group
