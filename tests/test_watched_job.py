"""A real small job, watched from outside: by a real Prometheus, and by a person in a real browser."""

import json
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from monitoring import generate
from tests.browser import CHROMIUM, chromium
from tests.prometheus import PROMETHEUS, Prometheus, filled_in, prometheus
from tests.real_daemon import RealDaemon
from tests.served import API_TOKEN

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"),
    pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here; on Debian: apt-get install prometheus"),
]
STEPS = 150
WINDOWS = {"rate": "10s", "shown": "10m"}
MILLISECONDS = 240_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealDaemon]:
    daemon = RealDaemon(tmp_path_factory.mktemp("watched"))
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def scraper(daemon: RealDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), daemon.address) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def watched(daemon: RealDaemon, scraper: Prometheus, browser: Browser) -> dict[str, list]:
    """The job is dropped, watched until its end, and what the two pages showed meanwhile is kept."""
    base = "http://{}:{}".format(*daemon.address)
    board, page = browser.new_page(), browser.new_page()
    board.goto(f"{base}/")
    # A page that was loaded again has forgotten this.
    board.evaluate("window.mark = 1")
    daemon.drop("parcels", steps=STEPS)
    daemon.wait_for(lambda: daemon.job(1))
    page.goto(f"{base}/jobs/1")
    page.evaluate("window.mark = 1")
    board.get_by_text("0001-parcels is training").wait_for(timeout=MILLISECONDS)
    page.locator(".u-legend").first.wait_for(timeout=MILLISECONDS)
    seen: dict[str, list] = {"board": [], "page": [], "points": []}
    while daemon.job(1)["state"] in ("queued", "running"):
        seen["board"].append(board.locator("#live").inner_text())
        seen["page"].append(page.locator("[data-live=state]").inner_text())
        seen["points"].append(page.evaluate("document.querySelectorAll('.uplot canvas').length"))
        time.sleep(0.5)
    board.get_by_text("It fits your held-out rows better").or_(board.get_by_text("It is not proven")).or_(
        board.get_by_text("It does not fit")
    ).wait_for(timeout=MILLISECONDS)
    page.locator("[data-live=files] a").first.wait_for(timeout=MILLISECONDS)
    seen["marks"] = [board.evaluate("window.mark"), page.evaluate("window.mark")]
    board.close()
    page.close()
    return seen


def test_board_and_job_page_follow_a_job_without_being_loaded_again(watched):
    assert watched["marks"] == [1, 1]
    # Progress moved on both while the training ran: several different states of it were seen.
    for name in ("board", "page"):
        assert len({text for text in watched[name] if f"of {STEPS}" in text}) >= 3, watched[name]
    assert max(watched["points"]) == 3


def test_every_query_of_every_panel_answers_and_those_that_must_have_data(watched, scraper):
    asked = 0
    for dashboard in generate.dashboards().values():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                scraper.over(filled_in(target["expr"], **WINDOWS), seconds=300)
                asked += 1
    wanted = [filled_in(expression, **WINDOWS) for expression in generate.must_have()]
    empty = [expression for expression in wanted if not scraper.over(expression, seconds=300)]
    assert asked > 60
    assert empty == []


def test_no_alert_fires_while_all_is_well(watched, scraper):
    # How much memory and disk this machine has is not what is tested.
    assert {alert["alertname"] for alert in scraper.firing()} <= {"DiskLow", "MemoryLow"}


def test_the_tokens_a_second_are_those_counted_independently(watched, daemon):
    """From the labels and the step log alone, padding excluded."""
    result = daemon.outbox / "0001-parcels"
    labels = json.loads((result / "labels.json").read_text())
    events = [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == STEPS
    rows_trained = labels["rows_kept"] - labels["rows_held_out"]
    # Every row of this dataset is as long as the others, give or take the digits of a number.
    per_row = labels["tokens_total"] / labels["rows_kept"]
    epochs = 2 * STEPS / rows_trained
    independent = per_row * rows_trained * epochs
    assert steps[-1]["content_tokens"] == pytest.approx(independent, rel=0.01)

    window = steps[-20:]
    seconds = sum(event["seconds"] for event in window[1:])
    expected = (window[-1]["content_tokens"] - window[0]["content_tokens"]) / seconds
    assert daemon.job(1)["progress"]["tokens_per_second"] == pytest.approx(expected, rel=0.01)
    samples = daemon.client.get("/metrics").text
    [line] = [one for one in samples.splitlines() if one.startswith('appliance_job_tokens_per_second{job_id="1"}')]
    assert float(line.split()[-1]) == pytest.approx(expected, rel=0.01)


def test_cancelling_in_the_browser_needs_a_login_and_works_after_it(daemon, browser):
    base = "http://{}:{}".format(*daemon.address)
    page = browser.new_page()
    daemon.drop("second", steps=5000, first=500)
    daemon.wait_for(lambda: daemon.job(2))
    page.goto(f"{base}/jobs/2")
    assert page.get_by_role("button", name="Cancel").count() == 0
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("Token").fill(API_TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Cancel").click()
    daemon.wait_for(lambda: daemon.job(2)["state"] == "cancelled")
    page.locator("[data-live=state]").get_by_text("Cancelled.", exact=True).wait_for(timeout=MILLISECONDS)
    page.close()
