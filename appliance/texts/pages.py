"""The HTML pages we write as files: one environment, everything escaped, nothing loaded from outside."""

from collections.abc import Mapping
from datetime import tzinfo
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from appliance.texts import wording

# Even text that slipped through the escaping could neither run nor fetch anything.
CONTENT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)


def render(template: str, context: Mapping[str, object]) -> str:
    """One page from its template. Text is escaped; a name the template misspells is an error."""
    return _environment().get_template(template).render(context, policy=CONTENT_POLICY)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("appliance"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "duration": wording.duration,
        "loss": wording.loss,
        "plural": wording.plural,
        "rate": wording.rate,
        "sentence": wording.sentence,
        "size": wording.size,
        "visible": wording.visible,
        "foreign": foreign,
        "foreign_block": foreign_block,
        "clip": wording.clip,
        "coded": coded,
        "time": time_tag,
    }
    return environment


def foreign(text: str) -> Markup:
    """Somebody else's text inside one of our lines: escaped, and unable to reorder what stands around it."""
    return Markup("<bdi>{}</bdi>").format(wording.visible(text))


def foreign_block(text: str) -> Markup:
    """Somebody else's text of many lines, for an element that keeps white space."""
    return Markup("{}").format(wording.visible_block(text))


def coded(text: str) -> Markup:
    """A sentence in which `backticks` mark what a person would type."""
    parts = wording.visible(text).split("`")
    if len(parts) % 2 == 0:
        return Markup("<bdi>{}</bdi>").format(wording.visible(text))
    code = Markup("<code>{}</code>")
    pieces = (code.format(part) if i % 2 else part for i, part in enumerate(parts))
    return Markup("<bdi>{}</bdi>").format(Markup("").join(pieces))


def time_tag(timestamp: float, zone: tzinfo | None) -> Markup:
    """A point in time, readable for people and for programs."""
    return Markup('<time datetime="{}">{}</time>').format(
        wording.moment_iso(timestamp, zone), wording.moment(timestamp, zone)
    )
