"""The files of the container, without an engine: clean by their linters, and closed by default."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DCLINT = "dclint@3.1.0"
# Open to the LAN when LAN_ADDRESS says so; nothing else ever is.
PUBLISHED = {"appliance", "grafana", "share"}


def read(name: str) -> dict:
    return YAML(typ="rt").load((ROOT / name).read_text())


SERVICES = read("compose.yaml")["services"]


def test_dclint_has_nothing_to_say():
    if not shutil.which("npm"):
        pytest.skip("npm is missing")
    folder = ROOT / "build" / "dclint"
    program = folder / "node_modules" / ".bin" / "dclint"
    if not program.exists():
        got = subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, DCLINT],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        if got.returncode != 0:
            pytest.skip(f"npm cannot get {DCLINT}: {got.stderr.strip()[-300:]}")
    done = subprocess.run([program, ROOT], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "")


def test_the_published_ports_are_those_of_three_services_and_all_bound_to_one_address():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == PUBLISHED
    for entries in ports.values():
        assert [entry["host_ip"] for entry in entries] == ["${LAN_ADDRESS:-127.0.0.1}"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_its_log_is_bounded(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert list(service["cap_drop"]) == ["ALL"]
    assert list(service["security_opt"]) == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not service.get("privileged")
    assert list(service.get("cap_add", [])) == (["SETGID", "SETUID", "DAC_READ_SEARCH"] if name == "share" else [])


def test_stopping_waits_longer_than_a_training_may_take_to_save():
    from appliance.running import STOP_SECONDS

    minutes = int(re.fullmatch(r"(\d+)m", SERVICES["appliance"]["stop_grace_period"])[1])
    assert minutes * 60 > max(STOP_SECONDS.values()) + 60


def test_monitoring_waits_for_a_started_appliance_not_for_a_healthy_one():
    conditions = [
        after["condition"] for name in ("prometheus", "grafana") for after in SERVICES[name]["depends_on"].values()
    ]
    assert set(conditions) == {"service_started"}


def test_secrets_are_files_and_nobody_gets_more_than_they_need():
    given = {name: set(service.get("secrets", ())) for name, service in SERVICES.items()}
    assert given == {
        "appliance": {"api_token", "read_token", "hub_token", "hub_read_token", "notify_urls", "heartbeat_url"},
        "prometheus": set(),
        "grafana": {"grafana_admin_password"},
        "share": {"share_accounts"},
    }
    declared = read("compose.yaml")["secrets"]
    assert {name: secret["file"] for name, secret in declared.items()} == {
        name: f"./secrets/{name}" for name in set().union(*given.values())
    }


def test_what_env_example_names_is_what_compose_and_the_appliance_know():
    from appliance.settings import ADDRESSES, PREFIX, SECRETS, Settings

    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    compose = (ROOT / "compose.yaml").read_text() + " COMPOSE_FILE COMPOSE_PROFILES"
    settings = {name.upper() for name in Settings.model_fields} | {f"{name}_FILE" for name in (*SECRETS, *ADDRESSES)}
    for name in named:
        assert (name.removeprefix(PREFIX) in settings) if name.startswith(PREFIX) else (name in compose), name


def test_the_image_takes_nothing_private_along():
    """Everything is left out but what is named, and nothing named holds data or secrets."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {line.lstrip("!").partition("/")[0] for line in rules[1:] if line.startswith("!")}
    assert not taken & {"inbox", "outbox", "state", "models", "secrets", ".env", ".git", "tests"}


def test_the_image_says_the_version_of_the_package():
    from appliance import __version__

    assert f"ARG VERSION={__version__}" in (ROOT / "Dockerfile").read_text()


def test_the_image_is_told_the_commit():
    assert read("compose.yaml")["services"]["appliance"]["build"]["args"]["REVISION"] == "${REVISION:-}"
    assert 'ARG REVISION=""\nRUN echo "$REVISION" >/app/appliance/REVISION\n' in (ROOT / "Dockerfile").read_text()


def make_secrets(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    for part in ("Makefile", ".env.example", "container"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        if not (folder / part).exists():
            copy(ROOT / part, folder / part)
    return subprocess.run(
        ["make", "secrets"], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_make_secrets_writes_each_once_readable_by_nobody_else(tmp_path: Path):
    said = make_secrets(tmp_path)
    assert said.returncode == 0, said.stderr
    secrets = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(secrets) == {Path(secret["file"]).name for secret in read("compose.yaml")["secrets"].values()}
    assert len(set(secrets.values()) - {""}) == 4
    assert secrets["hub_token"] == secrets["hub_read_token"] == ""
    assert len(secrets["api_token"].strip()) >= 40
    for path in (tmp_path / "secrets").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "inbox").stat().st_mode & 0o7777 == 0o2770
    assert re.search(r"^PUID=[1-9]", (tmp_path / ".env").read_text(), re.MULTILINE)
    assert not any(secret.strip() in said.stdout for secret in secrets.values() if secret)

    assert make_secrets(tmp_path).returncode == 0
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == secrets


def test_make_secrets_names_the_addresses_that_env_says(tmp_path: Path):
    said = make_secrets(tmp_path).stdout
    assert ("http://127.0.0.1:8080 " in said, "http://127.0.0.1:3000 " in said) == (True, True)
    with (tmp_path / ".env").open("a") as file:
        file.write("LAN_ADDRESS=192.168.1.20\nPAGES_PORT=8081\nGRAFANA_PORT=3001\n")
    said = make_secrets(tmp_path).stdout
    assert ("http://192.168.1.20:8081 " in said, "http://192.168.1.20:3001 " in said) == (True, True)
