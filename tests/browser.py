"""Debian's Chromium, driven by Playwright; and one tab of it that notes what it fetched and what scripts popped up."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Dialog, sync_playwright
from playwright.sync_api import Page as PlaywrightPage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking")


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """A browser without a window, gone afterwards."""
    assert CHROMIUM, "no Chromium here"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, *options])
        yield browser
        browser.close()


class Page:
    """One tab. `requests` are the addresses it asked for, `dialogs` what scripts popped up."""

    def __init__(self, browser: Browser) -> None:
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self._browser = browser
        self._context: BrowserContext | None = None
        self._page: PlaywrightPage | None = None

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Be a screen of this size whose owner likes it light or dark."""
        if self._context is not None:
            self._context.close()
        self._context = self._browser.new_context(
            viewport={"width": width, "height": height},
            is_mobile=width < 500,
            color_scheme="dark" if dark else "light",
        )
        self._page = self._context.new_page()
        self._page.on("request", lambda request: self.requests.append(request.url))
        self._page.on("dialog", self._note_dialog)

    def open(self, path: Path) -> None:
        """Show a file, and return when all of it is there."""
        assert self._page is not None, "look comes first"
        self._page.goto(path.as_uri())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        assert self._page is not None, "look comes first"
        return self._page.evaluate(expression)

    def _note_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        # The page waits for it.
        dialog.accept()
