"""Pushes one parcel to the Hub: a program that the push stage starts and may kill.

`python -m appliance.stages.upload` reads an order from standard input (one JSON object: `errand`, `parcel`,
`intentions` and `token`, perhaps `patience`, words for `connect`) and prints one JSON object a line: `{"phase"}` as it
goes on, then either `{"pushed"}`, `{"xet": why}` when large files do not get through Xet, or `{"failure"}`. The token
comes by the pipe: it stands in no argument and in no environment of this process.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.hub.connection import connect
from appliance.hub.faults import explain
from appliance.hub.intentions import Intentions
from appliance.hub.parcel import ParcelFile
from appliance.hub.push import Errand, XetBroken, push
from appliance.logs import redact_output, redactor
from appliance.processes import die_with_parent


def main() -> None:
    die_with_parent()
    order = json.load(sys.stdin)
    redact_output([order["token"]])
    logging.basicConfig(level=logging.WARNING)
    tell(**carry_out(order))


def carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """Push, and say what came of it. Never raises: every fault has its class, and none carries the token."""
    errand = Errand(**order["errand"])
    parcel = tuple(ParcelFile(**{**entry, "path": Path(entry["path"])}) for entry in order["parcel"])
    try:
        api = connect(order["token"], **order.get("patience", {}))
        pushed = push(
            api, errand, parcel, Intentions(Path(order["intentions"])), report=lambda phase: tell(phase=phase)
        )
    except XetBroken as error:
        return {"xet": redactor([order["token"]])(str(error))}
    except Exception as error:
        # Every fault is told to the parent, in its own class.
        logging.getLogger(__name__).warning("the push met a fault", exc_info=True)
        failure = explain(error).as_json()
        failure["message"] = redactor([order["token"]])(failure["message"])
        return {"failure": failure}
    return {"pushed": asdict(pushed)}


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
