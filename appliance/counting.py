"""Counting in threads that have more to do than to count."""

import logging
import sqlite3
from collections.abc import Mapping

from appliance.store import Store

logger = logging.getLogger(__name__)


def try_to_count(store: Store, name: str, labels: Mapping[str, str], *, what: str) -> None:
    """Count something once, or log that `what` could not be counted: a full disk ends no thread that tells of it."""
    try:
        store.count(name, labels)
    except sqlite3.Error as error:
        logger.warning("%s could not be counted: %s", what, error)
