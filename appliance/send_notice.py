"""Sends one notification: a program that the notifier starts, so that apprise stays out of the daemon.

`python -m appliance.send_notice` reads `{"url", "title", "body"}` from standard input. Exit code 0: sent; 1: not sent;
2: the address is none that apprise knows. Without a title nothing is sent: the address is only looked at. It prints
nothing: addresses hold keys.
"""

import json
import sys
from typing import Final

SENT: Final = 0
NOT_SENT: Final = 1
NO_ADDRESS: Final = 2


def main() -> int:
    import apprise

    request = json.load(sys.stdin)
    # Nothing of it is kept on the disk.
    asset = apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY, app_id="Spark Appliance")
    sender = apprise.Apprise(asset=asset)
    if not sender.add(request["url"]):
        return NO_ADDRESS
    if not request["title"]:
        return SENT
    sent = sender.notify(request["body"], title=request["title"], body_format=apprise.NotifyFormat.TEXT)
    return SENT if sent else NOT_SENT


if __name__ == "__main__":
    sys.exit(main())
