"""What Compose itself makes of our files."""

import json

import pytest

from tests.container.engine import ROOT, Engine

pytestmark = [pytest.mark.container]
BOTH = [("-f", "compose.yaml"), ("-f", "compose.yaml", "-f", "compose.cpu.yaml")]


def config(engine: Engine, *words: str, **environment: str) -> dict:
    command = ("compose", *words, "--profile", "share", "config", "--format", "json")
    return json.loads(engine.docker(*command, cwd=ROOT, env={**engine.environment, **environment}))["services"]


@pytest.mark.parametrize("files", BOTH)
def test_compose_takes_the_files_without_a_word(engine: Engine, files: tuple[str, ...]):
    done = engine.run("compose", *files, "--profile", "share", "config", "--quiet", cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("lan", "address"), [("", "127.0.0.1"), ("192.168.1.20", "192.168.1.20")])
def test_ports_are_open_on_loopback_or_on_the_named_address_and_nowhere_else(engine: Engine, lan: str, address: str):
    services = config(engine, *BOTH[0], LAN_ADDRESS=lan)
    published = {name: [port["host_ip"] for port in service.get("ports", ())] for name, service in services.items()}
    assert published == {"appliance": [address], "grafana": [address], "share": [address], "prometheus": []}


def test_the_gpu_is_asked_for_except_where_there_is_none(engine: Engine):
    (device,) = config(engine, *BOTH[0])["appliance"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in config(engine, *BOTH[1])["appliance"]
