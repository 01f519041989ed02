"""The served report in a real browser: under the server's own policy its script runs, and nothing else is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import browsing
from tests.web.conftest import Serve

pytestmark = pytest.mark.xdist_group("browser")


def test_the_page_works_under_the_servers_policy(serve: Serve, hung: Path) -> None:
    host, port = serve().address
    address = f"http://{host}:{port}/runs/hung/report.html"
    with browsing() as (page, seen):
        page.goto(address)
        page.locator("#ranks").fill("2")
        assert page.locator(".map a:not(.off)").count() == 1
        # A browser asks for an icon by itself; the page has none.
        assert [url for url in seen.requests if not url.endswith("/favicon.ico")] == [address]
        assert [told for told in seen.complaints if "favicon" not in told] == []
