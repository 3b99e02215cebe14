"""`python -m tests.screenshots FOLDER`: every page during a real job on the demo dataset, for somebody to look at.

Phone and desktop, light and dark. Those in docs/screens were made so, with fewer colours.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser import chromium
from tests.real_daemon import RealDaemon
from tests.served import API_TOKEN

DEMO = Path(__file__).parents[1] / "appliance" / "demo"
SCREENS = (("phone", 390, 844), ("desktop", 1100, 780))
SETTLE_MILLISECONDS = 1200


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        daemon = RealDaemon(Path(root))
        try:
            number = half_way(daemon)
            with chromium() as browser:
                take_all(browser, daemon, number, folder)
        finally:
            daemon.stop()


def half_way(daemon: RealDaemon) -> int:
    """Drop a dataset that is refused, one that trains and one that waits; the number of the second, once half done."""
    (daemon.inbox / "old.jsonl").write_text('{"messages": []}\nnot json\n')
    for suffix in (".yaml", ".jsonl"):
        shutil.copy(DEMO / f"support-tickets{suffix}", daemon.inbox)
    daemon.wait_for(lambda: trained(daemon) > 0)
    rows = (DEMO / "support-tickets.jsonl").read_text().splitlines(keepends=True)
    (daemon.inbox / "mails.jsonl").write_text("".join(rows[:100]))
    daemon.wait_for(lambda: trained(daemon) >= 0.45, seconds=900)
    return next(job["number"] for job in jobs(daemon) if job["stage"] == "train")


def jobs(daemon: RealDaemon) -> list[dict]:
    return daemon.client.get("/api/v1/jobs").json()


def trained(daemon: RealDaemon) -> float:
    """How far the running training is, 0 to 1."""
    return max((job["progress"]["fraction"] or 0 for job in jobs(daemon) if job["stage"] == "train"), default=0)


def take_all(browser: Browser, daemon: RealDaemon, number: int, folder: Path) -> None:
    base = "http://{}:{}".format(*daemon.address)
    for scheme in ("light", "dark"):
        for screen, width, height in SCREENS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(f"{base}/login")
            page.get_by_label("Token").fill(API_TOKEN)
            page.get_by_role("button", name="Log in").click()
            for name, path in (("board", "/"), ("job", f"/jobs/{number}"), ("inbox", "/inbox"), ("system", "/system")):
                page.goto(base + path)
                page.wait_for_timeout(SETTLE_MILLISECONDS)
                page.screenshot(path=folder / f"{name}-{screen}-{scheme}.png", full_page=name != "job")
            page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
