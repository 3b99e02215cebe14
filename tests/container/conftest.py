"""One engine and one stack for all container tests. Where there can be no engine they skip, loudly, with the reason."""

import json
import sys
from collections.abc import Iterator

import pytest

from tests.container import images
from tests.container.engine import Engine, NoEngine, find_engine, install_packages
from tests.container.stack import Stack


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_tests():
    """What runs containers leaves its parent on purpose: here the engine and the stack end what is theirs."""


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """As above."""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        install_packages("smbclient", commands=("smbclient",))
        engine = find_engine()
    except NoEngine as reason:
        _skip(str(reason))
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def built(engine: Engine) -> Engine:
    """The engine with every image that the stack needs."""
    try:
        images.build(engine)
    except NoEngine as reason:
        _skip(str(reason))
    services = json.loads(engine.docker("compose", "config", "--format", "json", cwd=images.ROOT))["services"]
    images.build_stand_ins(engine, {name: service["image"] for name, service in services.items()})
    return engine


@pytest.fixture(scope="session")
def stack(built: Engine) -> Iterator[Stack]:
    """Appliance, Prometheus and share, up and healthy."""
    stack = Stack(built)
    stack.remove()
    stack.lay_out()
    try:
        stack.compose("up", "--detach", "--wait", "appliance", "prometheus", "share", timeout=300)
        yield stack
    finally:
        stack.remove()


def _skip(reason: str) -> None:
    print(f"\n*** The container tests are SKIPPED: {reason}\n", file=sys.__stderr__, flush=True)
    pytest.skip(reason)
