"""A real Chromium of this machine, which a test drives and which reaches nothing outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


class Seen:
    """What a page did besides showing itself."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []


@contextmanager
def browsing(**options: Any) -> Iterator[tuple[Page, Seen]]:
    """A page, its requests, and every error on its console; skips where there is no browser.

    Args:
        options: of Playwright's `new_context`.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    seen = Seen()
    with playwright.sync_playwright() as driver:
        # As root, Chromium's own sandbox does not start.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and seen.complaints.append(said.text))
        try:
            yield page, seen
        finally:
            browser.close()
