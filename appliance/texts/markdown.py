"""Other people's text in Markdown: inert in every viewer, and still readable in a plain editor."""

import re
from typing import Final

from appliance.texts.wording import visible

# An underscore inside a word and a hyphen inside a line mean nothing in Markdown and stay as they are.
_ACTIVE: Final = re.compile(r"[\\`*\[\]<>|]|&(?=[#\w])|\b_|_\b|~(?=~)|^[~#+=-]|^\d+(?=[.)])")


def plain(text: str) -> str:
    """Text as itself: no mark-up, HTML, link or table cell can begin in it."""
    return _ACTIVE.sub(_defuse, visible(text).strip())


def _defuse(match: re.Match[str]) -> str:
    found = match[0]
    return f"{found}\\" if found[0].isdigit() else f"\\{found}"


def code(text: str) -> str:
    """Text as inline code, fenced by more backticks than it holds."""
    text = visible(text)
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def prose(text: str) -> str:
    """A sentence in which `backticks` mark what a person would type; everything else as itself."""
    parts = visible(text).strip().split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(code(part) if i % 2 else _ACTIVE.sub(_defuse, part) for i, part in enumerate(parts))


def block(text: str, language: str = "") -> str:
    """Text of many lines as a code block, fenced by more backticks than it holds."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
