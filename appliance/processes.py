"""Starting, watching and stopping stages. Nothing else knows that a stage is a local process.

A stage runs in its own session and process group, in its own folder, with an environment that is built here from
nothing: no token and no variable of the daemon's that the stage does not need. Only the main loop starts stages: the
death signal that a stage asks for follows the thread that started it.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from appliance.exits import STOPPED
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.places import resolved
from appliance.settings import ADDRESSES, PREFIX, SECRETS, Settings

PARENT: Final = "_APPLIANCE_PARENT_PID"
# Where secrets lie, for those stages that hide them from themselves (`stages/confinement.py`).
HIDDEN: Final = "_APPLIANCE_HIDDEN"
# What a stage may see of the daemon's own environment.
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")
FOR_NETWORK: Final = (
    *("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
# No stage notifies anybody, and the addresses carry keys.
SECRET_VARIABLES: Final = frozenset(
    [PREFIX + name + ending for name in (*SECRETS, *ADDRESSES) for ending in ("", "_FILE")]
    + [PREFIX + name for name in ("BEFORE_TRAIN_URL", "AFTER_TRAIN_URL")]
)


class StageProcess(Protocol):
    """A stage that was started."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""

    def ask_to_stop(self) -> None:
        """SIGTERM to the whole group: save what can be saved and end."""

    def kill(self) -> None:
        """SIGKILL to the whole group."""


Command = Callable[[Stage, Path], list[str]]


def stage_command(stage: Stage, job: Path) -> list[str]:
    """What anyone can type to run the same stage again."""
    return [sys.executable, "-m", "appliance.stages", stage.value, str(job)]


@dataclass(frozen=True)
class LocalProcess:
    """A stage as a process group on this machine."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def poll(self) -> int | None:
        if self.popen.returncode is None and _has_ended(self.pid):
            # The stage is gone; nothing that it started may outlive it. Its number is its own until it is reaped.
            signal_group(self.pid, signal.SIGKILL)
        return self.popen.poll()

    def ask_to_stop(self) -> None:
        signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        signal_group(self.pid, signal.SIGKILL)


def start_stage(stage: Stage, job: JobDir, settings: Settings, *, command: Command = stage_command) -> StageProcess:
    """Run a stage on a job directory; what it prints goes to `stage.log` in the stage's folder."""
    folder = job.stage(stage)
    with (folder / "stage.log").open("ab") as log:
        popen = subprocess.Popen(
            command(stage, job.path),
            cwd=folder,
            env=stage_environment(stage, settings, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalProcess(popen)


def stage_environment(stage: Stage, settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a stage: network settings and a token for fetch (reading) and push (writing) alone."""
    passed = {name: environment[name] for name in PASSED_ON if name in environment}
    # `.env` lies where the daemon was started, and a stage works elsewhere.
    given = settings.variables() | {name: value for name, value in environment.items() if value}
    ours = {name: value for name, value in given.items() if name.startswith(PREFIX) and name not in SECRET_VARIABLES}
    caches = _cache_folders(settings, environment)
    folders = {f"{PREFIX}{name.upper()}": str(resolved(getattr(settings, name))) for name in _FOLDERS}
    hidden = os.pathsep.join(map(str, settings.secret_files()))
    own = {
        PARENT: str(os.getpid()),
        HIDDEN: hidden,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": environment.get("PYTHONPATH", ""),
    }
    if stage not in _TOKENS:
        # Nobody is logged in: to the Hub's library a login that is hidden from the stage is an error.
        return passed | ours | caches | folders | own | {"HF_HUB_OFFLINE": "1", "HF_TOKEN_PATH": os.devnull}
    network = {name: environment[name] for name in FOR_NETWORK if name in environment}
    value = getattr(settings, _TOKENS[stage])
    token = {PREFIX + _TOKENS[stage].upper(): value} if value else {}
    return passed | ours | caches | folders | own | network | token


# The stages with network, and the one token that each may have.
_TOKENS: Final = {Stage.FETCH: "hub_read_token", Stage.PUSH: "hub_token"}
_FOLDERS = ("inbox", "outbox", "recipes", "state", "models")


def _cache_folders(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Every cache on the state volume: the root file system may be read-only and the user without a home."""
    cache = resolved(settings.state) / "cache"
    return {
        "HOME": str(cache / "home"),
        "XDG_CACHE_HOME": str(cache),
        "HF_HOME": environment.get("HF_HOME", str(cache / "huggingface")),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "UNSLOTH_COMPILE_LOCATION": str(cache / "unsloth"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
    }


def die_with_parent() -> None:
    """Ask the kernel to end this process when the thread that started it ends, however it ends.

    PR_SET_PDEATHSIG (1) follows the thread that spawned us. A parent already gone is seen in getppid: then this exits.
    Nothing of it where whoever started us did not write down who that is: a stage that is run by hand.
    """
    parent = os.environ.get(PARENT)
    if not parent:
        return
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(STOPPED)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group that may be gone already."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def io_bytes(pid: int) -> int | None:
    """How much a process has read and written so far, in bytes: a sign of life. None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]) + int(counts["wchar"])


def started_at(pid: int) -> int | None:
    """When a process began, in clock ticks since boot: with the pid it names one process for good."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in parentheses and may hold spaces; the start time is field 22.
    return int(status.rpartition(")")[2].split()[19])


def kill_leftover(pid: int, pid_started: int) -> None:
    """End a stage of an earlier daemon, if that very process still runs."""
    if runs(pid, pid_started):
        signal_group(pid, signal.SIGKILL)


def runs(pid: int, pid_started: int) -> bool:
    """Whether that very process still runs."""
    return started_at(pid) == pid_started


def boot_id() -> str:
    """Changes when the machine was started anew: tells a crash of the host from one of the daemon."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
