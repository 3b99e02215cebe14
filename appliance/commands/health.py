"""`python -m appliance.commands.health`: the container's health check. Ends with 1 and the reason when unwell."""

import http.client
import os
import sys
import urllib.error
import urllib.request
from typing import Final

TIMEOUT_SECONDS: Final = 8.0
# Alive first: a loop that hangs has been ready once.
QUESTIONS: Final = ("healthz", "readyz")


def main() -> int:
    # Read here and not by Settings: the check runs every few seconds and needs no more than the port.
    port = os.environ.get("APPLIANCE_LISTEN", "127.0.0.1:8080").rpartition(":")[2]
    # Proxy variables are for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for question in QUESTIONS:
        try:
            opener.open(f"http://127.0.0.1:{port}/{question}", timeout=TIMEOUT_SECONDS).close()
        except urllib.error.HTTPError as error:
            print(error.read().decode(errors="replace").strip())
            return 1
        except OSError as error:
            print(f"no answer on port {port}: {error}")
            return 1
        except http.client.HTTPException as error:
            print(f"something else answers on port {port}: {str(error).strip()}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
