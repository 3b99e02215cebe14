"""Reading our HTML pages the way a browser does: elements, attributes and visible text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

INLINE = {"a", "b", "bdi", "code", "em", "mark", "span", "strong", "time"}
# Never closed in HTML; inside an SVG what is empty closes itself.
VOID = {"br", "hr", "img", "input", "link", "meta"}
ACTIVE = {"applet", "audio", "base", "embed", "form", "frame", "iframe", "img", "link", "object", "script", "video"}
LOADING = ("action", "background", "data", "formaction", "href", "ping", "poster", "src", "srcset", "xlink:href")
REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything a reader sees of it, white space squeezed."""
        return " ".join("".join(self.pieces).split())


class Page(HTMLParser):
    """A page's elements with their attributes and texts; what stands in `<style>` and `<title>` is not text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[Element] = []
        self.styles: list[str] = []
        self.misnested: list[str] = []
        self._whole = Element("", {})
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        self.misnested += [element.tag for element in self._open]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self._space(tag)
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        self._space(tag)
        if self._open and self._open[-1].tag == tag:
            self._open.pop()
        else:
            self.misnested.append(tag)

    def _space(self, tag):
        if tag not in INLINE:
            self._add(" ")

    def handle_data(self, data):
        tags = {element.tag for element in self._open}
        if "style" in tags:
            self.styles.append(data)
        elif "title" not in tags:
            self._add(data)

    def _add(self, text):
        for element in (self._whole, *self._open):
            element.pieces.append(text)

    @property
    def text(self) -> str:
        """Everything a reader sees, white space squeezed."""
        return self._whole.text

    @property
    def marked(self) -> list[str]:
        """The texts of `<mark>`, with their white space."""
        return ["".join(element.pieces) for element in self.all("mark")]

    @property
    def tags(self) -> set[str]:
        return {element.tag for element in self.elements}

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def texts(self, tag: str) -> list[str]:
        return [element.text for element in self.all(tag)]

    def count(self, tag: str) -> int:
        return len(self.all(tag))

    def ids(self) -> list[str]:
        return [element.attributes["id"] for element in self.elements if "id" in element.attributes]

    def meta(self, http_equiv: str) -> list[str]:
        return [e.attributes["content"] for e in self.all("meta") if e.attributes.get("http-equiv") == http_equiv]

    def addresses(self) -> Iterator[str]:
        """Everything the page could load or lead to."""
        for element in self.elements:
            yield from (element.attributes[name] for name in LOADING if name in element.attributes)
            for value in element.attributes.values():
                yield from re.findall(r"url\(([^)]*)\)", value)
        for style in self.styles:
            yield from re.findall(r"url\(([^)]*)\)", style)
            yield from re.findall(r"@import\s+([^;]*)", style)

    def handlers(self) -> list[str]:
        """Attributes that would run something."""
        return [name for element in self.elements for name in element.attributes if name.startswith("on")]


def assert_inert(page: Page) -> None:
    """Nothing runs, nothing is loaded but what lies beside or inside, and no text reorders what stands around it."""
    assert page.misnested == []
    assert not page.tags & ACTIVE
    assert page.handlers() == []
    assert [address for address in page.addresses() if not re.fullmatch(r"#[\w-]+|[\w./-]+", address)] == []
    assert not REORDERING & set(page.html)
    assert page.meta("Content-Security-Policy")[0].startswith("default-src 'none'")
    page.html.encode()
