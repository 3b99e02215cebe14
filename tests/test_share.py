"""A real SMB server in front of the inbox: what arrives over a network share becomes one right job each."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.job import Role
from tests.box import Box

DEADLINE_SECONDS = 60.0
CONFIGURATION = """
[global]
server role = standalone server
map to guest = Bad User
guest account = {user}
smb ports = {port}
interfaces = lo
bind interfaces only = yes
disable netbios = yes
load printers = no
printing = bsd
printcap name = /dev/null
log file = {folder}/smbd.log
private dir = {folder}
lock directory = {folder}
state directory = {folder}
cache directory = {folder}
pid directory = {folder}
ncalrpc dir = {folder}/ncalrpc
usershare path =

[inbox]
path = {inbox}
guest ok = yes
read only = no
force user = {user}
"""
MISSING = next((program for program in ("smbd", "smbclient") if shutil.which(program) is None), None)

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"{MISSING} is not installed (Debian: samba, smbclient)"),
    pytest.mark.skipif(os.getuid() != 0, reason="smbd only starts as root"),
]


class Share:
    """An SMB server on a loopback port, and what people do with it."""

    def __init__(self, root: Path, inbox: Path) -> None:
        self._folder = root / "samba"
        self._folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        configuration = self._folder / "smb.conf"
        configuration.write_text(CONFIGURATION.format(folder=self._folder, inbox=inbox, port=self._port, user="root"))
        command = ["smbd", "--foreground", "--no-process-group", f"--configfile={configuration}"]
        with (self._folder / "output").open("wb") as output:
            # A session of its own: at its end smbd ends its whole process group.
            self._server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while self.client("ls").wait() != 0:
            assert time.monotonic() < end, (self._folder / "output").read_text()
            time.sleep(0.2)

    def client(self, command: str, **how: object) -> subprocess.Popen[bytes]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, **how}
        address = ["smbclient", "//127.0.0.1/inbox", "--port", str(self._port), "--no-pass", "--command", command]
        return subprocess.Popen(address, **quiet)  # type: ignore[call-overload]

    def do(self, command: str) -> None:
        assert self.client(command).wait(DEADLINE_SECONDS) == 0, command

    def stop(self) -> None:
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


@pytest.fixture
def quiet_seconds() -> float:
    """Long enough for the files of one drop to come one after the other, each by a client of its own."""
    return 2.0


@pytest.fixture
def box(tmp_path: Path, quiet_seconds: float) -> Iterator[Box]:
    box = Box(tmp_path, quiet_seconds=quiet_seconds, pair_seconds=2 * quiet_seconds)
    yield box
    box.stop()


@pytest.fixture
def share(tmp_path: Path, box: Box) -> Iterator[Share]:
    share = Share(tmp_path, box.inbox)
    yield share
    share.stop()


def rows(count: int) -> bytes:
    return b"".join(json.dumps({"n": n, "text": "word " * 20}).encode() + b"\n" for n in range(count))


def turn_while(box: Box, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while condition():
        assert time.monotonic() < end
        box.tick()
        time.sleep(0.02)


def put(box: Box, share: Share, local: Path, name: str) -> None:
    client = share.client(f'put "{local}" "{name}"')
    turn_while(box, lambda: client.poll() is None)
    assert client.returncode == 0


def result_of(box: Box, number: int) -> bytes:
    job = box.ended(number)
    (dropped,) = [file for file in job.files if file.role is Role.DATASET]
    (result,) = box.outbox.glob(f"{job.id}*")
    return (result / "dropped" / dropped.name).read_bytes()


def test_files_that_arrive_over_a_share_become_one_right_job_each(box: Box, share: Share, tmp_path: Path):
    local = tmp_path / "local.jsonl"
    local.write_bytes(rows(20_000))
    recipe = tmp_path / "local.yaml"
    recipe.write_text("base_model: demo\n")

    # put
    put(box, share, local, "plain.jsonl")
    assert result_of(box, 1) == local.read_bytes()

    # the recipe first, the dataset later; names with blanks and umlauts
    put(box, share, recipe, "Grüße an alle.yaml")
    put(box, share, local, "Grüße an alle.jsonl")
    box.ended(2)
    assert [file.role for file in box.job(2).files] == [Role.DATASET, Role.RECIPE]  # type: ignore[union-attr]

    # under another name first, then renamed
    put(box, share, local, "renamed.jsonl.part")
    share.do('rename "renamed.jsonl.part" "renamed.jsonl"')
    assert result_of(box, 3) == local.read_bytes()

    # in a folder of its own
    share.do("mkdir together")
    put(box, share, recipe, "together\\recipe.yaml")
    put(box, share, local, "together\\train.jsonl")
    assert result_of(box, 4) == local.read_bytes()
    assert not (box.inbox / "together").exists()
    assert box.job(5) is None


@pytest.mark.parametrize("quiet_seconds", [0.5])
def test_a_slow_copy_with_pauses_longer_than_the_quiet_time_is_one_job(box: Box, share: Share):
    content = rows(300)
    client = share.client('put "/dev/stdin" "slow.jsonl"', stdin=subprocess.PIPE)
    assert client.stdin is not None
    for start in range(0, len(content), 8000):
        client.stdin.write(content[start : start + 8000])
        client.stdin.flush()
        pause = time.monotonic() + 0.9
        turn_while(box, lambda pause=pause: time.monotonic() < pause)  # type: ignore[misc]
        assert box.job(1) is None
    client.stdin.close()
    turn_while(box, lambda: client.poll() is None)
    assert result_of(box, 1) == content
    assert box.job(2) is None


def test_a_copy_that_was_broken_off_is_no_job_and_the_next_one_counts(box: Box, share: Share, tmp_path: Path):
    content = rows(300)
    client = share.client('put "/dev/stdin" "broken.jsonl"', stdin=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(content[:9001])
    client.stdin.flush()
    # The client sends in pieces of its own size: wait for the file, not for all of it.
    turn_while(box, lambda: not (box.inbox / "broken.jsonl").exists() and client.poll() is None)
    client.kill()
    client.wait()
    with suppress(BrokenPipeError):
        client.stdin.close()
    pause = time.monotonic() + 2.0
    turn_while(box, lambda: time.monotonic() < pause)
    assert box.job(1) is None

    local = tmp_path / "local.jsonl"
    local.write_bytes(content)
    put(box, share, local, "broken.jsonl")
    assert result_of(box, 1) == content
    assert box.job(2) is None
