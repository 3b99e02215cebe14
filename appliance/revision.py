"""Which commit runs here, for the build information."""

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


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
