"""The whole stack in containers: what a person with a share does, what an intruder cannot, and what survives a stop."""

import json
import os
import re
import stat
import urllib.request

import pytest

from tests.container.engine import ROOT, WORK
from tests.container.images import APPLIANCE, revision
from tests.container.stack import PEOPLE, UID, Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

DEMO_ROWS = (ROOT / "appliance" / "demo" / "support-tickets.jsonl").read_text().splitlines()
QUICK = "base_model: demo\nmax_steps: 12\neffective_batch_size: 4\nearly_stopping_patience: null\n"
LONG = "base_model: demo\nmax_steps: 5000\neffective_batch_size: 4\nlearning_rate: 1e-4\n"


def desk(name: str, text: str, *, mode: int = 0o600) -> str:
    """A file on somebody's own machine, which only they can read: what Windows makes of most."""
    path = WORK / "desk" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return name


def rows(count: int, *, start: int = 0) -> str:
    return "".join(line + "\n" for line in DEMO_ROWS[start : start + count])


def test_a_file_put_into_the_share_comes_back_as_an_adapter(stack: Stack):
    desk("support.jsonl", rows(60))
    desk("support.yaml", QUICK)
    desk("question.jsonl", rows(30, start=100))
    desk("question.yaml", QUICK)
    # The recipe first, which waits for its dataset however long a busy disk takes between the two.
    assert stack.smb("anna", "inbox", "put support.yaml; put support.jsonl").returncode == 0
    assert stack.smb("ben", "inbox", "mkdir check; cd check; put question.yaml; put question.jsonl").returncode == 0

    stack.wait(lambda: number_of(stack, "support") and number_of(stack, "question"), "both files are jobs")
    numbers = {name: number_of(stack, name) for name in ("support", "question")}
    stack.wait(lambda: stack.state(numbers["support"]) in ("succeeded", "failed"), "the training ends", seconds=420)
    stack.wait(lambda: stack.state(numbers["question"]) == "succeeded", "the dry run ends")
    support, question = (f"{numbers[name]:04}-{name}" for name in ("support", "question"))
    assert stack.state(numbers["support"]) == "succeeded", stack.logs()

    wanted = f"cd {support}; recurse; prompt; mget adapter; get manifest.json; get report.html"
    fetched = stack.smb("ben", "outbox", wanted)
    assert fetched.returncode == 0, fetched.stdout
    adapter = WORK / "desk" / "adapter" / "adapter_model.safetensors"
    manifest = json.loads((WORK / "desk" / "manifest.json").read_text())
    entry = next(file for file in manifest["files"] if file["path"] == "adapter/adapter_model.safetensors")
    assert adapter.stat().st_size == entry["bytes"]
    assert stack.smb("ben", "outbox", f"ls {question}.checked\\report.html").returncode == 0

    owners = {name: stack.job(number)["files"] for name, number in numbers.items()}
    assert {file["owner"] for file in owners["support"]} == {"anna"}
    assert {file["owner"] for file in owners["question"]} == {"ben"}
    assert "anna" in (stack.folder / "outbox" / "STATUS.md").read_text()
    left = {path.name for path in (stack.folder / "inbox").iterdir()}
    assert not left & {"support.jsonl", "support.yaml"}


def test_prometheus_has_the_series_of_the_appliance(stack: Stack):
    stack.wait(lambda: stack.prometheus('up{job="appliance"} == 1'), "Prometheus has scraped the appliance")
    stack.wait(lambda: stack.prometheus("appliance_jobs_finished_total"), "the job that ended is counted")


def test_a_person_of_the_share_can_do_what_they_should_and_no_more(stack: Stack):
    desk("private.txt", "x")
    assert "NT_STATUS_ACCESS_DENIED" in stack.smb("anna", "outbox", "put private.txt").stdout
    assert "NT_STATUS_ACCESS_DENIED" in stack.smb("anna", "outbox", "rm STATUS.md").stdout
    for share in ("inbox", "outbox"):
        assert stack.smb(None, share, "ls").returncode != 0
    assert "inbox" not in stack.smb(None, "IPC$", "ls").stdout

    (stack.folder / "inbox" / ".away").symlink_to("/etc")
    (stack.folder / "inbox" / ".passwd").symlink_to("/etc/passwd")
    refused = stack.smb("anna", "inbox", "cd .away").stdout + stack.smb("anna", "inbox", "get .passwd").stdout
    assert len(re.findall("NT_STATUS_[A-Z_]+", refused)) == 2
    assert not (WORK / "desk" / ".passwd").exists()


def test_what_one_person_drops_the_appliance_and_others_can_take_out_again(stack: Stack):
    # A name that the appliance does not look at stays where it is.
    desk("keep.tmp", "x")
    assert stack.smb("anna", "inbox", "put keep.tmp; mkdir notes; cd notes; put keep.tmp").returncode == 0
    path = stack.folder / "inbox" / "keep.tmp"
    folder = stack.folder / "inbox" / "notes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    assert (path.stat().st_gid, path.stat().st_uid > 10_000) == (UID, True)
    assert stack.smb("ben", "inbox", "rm keep.tmp; cd notes; rm keep.tmp; cd ..; rmdir notes").returncode == 0
    assert not path.exists()


def test_the_appliance_has_no_power_over_its_machine(stack: Stack):
    facts = stack.inspect()
    assert facts["Config"]["User"] == f"{UID}:{UID}"
    assert facts["HostConfig"]["ReadonlyRootfs"] is True
    assert facts["HostConfig"]["CapDrop"] == ["ALL"]
    assert not facts["HostConfig"]["CapAdd"]
    status = dict(line.split(":\t", 1) for line in stack.execute("cat", "/proc/1/status").splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == {str(UID)}
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert status["NoNewPrivs"].strip() == "1"
    for path in ("/etc/x", "/venv/x", "/app/x", "/usr/x", "/srv/x", "/srv/recipes/x", "/var/lib/extrausers/x", "/x"):
        assert stack.compose("exec", "appliance", "touch", path, check=False).returncode != 0, path
    for path in ("/srv/inbox/.x", "/srv/outbox/.x", "/srv/state/.x", "/srv/models/.x", "/tmp/x"):
        stack.execute("sh", "-c", f"touch {path} && rm {path}")


def test_the_image_says_which_commit_it_is(stack: Stack):
    assert json.loads(stack.execute("appliance", "version", "--json"))["revision"] == revision()
    assert stack.inspect()["Config"]["Labels"]["org.opencontainers.image.revision"] == revision()


def test_no_secret_can_be_seen_from_outside(stack: Stack):
    words = {secret for secret in stack.secrets.values() if len(secret) > 20} | set(PEOPLE.values())
    assert len(words) > 4
    seen = [json.dumps(stack.inspect(service)) for service in ("appliance", "prometheus", "share")]
    seen.append(stack.engine.docker("history", "--no-trunc", APPLIANCE))
    seen.append(stack.logs(lines="all"))
    for word in words:
        assert not any(word in text for text in seen)


PROGRAM = """
import json, os, socket, subprocess, sys
from pathlib import Path
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.processes import stage_environment
from appliance.settings import Settings

if "inside" not in sys.argv:
    settings = Settings.load()
    environment = stage_environment(Stage.TRAIN, settings, os.environ)
    command = [sys.executable, "-c", Path("/proc/self/cmdline").read_bytes().split(b"\\0")[2].decode(), "inside"]
    raise SystemExit(subprocess.run(command, env=environment).returncode)

from appliance.stages.confinement import confine
folder = Path("/srv/state/trial")
folder.mkdir(exist_ok=True)
confine(Stage.TRAIN, JobDir(folder), Settings.load())

def outcome(act):
    try:
        return act()
    except OSError as error:
        return error.errno

secrets = ("api_token", "read_token", "hub_token", "hub_read_token")
print(json.dumps({
    "environment": dict(os.environ),
    "sockets": [outcome(lambda: socket.socket(family).close()) for family in (socket.AF_INET, socket.AF_INET6)],
    "secrets": [outcome(lambda: Path("/run/secrets", name).read_text()) for name in secrets],
    "database": outcome(lambda: Path("/srv/state/appliance.sqlite").read_bytes() and 0),
    "daemon": outcome(lambda: Path("/proc/1/environ").read_text()),
}))
"""


def test_the_code_of_a_training_finds_no_token_and_gets_no_internet_socket(stack: Stack):
    said = stack.python(PROGRAM)
    stack.execute("rm", "-r", "/srv/state/trial")
    assert said["sockets"] == [1, 1]
    assert set(said["secrets"]) == {13}
    assert said["database"] == 13
    text = json.dumps(said)
    assert not [name for name, secret in stack.secrets.items() if len(secret) > 20 and secret in text]


def test_only_the_three_named_ports_are_published_and_only_on_loopback(stack: Stack):
    ports = {name: stack.inspect(name)["NetworkSettings"]["Ports"] for name in ("appliance", "prometheus", "share")}
    published = {name: [place["HostIp"] for places in ports[name].values() for place in places or ()] for name in ports}
    assert published == {"appliance": ["127.0.0.1"], "prometheus": [], "share": ["127.0.0.1"]}


def test_pages_answer_on_the_published_port_and_not_to_strangers(stack: Stack):
    port = stack.ports["PAGES_PORT"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert opener.open(f"http://127.0.0.1:{port}/readyz", timeout=10).status == 200
    foreign = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Host": "evil.example"})
    with pytest.raises(OSError, match="421"):
        opener.open(foreign, timeout=10)


def test_doctor_finds_the_container_ready(stack: Stack):
    answer = json.loads(stack.execute("appliance", "doctor", "--json", check=False))
    assert [finding for finding in answer["checks"] if finding["level"] == "problem"] == []


def number_of(stack: Stack, name: str) -> int | None:
    done = stack.compose("exec", "--no-TTY", "appliance", "appliance", "jobs", "--json", check=False)
    jobs = json.loads(done.stdout) if done.returncode == 0 else []
    return next((job["number"] for job in jobs if job["name"] == name), None)


def test_a_training_that_is_stopped_goes_on_from_its_checkpoint(stack: Stack):
    desk("long.jsonl", rows(120, start=200))
    desk("long.yaml", LONG)
    assert stack.smb("anna", "inbox", "put long.yaml; put long.jsonl").returncode == 0
    number = stack.wait(lambda: number_of(stack, "long"), "it is a job")
    job = f"{number:04}-long"
    stack.wait(lambda: any(event["event"] == "step" for event in stack.events(job, "train")), "the training has begun")
    each = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; grep ^Seccomp: $p/status; done"
    processes = stack.execute("sh", "-c", each)
    assert re.search(r"appliance\.stages train [^\n]*Seccomp:\s+2", processes), processes

    stack.compose("stop", "appliance", timeout=700)
    assert stack.inspect()["State"]["ExitCode"] == 0
    stack.compose("up", "--detach", "--wait", "appliance")

    def attempts() -> list[list[dict]]:
        """What each attempt at training reported."""
        found: list[list[dict]] = []
        for event in stack.events(job, "train"):
            found += [[]] if event["event"] == "start" or not found else []
            found[-1].append(event)
        return found

    stopped, *_, going_on = stack.wait(lambda: attempts()[1:] and attempts(), "it goes on")
    saved = max(event["step"] for event in stopped if event["event"] == "checkpoint")
    assert going_on[0]["attempt_step"] == saved > 0
    assert stack.job(number)["attempt"] == 1
    stack.execute("appliance", "cancel", number)
    stack.wait(lambda: stack.state(number) == "cancelled", "it is cancelled")
    assert (stack.folder / "outbox" / f"{job}.cancelled" / "WHY.md").exists()


def test_grafana_without_a_password_says_so_and_does_not_start(stack: Stack):
    password = stack.folder / "secrets" / "grafana_admin_password"
    kept = password.read_text()
    password.write_text("")
    try:
        said = stack.compose("run", "--rm", "--no-deps", "grafana", check=False)
        assert said.returncode == 1
        assert "no admin password" in said.stdout + said.stderr
        assert "make secrets" in said.stdout + said.stderr
    finally:
        password.write_text(kept)
    stack.compose("up", "--detach", "--no-deps", "grafana")
    stack.wait(lambda: re.search("stand-in started|HTTP Server Listen", stack.logs("grafana")), "Grafana starts")


def test_an_inbox_that_cannot_be_written_stops_the_start_with_the_command_that_mends_it(stack: Stack):
    inbox = stack.folder / "inbox"
    os.chown(inbox, 0, 0)
    inbox.chmod(0o755)
    try:
        said = stack.compose("run", "--rm", "--no-deps", "appliance", check=False)
        assert said.returncode == 3
        assert f"sudo chown -R {UID}:{UID} inbox" in said.stdout + said.stderr
        share = stack.compose("run", "--rm", "--no-deps", "share", check=False)
        assert f"sudo chgrp {UID} inbox && sudo chmod 2770 inbox" in share.stdout + share.stderr
    finally:
        os.chown(inbox, UID, UID)
        inbox.chmod(0o2770)
