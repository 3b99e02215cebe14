"""The quality gate before a push: what a verdict means for the Hub. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from appliance.job import Push, Verdict

PushWhen = Literal["improved", "not_worse", "not_broken"]

# Which verdicts each setting lets through; a broken adapter is never published, and so never pushed.
LETS_THROUGH: Final[Mapping[PushWhen, frozenset[Verdict]]] = {
    "improved": frozenset({Verdict.IMPROVED}),
    "not_worse": frozenset({Verdict.IMPROVED, Verdict.UNPROVEN}),
    "not_broken": frozenset({Verdict.IMPROVED, Verdict.UNPROVEN, Verdict.NO_BETTER}),
}


@dataclass(frozen=True)
class PushRules:
    """What the administrator's settings say about pushing."""

    organisation: str | None = None
    push: bool = True
    when: PushWhen = "not_worse"


def push_after(verdict: Verdict | None, rules: PushRules, *, wanted: bool | None) -> Push:
    """What becomes of the push of a succeeded job. `wanted` is the recipe's word, None when it has none."""
    if rules.organisation is None or verdict is None:
        return Push.OFF
    if not (rules.push if wanted is None else wanted):
        return Push.OFF
    return Push.PENDING if verdict in LETS_THROUGH[rules.when] else Push.WITHHELD
