"""Reading our HTML pages the way a browser does: elements, attributes and visible text."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

INLINE = {"a", "b", "bdi", "code", "em", "mark", "span", "strong", "time"}


class Page(HTMLParser):
    """A page's elements with their attributes, and the text outside `<style>` and `<title>`."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.styles: list[str] = []
        self._pieces: list[str] = []
        self._marked: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._space(tag)
        if tag in ("style", "title", "mark", "script"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        self._space(tag)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def _space(self, tag):
        if tag not in INLINE:
            self._pieces.append(" ")

    def handle_data(self, data):
        if "style" in self._open:
            self.styles.append(data)
        elif "title" not in self._open:
            self._pieces.append(data)
            if "mark" in self._open:
                self._marked.append(data)

    @property
    def text(self) -> str:
        """Everything a reader sees, white space squeezed."""
        return " ".join("".join(self._pieces).split())

    @property
    def marked(self) -> list[str]:
        """The texts of `<mark>`."""
        return self._marked

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def addresses(self) -> Iterator[str]:
        """Everything the page could load or lead to."""
        for _, attributes in self.elements:
            for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action", "background"):
                if name in attributes:
                    yield attributes[name]
            yield from re.findall(r"url\(([^)]*)\)", attributes.get("style", "") + attributes.get("clip-path", ""))
        for style in self.styles:
            yield from re.findall(r"url\(([^)]*)\)|@import\s+([^;]*)", style)

    def handlers(self) -> list[str]:
        """Attributes that would run something."""
        return [name for _, attributes in self.elements for name in attributes if name.startswith("on")]


def assert_inert(page: Page) -> None:
    """Nothing runs, and nothing is loaded but what lies beside the page or inside it."""
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "iframe",
        "object",
        "embed",
        "img",
        "link",
        "form",
        "base",
    }
    assert page.handlers() == []
    assert [address for address in page.addresses() if not re.fullmatch(r"#\w+|[\w.]+", address)] == []
