"""Numbers, times and other people's text as a person reads them. Used by every page and file we write for people."""

import re
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Final

from appliance.job import Push, Stage, Verdict

# The claim about held-out rows is exactly this one, never "it is better".
VERDICTS: Final[Mapping[Verdict, str]] = {
    Verdict.IMPROVED: "it fits your held-out rows better than the base does",
    Verdict.NO_BETTER: "it does not fit your held-out rows better than the base does",
    Verdict.UNPROVEN: "it is not proven that it fits your held-out rows better than the base does",
    Verdict.BROKEN: "it is broken and must not be used",
}

# Above samples from rows where none were held out.
NOT_HELD_OUT: Final = "No rows were held out: these are from the rows it was trained on, so it may know them by heart."

PUSHES: Final[Mapping[Push, str]] = {
    Push.OFF: "it is not pushed",
    Push.PENDING: "it waits to be pushed, and is tried again by itself",
    Push.PUSHED: "it lies in a repository of the organisation",
    Push.WITHHELD: "its verdict did not pass the gate; `appliance push` pushes it all the same",
    Push.BLOCKED: "somebody has to do something first",
}

# What a job does in each stage, after "while it was" or "now".
STAGES: Final[Mapping[Stage, str]] = {
    Stage.CHECK: "checking the rows",
    Stage.FETCH: "fetching the base model",
    Stage.PREPARE: "preparing the rows",
    Stage.TRAIN: "training",
    Stage.VERIFY: "verifying the adapter",
    Stage.PUBLISH: "publishing the result",
    Stage.PUSH: "pushing the adapter to the Hub",
}


def sentence(text: str) -> str:
    """The text with a full stop at its end, and a capital at its start unless that is a name like `lora.r`."""
    text = text.strip()
    if text.partition(" ")[0].rstrip(",;:").isalpha():
        text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?", ":")) else f"{text}."


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 row`, `7,473 rows`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and the settings count them: `13.2 MB`."""
    if count == 1:
        return "1 byte"
    unit, *larger = ("bytes", "kB", "MB", "GB", "TB")
    while larger and abs(count) >= 999.5:
        unit, *larger = larger
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 99.95 else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """The two largest units that matter: `4.2 s`, `3 min 20 s`, `1 h 12 min`, `2 d 4 h`."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for i, (number, unit) in enumerate(parts[:2]) if number or i == 0)


def moment(timestamp: float, zone: tzinfo | None) -> str:
    """A point in time with its zone, to the minute. No zone means the machine's own (`TZ`)."""
    return f"{_local(timestamp, zone):%Y-%m-%d %H:%M %Z}"


def moment_iso(timestamp: float, zone: tzinfo | None) -> str:
    """The same point in time for programs, as the `datetime` attribute of `<time>` wants it."""
    return _local(timestamp, zone).isoformat(timespec="seconds")


def _local(timestamp: float, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(timestamp, zone).astimezone(zone)


def loss(value: float | None) -> str:
    """A loss with the digits that mean something; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def rate(value: float | None) -> str:
    """Something per second, with three digits that mean something."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def percent(share: float) -> str:
    """`37 %` for 0.37."""
    return f"{100 * share:.0f} %"


# Override, embedding and isolate marks: they can make a name read as another.
_BIDI: Final = "\u202a-\u202e\u2066-\u2069"
_UNSEEN: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\ufeff\ud800-\udfff{_BIDI}]")
_UNSEEN_IN_BLOCKS: Final = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_BIDI}]")


def gone(name: str) -> str:
    """What is said of a dropped file that cannot be given back."""
    return f"the file {name} cannot be given back, since it is gone from the state folder; keep your own copy of it"


def visible(text: str) -> str:
    """Somebody else's text on one line, with everything that hides or reorders text spelled out: `\\u202e`."""
    return _UNSEEN.sub(_spell, text)


def visible_block(text: str) -> str:
    """The same for text of many lines, which keeps its line breaks, tabs and plain direction marks."""
    return _UNSEEN_IN_BLOCKS.sub(_spell, text.replace("\r\n", "\n"))


def _spell(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def clip(text: str, length: int) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
