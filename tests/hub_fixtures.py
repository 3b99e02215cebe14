"""A Hub of our own, somebody who pushes to it, and a result to push: for tests with `pytest_plugins`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import Box, fake_but_push
from tests.local_hub import LocalHub, serve
from tests.published import ORG, WRITE, Published, Pusher, publish


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with serve() as hub:
        hub.user(WRITE, **{ORG: "write"})
        yield hub


@pytest.fixture
def hub_in_reach(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """The Hub that stages and commands find."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("APPLIANCE_HUB_ORG", ORG)
    return hub


@pytest.fixture
def pushing(tmp_path: Path, hub_in_reach: LocalHub) -> Iterator[Box]:
    """An appliance that pushes to that Hub."""
    box = Box(tmp_path, command=fake_but_push, hub_org=ORG, hub_token=WRITE)
    yield box
    box.stop()


@pytest.fixture
def pusher(hub: LocalHub, tmp_path: Path) -> Pusher:
    return Pusher(hub, tmp_path)


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "outbox")
