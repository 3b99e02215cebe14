"""A Hub of our own, somebody who pushes to it, and a result to push: for tests with `pytest_plugins`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local_hub import LocalHub, serve
from tests.published import ORG, WRITE, Published, Pusher, publish


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with serve() as hub:
        hub.user(WRITE, **{ORG: "write"})
        yield hub


@pytest.fixture
def pusher(hub: LocalHub, tmp_path: Path) -> Pusher:
    return Pusher(hub, tmp_path)


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "outbox")
