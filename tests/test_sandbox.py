"""What train and verify cannot do any more: speak to the internet, read secrets, look into other processes."""

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import sandbox
from appliance.job import Stage
from appliance.processes import HIDDEN, stage_environment
from appliance.settings import Settings
from tests.jobs import make_job

needs_landlock = pytest.mark.skipif(sandbox.landlock_version() == 0, reason="this kernel has no Landlock")
STAGES = ["train", "verify"]

# Runs as a stage's own code runs: after confinement, in its environment and folder. Prints what came of each try.
PROGRAM = """
import json, os, socket, subprocess, sys, threading
from pathlib import Path
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.confinement import confine

confine(Stage(sys.argv[1]), JobDir(Path(sys.argv[2])), Settings.load())

def outcome(act):
    try:
        return act() or "done"
    except OSError as error:
        return type(error).__name__

tries = json.loads(sys.argv[3])
families = {name: getattr(socket, name) for name in tries["families"]}
said = {name: outcome(lambda: socket.socket(family, tries["kind"]).close()) for name, family in families.items()}
said["pair"] = outcome(lambda: [one.close() for one in socket.socketpair()] and None)
said["child"] = subprocess.run(
    [sys.executable, "-S", "-c", "import socket; socket.socket(socket.AF_INET)"], capture_output=True
).returncode
said["thread"] = []
thread = threading.Thread(target=lambda: said["thread"].append(outcome(lambda: socket.socket().close())))
thread.start(); thread.join()
said["read"] = {path: outcome(lambda: Path(path).read_text()) for path in tries["read"]}
said["write"] = {path: outcome(lambda: Path(path).write_text("x") and None) for path in tries["write"]}
said["parent"] = outcome(lambda: open(f"/proc/{os.getppid()}/mem", "rb").close())
said["environment"] = dict(os.environ)
if tries["ask_for_token"]:
    from huggingface_hub import get_token
    said["token"] = outcome(get_token)
print(json.dumps(said))
"""


class Stand:
    """An installation with a job and secrets, and a program that tries things from inside a stage of that job."""

    def __init__(self, folder: Path) -> None:
        for name in ("inbox", "outbox", "models", "recipes", "secrets", "state/jobs", "state/cache/huggingface"):
            (folder / name).mkdir(parents=True)
        (folder / "secrets" / "api_token").write_text("s3cret-word")
        (folder / "secrets" / "share_accounts").write_text("anna:s3cret-word")
        for name in ("token", "stored_tokens"):
            (folder / "state" / "cache" / "huggingface" / name).write_text("s3cret-word")
        (folder / ".env").write_text("APPLIANCE_HUB_READ_TOKEN=s3cret-word\n")
        (folder / "models" / "config.json").write_text("{}")
        (folder / "state" / "cache" / "huggingface" / "hub").mkdir()
        (folder / "state" / "cache" / "huggingface" / "hub" / "config.json").write_text("{}")
        self.folder = folder
        self.models = "models"
        self.job = make_job(folder / "state" / "jobs" / "0007-support", {"a.jsonl": "{}\n"})
        self.other = make_job(folder / "state" / "jobs" / "0008-other", {"b.jsonl": "{}\n"})

    def try_from(
        self, stage: str, *, read: tuple[Path, ...] = (), write: tuple[Path, ...] = (), ask_for_token: bool = False
    ) -> dict:
        given = {
            **os.environ,
            "APPLIANCE_API_TOKEN_FILE": str(self.folder / "secrets" / "api_token"),
            "APPLIANCE_READ_TOKEN": "s3cret-word",
            **{f"APPLIANCE_{name.upper()}": str(self.folder / name) for name in ("inbox", "outbox", "state")},
            "APPLIANCE_MODELS": str(self.folder / self.models),
        }
        settings = Settings.load(given, dotenv=self.folder / ".env")
        tries = {"families": ["AF_UNIX", "AF_INET", "AF_INET6", "AF_PACKET"], "kind": 2}
        tries |= {"read": list(map(str, read)), "write": list(map(str, write)), "ask_for_token": ask_for_token}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, stage, self.job.path, json.dumps(tries)],
            cwd=self.job.stage(Stage(stage)),
            env=stage_environment(Stage(stage), settings, given),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.chdir(tmp_path)
    return Stand(tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_gets_no_internet_socket_and_neither_do_its_children_and_threads(stand: Stand, stage: str):
    said = stand.try_from(stage)
    assert {name: said[name] for name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_PACKET", "pair")} == {
        "AF_UNIX": "done",
        "AF_INET": "PermissionError",
        "AF_INET6": "PermissionError",
        "AF_PACKET": "PermissionError",
        "pair": "done",
    }
    assert said["child"] == 1
    assert said["thread"] == ["PermissionError"]


@needs_landlock
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_no_secret_and_nobody_else_s_data(stand: Stand, stage: str):
    hidden = (
        stand.folder / "secrets" / "api_token",
        stand.folder / "secrets" / "share_accounts",
        stand.folder / ".env",
        stand.folder / "state" / "cache" / "huggingface" / "token",
        stand.folder / "state" / "cache" / "huggingface" / "stored_tokens",
        stand.other.dropped / "b.jsonl",
    )
    said = stand.try_from(stage, read=hidden)
    assert said["read"] == {str(path): "PermissionError" for path in hidden}
    assert said["parent"] == "PermissionError"


def test_to_the_hub_s_library_nobody_is_logged_in(stand: Stand):
    assert stand.try_from("train", ask_for_token=True)["token"] == "done"


@needs_landlock
def test_a_stage_reads_what_it_needs_and_writes_its_own_folder_only(stand: Stand):
    snapshot = stand.folder / "state" / "cache" / "huggingface" / "hub" / "config.json"
    needed = (stand.folder / "models" / "config.json", snapshot, stand.job.dropped / "a.jsonl", Path(json.__file__))
    own = (stand.job.path / "train" / "x", stand.folder / "state" / "cache" / "triton" / "x", Path("/dev/shm/box-x"))
    others = (
        stand.job.path / "job.json",
        stand.job.path / "verify" / "x",
        stand.other.path / "x",
        stand.folder / "models" / "config.json",
        stand.folder / "state" / "cache" / "huggingface" / "x",
        stand.folder / "outbox" / "x",
        stand.folder / "x",
    )
    stand.job.stage(Stage.VERIFY)
    try:
        said = stand.try_from("train", read=needed, write=(*own, *others))
    finally:
        own[2].unlink(missing_ok=True)
    assert "PermissionError" not in said["read"].values()
    assert {path: said["write"][str(path)] for path in own} == dict.fromkeys(own, "done")
    assert {path: said["write"][str(path)] for path in others} == dict.fromkeys(others, "PermissionError")


@needs_landlock
@pytest.mark.parametrize("place", ["state/models", "outbox/models"])
def test_models_are_seen_where_they_lie_in_a_folder_that_is_hidden(stand: Stand, place: str):
    (stand.folder / "models").rename(stand.folder / place)
    stand.models = place
    model, other = stand.folder / place / "config.json", stand.other.dropped / "b.jsonl"
    said = stand.try_from("train", read=(model, other), write=(model,))
    assert said["read"] == {str(model): "{}", str(other): "PermissionError"}
    assert said["write"] == {str(model): "PermissionError"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_environment_of_a_stage_holds_no_secret(stand: Stand, stage: str):
    assert "s3cret-word" not in json.dumps(stand.try_from(stage)["environment"])


def test_where_secrets_lie_is_told_to_the_stages_that_hide_them(stand: Stand):
    said = stand.try_from("train")["environment"][HIDDEN].split(os.pathsep)
    assert said == [str(stand.folder / ".env"), str(stand.folder / "secrets" / "api_token")]


def test_visible_is_all_there_is_but_for_what_is_hidden(tmp_path: Path):
    for name in ("a/b", "a/c", "d", "e/f"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    assert set(sandbox.visible(tmp_path, {tmp_path / "a" / "b"})) == {
        tmp_path / "a" / "c",
        tmp_path / "d",
        tmp_path / "e",
    }
    assert list(sandbox.visible(tmp_path, set())) == [tmp_path]


ALLOWED, REFUSED = 0x7FFF0000, 0x00050001
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}
# socket, connect, openat, io_uring_setup: <asm/unistd.h> of each machine.
NUMBERS = {"x86_64": (41, 42, 257, 425), "aarch64": (198, 203, 56, 425)}


def judged(program: bytes, architecture: str, number: int, argument: int = 0) -> int:
    """What the kernel's BPF machine makes of one system call, as `man 2 seccomp` describes it."""
    call = struct.pack("<IIQQ", number, ARCHITECTURES[architecture], 0, argument)
    line, accumulator = 0, 0
    while True:
        code, then, otherwise, value = struct.unpack_from("HBBI", program, 8 * line)
        line += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", call, value)
            case 0x15:
                line += then if accumulator == value else otherwise
            case 0x35:
                line += then if accumulator >= value else otherwise
            case 0x06:
                return value


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_says_no_to_internet_sockets_on_either_machine(machine: str):
    program = sandbox._socket_filter(*sandbox._MACHINES[machine])
    new_socket, connect, openat, io_uring = NUMBERS[machine]
    families = {family: judged(program, machine, new_socket, family) for family in range(46)}
    assert {family for family, verdict in families.items() if verdict == ALLOWED} == {socket.AF_UNIX, socket.AF_NETLINK}
    assert set(families.values()) == {ALLOWED, REFUSED}
    assert [judged(program, machine, number) for number in (connect, openat, io_uring)] == [ALLOWED, ALLOWED, REFUSED]
    # The same processor's other ways in: 32-bit calls, and on x86-64 the x32 numbers.
    assert judged(program, "i386" if machine == "x86_64" else "arm", openat) == REFUSED
    assert judged(program, machine, 0x40000000 + new_socket, socket.AF_INET) == REFUSED


def test_a_real_training_says_nothing_of_a_kernel_that_cannot(trained_job):
    log = (trained_job.path / "train" / "stage.log").read_text()
    assert "this kernel" not in log
    assert (trained_job.path / "train" / "adapter" / "adapter_model.safetensors").exists()
