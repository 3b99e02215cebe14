"""A stage that stalls makes the alert fire in a real Prometheus that scrapes the appliance."""

import time

import pytest

from appliance.job import Stage
from tests.prometheus import PROMETHEUS, prometheus
from tests.waiting import until
from tests.whole import Whole

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here; on Debian: apt-get install prometheus")


def shortened(rules: str) -> str:
    """Fifteen minutes become two seconds, and nothing has to last."""
    assert "> 900)" in rules
    return rules.replace("> 900)", "> 2)").replace("for: 1m\n", "for: 0s\n")


def test_a_stalled_stage_is_noticed(tmp_path):
    whole = Whole(tmp_path)
    with prometheus(tmp_path / "prometheus", whole.server.address, rules=shortened) as scraper:
        whole.box.drop(train="sleep")
        whole.box.turn_until(lambda: whole.box.runs(Stage.TRAIN))
        deadline = time.monotonic() + 60

        def stalled() -> list[dict[str, str]]:
            return [alert for alert in scraper.firing() if alert["alertname"] == "JobStalled"]

        # What it has scraped may be stale a moment later: each answer is read once.
        while not (found := stalled()):
            assert time.monotonic() < deadline, scraper.ask("alerts")
            whole.box.tick()
            time.sleep(0.05)
        assert [alert["job_id"] for alert in found] == ["1"]
        until(lambda: scraper.ask("query", query="appliance_job_state{state='running'} == 1")["result"])
        whole.box.appliance.wishes.cancel(1, time.monotonic(), time.time())
        whole.box.ended()
        while stalled():
            assert time.monotonic() < deadline + 60
            whole.box.tick()
            time.sleep(0.05)
    whole.stop()
