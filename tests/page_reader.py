"""What a browser would make of a page: its elements and its text, and whether anything in it could run or fetch."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use", "line", "rect", "circle", "polyline", "polygon"}
ACTIVE = {"script", "iframe", "object", "embed", "link", "base", "form", "video", "audio", "img", "applet", "frame"}
POLICY = "Content-Security-Policy"
FETCHING = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "manifest"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Page:
    elements: list[Element] = field(default_factory=list)
    styles: str = ""
    text: str = ""
    unclosed: list[str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def texts(self, tag: str) -> list[str]:
        return [" ".join(element.text.split()) for element in self.all(tag)]

    def links(self) -> list[str]:
        return [element.attributes["href"] or "" for element in self.all("a")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self.open: list[Element] = []

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.page.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.page.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open[-1].tag != tag:
            self.page.unclosed.append(tag)
            return
        self.open.pop()

    def handle_data(self, data):
        if any(element.tag == "style" for element in self.open):
            self.page.styles += data
            return
        self.page.text += data
        for element in self.open:
            element.text += data


def read_page(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.unclosed += [element.tag for element in reader.open]
    return reader.page


def assert_inert(html: str) -> Page:
    """Well-formed, and nothing in it runs, fetches, or reorders the text around it. Returns the page."""
    page = read_page(html)
    assert page.unclosed == []
    for element in page.elements:
        assert element.tag not in ACTIVE, element
        names = {name.lower() for name in element.attributes}
        assert not any(name.startswith("on") for name in names), element
        assert not names & FETCHING, element
        for name in names & {"href", "xlink:href"}:
            target = element.attributes[name] or ""
            assert not target.lower().startswith(("javascript:", "data:", "//")), element
            assert element.tag == "a" or target.startswith("#"), element
        assert "url(" not in (element.attributes.get("style") or "").replace("url(#", ""), element
    assert "@import" not in page.styles
    assert "url(" not in page.styles
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(html)
    policies = [e.attributes["content"] for e in page.all("meta") if e.attributes.get("http-equiv") == POLICY]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    html.encode()
    return page
