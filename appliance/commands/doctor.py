"""`appliance doctor`: is this machine ready, and what mends it where it is not."""

import json
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.text import Text

from appliance import __version__
from appliance.doctor.examine import NotHealthyError, examine, is_ready
from appliance.doctor.finding import Finding, Level, problem
from appliance.settings import Settings, SettingsError
from appliance.surroundings import on_host
from appliance.texts.wording import plural

MARKS: Final = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.PROBLEM: ("✗", "red")}


def doctor(*, as_json: bool) -> None:
    """Print what was found. Raises NotHealthyError when something has to be mended first."""
    findings = look()
    if as_json:
        ready = {"ready": is_ready(findings), "version": __version__}
        print(json.dumps({**ready, "checks": [finding.as_json() for finding in findings]}, indent=2))
    else:
        _print(findings)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if problems:
        raise NotHealthyError(f"not ready: {plural(problems, 'problem')}")


def look() -> list[Finding]:
    """Every finding; settings that cannot be used are the only one, since every check needs them."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        return [problem("settings", error.message, error.hint or on_host("edit .env"), stops=True)]
    return examine(settings, online=True)


def _print(findings: Iterable[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        mark, colour = MARKS[finding.level]
        console.print(Text.assemble((f"{mark} ", colour), (f"{finding.check:<14} ", "dim"), finding.message))
        if finding.remedy:
            console.print(Text.assemble((" " * 17, ""), ("→ ", "dim"), finding.remedy))
