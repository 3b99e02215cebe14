"""`report.html` in a real browser: its drawings are seen, nothing leaves the machine, hostile rows stay text."""

from pathlib import Path

import pytest

from appliance.texts.report import render_report
from tests.browser import CHROMIUM, Page, chromium
from tests.finished import SAMPLE, finished_job, finished_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")

OUTSIDE = "http://127.0.0.1:9/"
HOSTILE = (
    f"<script>window.ran = 1; alert(1); fetch('{OUTSIDE}script')</script>"
    f"<img src='{OUTSIDE}image' onerror='window.ran = 2'>"
    '"onerror="window.ran = 3" x="'
    "<svg onload='window.ran = 4'></svg></pre></bdi></details>"
    f"<style>@import '{OUTSIDE}style'; body {{ display: none }}</style>"
    "\u202egnp.exe\u2066\u200f"
)
PHONE, DESK = 390, 1280
# What page.css calls --paper and --train.
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}
INK = {"light": "rgb(29, 90, 158)", "dark": "rgb(130, 182, 238)"}

# The size of every drawing that is shown, figure by figure, and the width of all curves and columns in it.
SEEN_DRAWINGS = """
const drawn = (svg, ink) => {
    const shapes = [...svg.querySelectorAll("path, rect")].filter(shape => {
        const style = getComputedStyle(shape);
        return style.stroke === ink || style.fill === ink;
    }).map(shape => shape.getBoundingClientRect());
    return Math.max(...shapes.map(box => box.right)) - Math.min(...shapes.map(box => box.left));
};
const figures = ink => [...document.querySelectorAll("figure")].map(figure => [...figure.querySelectorAll("svg")]
    .map(svg => ({box: svg.getBoundingClientRect(), svg}))
    .filter(({box}) => box.width > 0)
    .map(({box, svg}) => ({
        left: box.left, right: box.right, width: box.width, height: box.height, drawn: drawn(svg, ink),
    })))
"""

# Where "Job", its name and what follows begin.
FOOTER_FROM_LEFT_TO_RIGHT = """
[...document.querySelector("footer").childNodes].slice(0, 3).map(node => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return range.getBoundingClientRect().left;
})
"""


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        yield Page(browser)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("report"), hostile_report())


def hostile_report() -> str:
    sample = SAMPLE | {
        "messages": [{"role": HOSTILE, "content": HOSTILE}],
        "answer": HOSTILE,
        "base": HOSTILE,
        "tuned": HOSTILE,
    }
    return render_report(
        finished_report(
            job=finished_job(id=HOSTILE),
            samples=[sample, SAMPLE | {"tuned": "أين طلبي؟ " + "ö" * 300}],
            labels_text=f"legend\n\n──── row 1: 2 tokens, 1 trained ────\n{HOSTILE} ⟦{HOSTILE}⟧\n",
            recipe_yaml=f"base_model: {HOSTILE}\n",
        )
    )


def written(folder: Path, html: str) -> Path:
    path = folder / "report.html"
    path.write_text(html)
    return path


def opened(page: Page, path: Path, *, width: int = DESK, dark: bool = False) -> Page:
    page.requests.clear()
    page.dialogs.clear()
    page.look(width=width, dark=dark)
    page.open(path)
    return page


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_drawing_is_seen(page, report, width, scheme):
    opened(page, report, width=width, dark=scheme == "dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == PAPER[scheme]
    figures = page.evaluate(f"{{ {SEEN_DRAWINGS}; figures({INK[scheme]!r}) }}")
    assert len(figures) >= 4
    for drawings in figures:
        # One for the phone, one for the desk: never both, never neither.
        [drawing] = drawings
        assert drawing["width"] >= 200
        assert drawing["height"] >= 80
        assert 0 <= drawing["left"] < drawing["right"] <= width
        assert drawing["drawn"] >= drawing["width"] / 2


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_is_wider_than_the_screen(page, report, width):
    opened(page, report, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_is_fetched_from_anywhere(page, report):
    assert opened(page, report).requests == [report.as_uri()]


def test_hostile_text_is_text(page, report):
    opened(page, report)
    assert page.evaluate("window.ran ?? null") is None
    assert page.dialogs == []
    assert page.evaluate("document.scripts.length + document.images.length") == 0
    assert page.evaluate("document.querySelectorAll('[onerror], [onload]').length") == 0
    text = page.evaluate("document.body.innerText")
    assert text.count("<script>window.ran = 1;") >= 6
    assert not set("\u202e\u2066") & set(text)


def test_text_from_right_to_left_leaves_its_surroundings_alone(page, tmp_path):
    html = render_report(finished_report(job=finished_job(id="\u200fأين طلبي؟\u200f 12")))
    opened(page, written(tmp_path, html))
    before, name, after = page.evaluate(FOOTER_FROM_LEFT_TO_RIGHT)
    assert before < name < after


def test_a_page_that_lets_it_through_would_be_noticed(page, tmp_path):
    opened(page, written(tmp_path, f"<!doctype html><body>{HOSTILE}"))
    assert page.evaluate("window.ran") in (1, 2, 4)
    assert page.dialogs == ["1"]
    assert {f"{OUTSIDE}script", f"{OUTSIDE}image"} <= set(page.requests)
