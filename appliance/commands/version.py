"""`appliance version`."""

import json
import platform

from appliance import __version__


def version(*, as_json: bool) -> None:
    """Print the version, for JSON together with Python's."""
    facts = {"version": __version__, "python": platform.python_version()}
    print(json.dumps(facts) if as_json else __version__)
