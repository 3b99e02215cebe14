"""A container engine to test with, also where none is installed and no image registry can be reached.

Where `docker` works already, with a current Compose and buildx, it is used as it is. Else, as root on Debian, the
engine comes from Debian's packages, runs on folders of its own, and is stopped again by whoever started it. The base
image is made by debootstrap. Needs the standard library only.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
WORK: Final = Path(os.environ.get("ENGINE_DIR", "/var/tmp/spark-appliance-engine"))
BASE_IMAGE: Final = "debian:bookworm-slim"
SUITE: Final = "bookworm"
# Compose and buildx that know today's files, from the Debian after the one that has the engine.
PLUGIN_SUITE: Final = "trixie"
OLDEST_COMPOSE: Final = (2, 24)
LEAST_FREE_BYTES: Final = 15 * 10**9
TRIES: Final = 3
START_SECONDS: Final = 90


class NoEngine(Exception):
    """There is no engine here and none can be had; the message says why."""


class Engine:
    """A working `docker`: `environment` is what its client needs. `stop` ends it if it is ours."""

    def __init__(self, environment: Mapping[str, str], *, process: subprocess.Popen[bytes] | None = None) -> None:
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain", **environment}
        self._process = process

    def docker(self, *words: object, timeout: float = 900, check: bool = True, **options) -> str:
        """What `docker WORDS` prints; an AssertionError with all it said when it fails."""
        done = self.run(*words, timeout=timeout, **options)
        assert not check or done.returncode == 0, f"docker {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *words: object, timeout: float = 900, **options) -> subprocess.CompletedProcess[str]:
        command = ["docker", *map(str, words)]
        given = {"env": self.environment, "capture_output": True, "text": True, **options}
        return subprocess.run(command, timeout=timeout, check=False, **given)

    def has_image(self, name: str) -> bool:
        return self.run("image", "inspect", name).returncode == 0

    def stop(self) -> None:
        """End the engine that was started here, and wait for it: another one may want the same folders."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_engine() -> Engine:
    """The engine that is here, or one of our own. Raises NoEngine."""
    for environment in ({}, _own_environment()):
        engine = Engine(environment)
        if shutil.which("docker") and _is_current(engine):
            return engine
    _need_room_and_root()
    install_packages("docker.io", "debootstrap", commands=("dockerd", "debootstrap"))
    _get_plugins()
    return _start()


def ensure_base_image(engine: Engine) -> None:
    """The image that every Dockerfile begins with, made by debootstrap unless it is there or can be pulled."""
    if engine.has_image(BASE_IMAGE) or engine.run("pull", "--quiet", BASE_IMAGE, timeout=120).returncode == 0:
        return
    install_packages("debootstrap", commands=("debootstrap",))
    system = WORK / "base"
    if not (system / "complete").exists():
        shutil.rmtree(system, ignore_errors=True)
        _retry("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, system / "root", _mirror())
        # Where traffic goes through a proxy with a certificate of its own, the host knows it and the image must too.
        bundle = Path("etc/ssl/certs/ca-certificates.crt")
        if (Path("/") / bundle).exists():
            shutil.copy(Path("/") / bundle, system / "root" / bundle)
        (system / "complete").touch()
    with subprocess.Popen(["tar", "-C", system / "root", "-c", "."], stdout=subprocess.PIPE) as tar:
        engine.docker("import", "-", BASE_IMAGE, stdin=tar.stdout)


def _own_environment() -> dict[str, str]:
    return {"DOCKER_HOST": f"unix://{WORK}/docker.sock", "DOCKER_CONFIG": f"{WORK}/config"}


def _is_current(engine: Engine) -> bool:
    """It answers, and its Compose is new enough for our files."""
    try:
        if engine.run("info", timeout=30).returncode != 0 or engine.run("buildx", "version").returncode != 0:
            return False
        version = re.search(r"(\d+)\.(\d+)", engine.run("compose", "version", "--short", timeout=30).stdout)
    except subprocess.TimeoutExpired:
        return False
    return version is not None and tuple(map(int, version.groups())) >= OLDEST_COMPOSE


def _need_room_and_root() -> None:
    if os.geteuid() != 0:
        raise NoEngine("docker does not work here, and starting an engine of our own takes root")
    WORK.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(WORK).free
    if free < LEAST_FREE_BYTES:
        raise NoEngine(f"{WORK} has {free / 1e9:.1f} GB free, and {LEAST_FREE_BYTES / 1e9:.0f} GB are needed")


def install_packages(*packages: str, commands: tuple[str, ...]) -> None:
    """Debian's packages, unless their commands are there. Raises NoEngine."""
    if all(shutil.which(command) for command in commands):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoEngine(f"{', '.join(packages)} can only be installed by root on Debian")
    _retry("apt-get", "update", "-qq")
    _retry("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages)


def _get_plugins() -> None:
    plugins = WORK / "config" / "cli-plugins"
    if (plugins / "docker-compose").exists() and (plugins / "docker-buildx").exists():
        return
    apt = WORK / "apt"
    for folder in (apt / "lists" / "partial", apt / "cache" / "archives" / "partial", plugins):
        folder.mkdir(parents=True, exist_ok=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keyring}] {_mirror()} {PLUGIN_SUITE} main\n")
    options = [
        *("-o", f"Dir::Etc::SourceList={apt}/sources.list", "-o", "Dir::Etc::SourceParts=-"),
        *("-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}/cache", "-o", "APT::Sandbox::User=root"),
    ]
    _retry("apt-get", *options, "update", "-qq")
    _retry("apt-get", *options, "download", "docker-compose", "docker-buildx", cwd=apt)
    for package in apt.glob("*.deb"):
        _retry("dpkg-deb", "-x", package, apt / "unpacked")
    for plugin in (apt / "unpacked").rglob("cli-plugins/*"):
        shutil.copy(plugin, plugins)


def _start() -> Engine:
    """dockerd on folders of its own. What an earlier one left behind without a process is cleared away first."""
    _clear_stale("dockerd.pid", "dockerd")
    _clear_stale("exec/containerd/containerd.pid", "containerd")
    environment = _own_environment()
    command = [
        *("dockerd", "--data-root", WORK / "data", "--exec-root", WORK / "exec", "--pidfile", WORK / "dockerd.pid"),
        # Without a limit of its own a container here inherits one so high that programs that close them all take hours.
        *("-H", environment["DOCKER_HOST"], "--default-ulimit", "nofile=1024:1024"),
    ]
    with (WORK / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    engine = Engine(environment, process=daemon)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        if _is_current(engine):
            return engine
        time.sleep(0.5)
    engine.stop()
    raise NoEngine(f"dockerd does not start here:\n{(WORK / 'dockerd.log').read_text()[-2000:]}")


def _clear_stale(pid_file: str, program: str) -> None:
    """A pid file whose process is gone, or is another program by now, keeps a new engine from starting."""
    path = WORK / pid_file
    with suppress(OSError, ValueError):
        if Path(f"/proc/{int(path.read_text())}/comm").read_text().strip() == program:
            os.kill(int(path.read_text()), signal.SIGTERM)
            time.sleep(2)
    path.unlink(missing_ok=True)


def _mirror() -> str:
    """Where this machine gets its Debian from."""
    sources = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]
    text = "\n".join(path.read_text() for path in sources if path.exists())
    found = re.search(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+)", text, re.MULTILINE)
    if found is None:
        raise NoEngine("no Debian mirror stands in /etc/apt")
    return found[1]


def _retry(*command: object, **options) -> None:
    """Networks fail now and then; the last failure is told."""
    words = [str(word) for word in command]
    for attempt in range(1, TRIES + 1):
        done = subprocess.run(
            words,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            **options,
        )
        if done.returncode == 0:
            return
        print(f"{words[0]} failed, try {attempt} of {TRIES}: {done.stderr.strip()[-500:]}", flush=True)
        time.sleep(5 * attempt)
    raise NoEngine(f"{' '.join(words)} failed {TRIES} times: {(done.stderr or done.stdout).strip()[-1000:]}")
