"""`appliance version`."""

import json
import platform

from appliance import __version__
from appliance.revision import revision, version_and_commit


def version(*, as_json: bool) -> None:
    """Print the version and the commit, for JSON together with Python's version."""
    facts = {"version": __version__, "revision": revision(), "python": platform.python_version()}
    print(json.dumps(facts) if as_json else version_and_commit())
