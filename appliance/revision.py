"""Which version and commit run here."""

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from appliance import __version__


@cache
def revision() -> str:
    """The commit: what an image's build wrote into `appliance/REVISION`, or what pip installed; empty when unknown."""
    written = Path(__file__).with_name("REVISION")
    if written.is_file():
        return written.read_text().strip()
    try:
        source = json.loads(distribution("spark-appliance").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    return str(source.get("vcs_info", {}).get("commit_id", ""))


def version_and_commit() -> str:
    """For people and for where a result comes from: the version, and the commit where that is known."""
    return f"{__version__}, {revision()[:12]}" if revision() else __version__
