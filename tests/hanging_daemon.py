"""`python -m tests.hanging_daemon serve`: the real daemon, on an inbox and an outbox that may stop answering.

They do as soon as a file `hang` lies in the folder that it is started in. Who hangs there leaves a file with its name.
With a file `broken` there every turn of the loop meets an error.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import daemon, status_files, survey
from appliance.cli import main


def may_hang(do: Callable[..., Any], *, name: str) -> Callable[..., Any]:
    def hanging(*arguments: Any, **more: Any) -> Any:
        if Path("hang").exists():
            Path(name).touch()
            threading.Event().wait()
        return do(*arguments, **more)

    return hanging


def may_break(turn: Callable[..., None]) -> Callable[..., None]:
    def breaking(*arguments: Any, **more: Any) -> None:
        if Path("broken").exists():
            raise RuntimeError("broken")
        turn(*arguments, **more)

    return breaking


if __name__ == "__main__":
    daemon.Appliance.tick = may_break(daemon.Appliance.tick)  # type: ignore[method-assign]
    status_files.write_whole = may_hang(status_files.write_whole, name="hangs-outbox")
    survey.Surveyor.look = may_hang(survey.Surveyor.look, name="hangs-inbox")  # type: ignore[method-assign]
    main()
