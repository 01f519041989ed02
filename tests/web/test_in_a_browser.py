"""The live page in a real browser: it changes by itself, keeps what a person did, and talks to nobody else."""

from __future__ import annotations

import http.server
import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.state import events as ev
from tests.cli.runs import save
from tests.diagnosis.recorded import hung_job
from tests.support.browser import Seen, browsing
from tests.support.ranks import launch_ranks
from tests.web.conftest import TOKEN, Serve

pytestmark = pytest.mark.xdist_group("browser")
IN_MS = 60_000


def assert_quiet(seen: Seen, url: str) -> None:
    """Nothing was asked of anybody else, and the console has no error."""
    assert seen.complaints == []
    assert [asked for asked in seen.requests if not asked.startswith(url)] == []


def test_a_report_works_under_the_servers_policy(serve: Serve, hung: Path) -> None:
    url = serve().url
    with browsing() as (page, seen):
        page.goto(f"{url}runs/hung/report.html")
        page.locator("#ranks").fill("2")
        assert page.locator(".map a:not(.off)").count() == 1
        assert_quiet(seen, url)


def test_on_a_telephone_nothing_lies_beyond_the_edge(serve: Serve, root: Path) -> None:
    job = hung_job()
    library = "/home/a/long/way/down/.venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
    job.stack(0, 41.0, (ev.Frame(file=library, line=3252, function="all_reduce"),))
    save(job, root, "86daec5a-a711-4a13-8163-f2c5fc383e39")
    url = serve().url
    with browsing() as (page, seen):
        page.set_viewport_size({"width": 390, "height": 844})
        for path in ("", "runs"):
            page.goto(f"{url}{path}")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
        sentence = page.locator(".runs td", has_text="rank 2").bounding_box()
        assert sentence is not None
        assert sentence["x"] + sentence["width"] <= 390
        assert_quiet(seen, url)


@pytest.mark.timeout(240)
def test_a_page_shows_a_real_job_get_stuck(serve: Serve, root: Path) -> None:
    with launch_ranks("after_the_gate", 3) as job:
        job.wait_step("gate reduce", {0, 1, 2})
        url = serve(job.folder.path).url
        with browsing() as (page, seen):
            page.goto(url)
            page.locator("#state.live").wait_for()
            assert page.locator("h1").bounding_box()["y"] < 200  # type: ignore[index]
            assert "hang" not in page.locator("#part-verdict").inner_text().lower()
            # What a person does meanwhile stays.
            page.locator("#ranks").fill("1")
            page.locator("#part-timeline summary").click()
            page.evaluate("scrollTo(0, 300)")
            job.open_gate("reduce", 0)
            job.open_gate("reduce", 2)
            page.locator(".verdict.hang h1").wait_for(timeout=IN_MS)
            verdict = page.locator(".verdict.hang h1").inner_text()
            assert "rank 1" in verdict
            assert "after_the_gate.py:11" in verdict
            assert page.title().startswith(("collective.", "process."))
            page.locator('.map a[href="#r1"].blamed').wait_for(timeout=IN_MS)
            assert page.locator(".strip.blamed:visible").count() == 1
            assert page.locator("#ranks").input_value() == "1"
            assert page.locator(".map a.off").count() == 2
            assert page.locator("#part-timeline details[open]").count() == 1
            assert page.evaluate("scrollY") > 0
            # From a tile to its rank; a search in the stacks.
            page.locator('.map a[href="#r1"]').click()
            assert page.locator("#r1").is_visible()
            page.keyboard.press("/")
            page.keyboard.type("after_the_gate")
            page.locator("#part-stacks .hit:visible").first.wait_for()
            page.locator("#ranks").fill("")
            page.locator("#search").fill("")
            job.open_gate("reduce", 1)
            job.wait_ended()
            page.locator(".verdict:not(.hang)").wait_for(timeout=IN_MS)
            assert_quiet(seen, url)


def test_a_link_to_a_rank_opens_at_it(serve: Serve, hung: Path) -> None:
    url = serve().url
    with browsing() as (page, _):
        page.goto(f"{url}runs/hung/ranks/1")
        assert page.url.endswith("/runs/hung#r1")
        page.locator("#r1").wait_for(state="visible")


def test_pause_and_a_run_that_vanishes(serve: Serve, hung: Path) -> None:
    client = serve()
    with browsing() as (page, seen):
        page.goto(f"{client.url}runs")
        page.get_by_role("link", name="hung").click()
        page.locator("#state.live").wait_for()
        page.locator("#pause").click()
        assert page.locator("#state").inner_text().startswith("paused")
        shutil.rmtree(hung / "hung")
        page.locator("#pause").click()
        page.locator("#state.over").wait_for(timeout=IN_MS)
        assert "was removed" in page.locator("#state").inner_text()
        assert "never entered" in page.locator("h1").inner_text()
        assert_quiet(seen, client.url)


def test_a_page_says_that_the_server_is_gone_and_finds_it_again(serve: Serve, hung: Path) -> None:
    with browsing() as (page, _):
        first = serve("hung")
        page.goto(first.url)
        page.locator("#state.live").wait_for()
        first.stop()
        page.locator("#state.lost").wait_for(timeout=IN_MS)
        assert "this is the last state" in page.locator("#state").inner_text()
        # Another server at the same port: its versions are others, and the page takes all of it.
        shutil.rmtree(hung / "hung")
        job = hung_job()
        job.exit(2, 99.0, code=9)
        save(job, hung, "hung")
        serve("hung", port=first.address[1])
        page.locator(".verdict.crash h1").wait_for(timeout=IN_MS)
        page.locator("#state.live").wait_for()


def test_a_browser_asks_for_the_token(serve: Serve, hung: Path) -> None:
    client = serve(token=TOKEN)
    with browsing(http_credentials={"username": "me", "password": TOKEN.decode()}) as (page, seen):
        page.goto(client.url)
        page.locator("#state.live").wait_for()
        assert "never entered" in page.locator("h1").inner_text()
        assert TOKEN.decode() not in page.content()
        assert_quiet(seen, client.url)


_EVIL = b"""<!doctype html><title>evil</title><body><script>
const ours = location.hash.slice(1), told = {};
const settle = (name, word) => { told[name] = word; document.title = JSON.stringify(told); };
for (const mode of ["cors", "no-cors"]) {
  fetch(ours + "api/runs", {mode}).then((r) => r.text())
    .then((t) => settle(mode, t || "refused"), () => settle(mode, "refused"));
}
for (const [name, tag] of [["image", "img"], ["script", "script"]]) {
  const one = document.createElement(tag);
  one.onload = () => settle(name, "loaded"); one.onerror = () => settle(name, "refused");
  one.src = ours + "runs/hung/report.html"; document.body.append(one);
}
const stream = new EventSource(ours + "runs/hung/events");
stream.onopen = () => settle("stream", "open"); stream.onerror = () => settle("stream", "refused");
</script>"""


class _Evil(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(_EVIL)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def evil() -> Iterator[str]:
    """A site of somebody else on this machine."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Evil) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_another_sites_page_gets_nothing(serve: Serve, hung: Path, evil: str) -> None:
    with browsing() as (page, _):
        page.goto(f"{evil}#{serve().url}")
        names = ("cors", "no-cors", "image", "script", "stream")
        page.wait_for_function(
            f"document.title.split('refused').length > {len(names)}", timeout=IN_MS
        )
        assert page.title().count("refused") == len(names)
