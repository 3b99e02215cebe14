"""The served pages in a real browser: for everybody's eyes and hands, without scripts, and against other sites."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from appliance import outbox
from appliance.disk import Space
from appliance.errors import Problem
from appliance.job import Job, JobState, Outcome, Stage, Verdict, Waiting
from appliance.machine_watch import MachineReading
from appliance.progress import Progress
from appliance.running import Running
from appliance.settling import Drop, DropState
from tests.browser import CHROMIUM, chromium
from tests.served import API_TOKEN, NOW, READ_TOKEN, VIEW, Served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")

EVIL_IS_HERE = "--host-resolver-rules=MAP evil.test 127.0.0.1"
PAGES = ("/", "/jobs/7", "/jobs/9", "/inbox", "/system", "/docs", "/login")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
HOSTILE = (
    "<script>window.ran = 1; alert(1)</script><img src=x onerror='window.ran = 2'>"
    "\"onmouseover='window.ran = 3'</pre></section></bdi><style>body{display:none}</style>"
)
JOB = Job(7, "0007-support", "u7", "support", JobState.RUNNING, NOW - 60, stage=Stage.TRAIN, base_model="demo")
MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(EVIL_IS_HERE) as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    """An appliance in the middle of things, and everything that people wrote is hostile."""
    site = Served(tmp_path, api_token=API_TOKEN, read_token=READ_TOKEN)
    fill(site)
    yield site
    site.stop()


def fill(site: Served) -> None:
    site.add(replace(JOB, base_model=HOSTILE, name=HOSTILE))
    waiting = {"state": JobState.QUEUED, "waiting": Waiting.MEMORY, "waiting_detail": HOSTILE, "stage": None}
    site.add(replace(JOB, number=8, id="0008-waits", uuid="u8", **waiting))
    ended = {"stage": None, "finished": NOW, "message": HOSTILE}
    good = replace(JOB, number=9, id="0009-good", uuid="u9", state=JobState.SUCCEEDED, outcome=Outcome.SUCCEEDED)
    end(site, replace(good, verdict=Verdict.IMPROVED, **ended), {"adapter/x": "x", "report.html": "<p>report</p>"})
    bad = replace(JOB, number=10, id="0010-bad", uuid="u10", state=JobState.REJECTED, outcome=Outcome.REJECTED, **ended)
    problem = Problem(code="bad_json", message=HOSTILE, file=HOSTILE, line=3)
    end(site, bad, {"problems.json": json.dumps([problem.as_json()]), "WHY.html": "<p>why</p>"})
    train, verify = site.jobs / JOB.id / "train", site.jobs / JOB.id / "verify"
    for folder in (train, verify):
        folder.mkdir()
    (train / "stage.log").write_text(HOSTILE + "\n" + "line\n" * 60)
    (train / "progress.jsonl").write_text("".join(step(n) for n in range(1, 41)))
    sample = {"messages": [{"role": "user", "content": HOSTILE}], "base": HOSTILE, "tuned": HOSTILE}
    (verify / "samples.jsonl").write_text(json.dumps(sample))
    progress = Progress(step=40, total_steps=90, loss=1.25, unit=HOSTILE, last_event=NOW)
    site.view = replace(
        VIEW,
        running=(Running(replace(JOB, base_model=HOSTILE), Stage.TRAIN, None, began=40.0, progress=progress),),  # type: ignore[arg-type]
        drops=(Drop(HOSTILE, (), DropState.SETTLING, HOSTILE),),
        trouble=HOSTILE,
    )
    site.machine = MachineReading(dict.fromkeys(("inbox", "outbox", "state"), Space(10**11, 10**12, 10**6)))


def step(number: int) -> str:
    counts = {"content_tokens": 1000 * number, "memory_bytes": 4_000_000_000 + number * 10**7}
    facts = {"time": NOW, "event": "step", "step": number, "loss": 3 - number / 20, "seconds": 0.5, **counts}
    return json.dumps(facts) + "\n"


def end(site: Served, job: Job, files: dict[str, str]) -> None:
    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)

    site.add(job)
    assert job.outcome is not None
    name = job.id if job.outcome is Outcome.SUCCEEDED else f"{job.id}.{job.outcome}"
    outbox.publish(site.outbox, name, job_uuid=job.uuid, fill=write, facts=dict)
    site.store.save(job)


def base(site: Served) -> str:
    return "http://{}:{}".format(*site.server.address)


def opened(browser: Browser, site: Served, path: str, **options: object) -> Page:
    """A page that notes what it tried to fetch, said and complained about."""
    page = browser.new_context(**options).new_page()
    page.asked, page.said = [], []  # type: ignore[attr-defined]
    page.on("request", lambda request: page.asked.append(request.url))  # type: ignore[attr-defined]
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))  # type: ignore[attr-defined]
    page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)  # type: ignore[attr-defined]
    page.goto(base(site) + path)
    return page


def log_in(page: Page, site: Served, next: str) -> None:
    page.goto(f"{base(site)}/login?next={next}")
    page.get_by_label("Token").fill(API_TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(base(site) + next)


@pytest.mark.parametrize(("screen", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
def test_nothing_serious_is_in_anybodys_way(browser, site, screen, scheme):
    page = opened(browser, site, "/", viewport=screen, color_scheme=scheme)
    log_in(page, site, "/")
    for path in (*PAGES, "/jobs/10", "/jobs/99"):
        page.goto(base(site) + path)
        if path == "/jobs/7":
            page.locator(".u-legend").first.wait_for(timeout=MILLISECONDS)
        found = Axe().run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"], path
    page.context.close()


def test_the_names_of_the_folders_stand_on_one_line_on_a_phone(browser, site):
    page = opened(browser, site, "/system", viewport=PHONE)
    lines = page.evaluate(
        """[...document.querySelectorAll('th[scope=row]')].map(cell => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            return text.getClientRects().length;
        })"""
    )
    assert lines == [1, 1, 1]
    page.context.close()


def test_hostile_text_does_nothing_and_nothing_is_fetched_from_elsewhere(browser, site):
    page = opened(browser, site, "/")
    for path in PAGES:
        page.goto(base(site) + path)
        assert page.evaluate("window.ran ?? null") is None, path
        assert page.locator("img").count() == 0
    site.view = replace(site.view, paused=True)
    page.goto(base(site) + "/")
    page.get_by_text("The queue is paused").first.wait_for(timeout=MILLISECONDS)
    assert page.evaluate("window.ran ?? null") is None
    assert page.said == []
    assert all(address.startswith(base(site)) for address in page.asked)
    page.context.close()


def test_a_live_part_that_brings_hostile_text_does_nothing(browser, site):
    site.view = VIEW
    page = opened(browser, site, "/")
    fill_again = replace(VIEW, trouble=HOSTILE + " now", drops=(Drop(HOSTILE, (), DropState.SETTLING, HOSTILE),))
    site.view = fill_again
    page.locator("[data-live=troubles]").get_by_text("now").wait_for(timeout=MILLISECONDS)
    assert page.evaluate("window.ran ?? null") is None
    assert page.said == []
    page.context.close()


def test_what_has_the_focus_keeps_it_while_the_page_changes(browser, site):
    page = opened(browser, site, "/jobs/7")
    log_in(page, site, "/jobs/7")
    button = page.get_by_role("button", name="Cancel")
    button.focus()
    site.store.save(replace(JOB, waiting=Waiting.APPROVAL))
    page.get_by_role("button", name="Approve").wait_for(timeout=MILLISECONDS)
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.context.close()


def test_everything_can_be_reached_by_keyboard(browser, site):
    page = opened(browser, site, "/jobs/7")
    log_in(page, site, "/jobs/7")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.className"))
    assert reached[0] == "Skip to the content"
    assert {"Board", "Inbox", "System", "Log out", "Cancel"} <= set(reached)
    page.get_by_role("button", name="Cancel").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert site.asked() == [("cancel", "7")]
    page.context.close()


def test_without_scripts_a_person_logs_in_and_cancels(browser, site):
    page = opened(browser, site, "/jobs/7", java_script_enabled=False)
    assert page.get_by_role("button", name="Cancel").count() == 0
    log_in(page, site, "/jobs/7")
    assert page.locator("polyline").count() >= 3
    assert page.get_by_text("Training loss: 2.950 at step 1 to 1.000 at step 40.").count() == 1
    with page.expect_navigation():
        page.get_by_role("button", name="Cancel").click()
    assert site.asked() == [("cancel", "7")]
    page.context.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_files_are_chosen_and_dropped_into_the_inbox(browser, site, scripts):
    page = opened(browser, site, "/", java_script_enabled=scripts)
    log_in(page, site, "/inbox")
    files = [{"name": "new.jsonl", "mimeType": "application/json", "buffer": b'{"text": "a"}\n'}]
    page.locator("#files").set_input_files(files)
    if scripts:
        page.get_by_role("button", name="Drop into the inbox").click()
        page.get_by_text("In the inbox: new.jsonl").wait_for(timeout=MILLISECONDS)
    else:
        with page.expect_navigation():
            page.get_by_role("button", name="Drop into the inbox").click()
    assert (site.inbox / "new.jsonl").read_text() == '{"text": "a"}\n'
    page.context.close()


def test_files_are_dragged_onto_the_page(browser, site):
    page = opened(browser, site, "/")
    log_in(page, site, "/inbox")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(['{"text": "a"}\\n'], "dragged.jsonl"));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    page.get_by_text("In the inbox: dragged.jsonl").wait_for(timeout=MILLISECONDS)
    page.context.close()


ATTACK = """
<form method=post action="TARGET/api/v1/jobs/7/cancel" target=frame><input name=csrf value=x></form>
<iframe name=frame></iframe>
<script>
document.forms[0].submit();
fetch("TARGET/api/v1/queue/pause", {method: "POST", credentials: "include"}).catch(() => 0);
fetch("TARGET/api/v1/jobs", {credentials: "include"}).then(answer => answer.text())
    .then(text => { window.stolen = text; }).catch(() => { window.refused = true; });
</script>
"""


class OtherSite:
    """Somebody else's page on another port, which tries to act with the cookie of a person who is logged in."""

    def __init__(self, target: str) -> None:
        html = ATTACK.replace("TARGET", target)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(html.encode())

            def log_message(self, *words: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()
        # Another site, not only another port: a name of its own.
        self.address = f"http://evil.test:{self.server.server_address[1]}/"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize("name", ["evil.test", "127.0.0.1"])
def test_a_page_of_another_site_can_neither_act_nor_read(browser, site, name):
    page = opened(browser, site, "/")
    log_in(page, site, "/")
    other = OtherSite(base(site))
    page.goto(other.address.replace("evil.test", name))
    page.wait_for_function("window.refused || window.stolen", timeout=MILLISECONDS)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.stolen ?? null") is None
    assert site.asked() == []
    other.stop()
    page.context.close()


def test_a_name_that_was_rebound_to_our_address_gets_nothing(browser, site):
    page = browser.new_page()
    answer = page.goto(f"http://evil.test:{site.server.address[1]}/")
    assert answer is not None
    assert answer.status == 421
    assert "0007" not in page.content()
    page.close()


def test_a_lost_connection_is_said_and_forgotten_when_it_is_back(browser, site):
    page = opened(browser, site, "/")
    page.context.set_offline(True)
    site.site.stopping.set()
    lost = page.get_by_text("The connection to the appliance is lost")
    lost.wait_for(timeout=MILLISECONDS)
    site.site.stopping.clear()
    page.context.set_offline(False)
    lost.wait_for(state="hidden", timeout=MILLISECONDS)
    page.context.close()
