"""`python -m tests.hanging_daemon serve`: the real daemon, on an inbox and an outbox that may stop answering.

They do as soon as a file `hang` lies in the folder that it is started in. Who hangs there leaves a file with its name.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import status_files, survey
from appliance.cli import main


def may_hang(do: Callable[..., Any], *, name: str) -> Callable[..., Any]:
    def hanging(*arguments: Any, **more: Any) -> Any:
        if Path("hang").exists():
            Path(name).touch()
            threading.Event().wait()
        return do(*arguments, **more)

    return hanging


if __name__ == "__main__":
    status_files.write_whole = may_hang(status_files.write_whole, name="hangs-outbox")
    survey.Surveyor.look = may_hang(survey.Surveyor.look, name="hangs-inbox")  # type: ignore[method-assign]
    main()
