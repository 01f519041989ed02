"""The live page's stream: what has changed, from where a page left off, until the run is gone."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distwatch.observer.lock import take_lock
from distwatch.web import live, looks
from distwatch.web.live import STREAMS
from tests.cli.runs import save
from tests.diagnosis.recorded import RecordedJob
from tests.web.conftest import Client, Serve


class Stream:
    """One stream of server-sent events, read event by event."""

    def __init__(self, client: Client, path: str, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(*client.address, timeout=30)
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()

    def next(self) -> dict[str, str]:
        """The next event's fields; a comment is the field ''."""
        fields: dict[str, str] = {}
        for line in iter(lambda: self.response.readline().decode().rstrip("\n"), ""):
            name, _, value = line.partition(": ")
            fields[name] = value
        return fields

    def parts(self) -> tuple[str, dict[str, Any]]:
        """The next event that brings parts: its name, and they."""
        for event in iter(self.next, {}):
            if event.get("event") == "parts":
                return event["id"], json.loads(event["data"])
        raise AssertionError("the stream has ended")

    def close(self) -> None:
        self.response.close()
        self._connection.close()


Listen = Callable[..., Stream]


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listen]:
    monkeypatch.setattr(looks, "READ_EVERY_S", 0.05)
    opened: list[Stream] = []

    def start(client: Client, path: str = "/runs/r/events", **headers: str) -> Stream:
        opened.append(Stream(client, path, **headers))
        return opened[-1]

    yield start
    for stream in opened:
        stream.close()


@pytest.fixture
def job(root: Path) -> RecordedJob:
    job = RecordedJob(2)
    job.initialize(0, 1)
    save(job, root, "r")
    return job


def test_a_change_comes_without_asking_and_only_what_changed(
    serve: Serve, root: Path, job: RecordedJob, listen: Listen
) -> None:
    stream = listen(serve())
    assert stream.response.headers["Content-Type"].startswith("text/event-stream")
    assert stream.next() == {"retry": "2000"}
    first, parts = stream.parts()
    assert "What is not known" in parts["unknown"]
    assert "crash" not in parts["verdict"]
    job.exit(1, 9.0, code=3)
    save(job, root, "r")
    second, parts = stream.parts()
    assert "crash" in parts["verdict"]
    assert "rank 1" in parts["verdict"]
    assert parts["title"].startswith("process.exited")
    assert "machines" not in parts
    assert first != second


def test_a_stream_goes_on_where_the_page_left_off(
    serve: Serve, root: Path, job: RecordedJob, listen: Listen
) -> None:
    client = serve()
    page = client.ask("/runs/r")
    at = page.text.partition('data-at="')[2].partition('"')[0]
    other = listen(client)
    assert other.parts()[0] == at
    job.exit(1, 9.0, code=3)
    save(job, root, "r")
    newest, _ = other.parts()
    for stream in (
        listen(client, f"/runs/r/events?after={at}"),
        # The browser says by itself which event it had last: that one counts.
        listen(client, "/runs/r/events?after=nonsense", **{"Last-Event-ID": at}),
    ):
        name, parts = stream.parts()
        assert name == newest
        assert "verdict" in parts
        assert "machines" not in parts
    # A name of another server, or of the future, is a page that knows nothing.
    for name in ("", "00000000-1", f"{at}9", "x", "-", "٣"):
        _, parts = listen(client, **{"Last-Event-ID": name.encode().decode("latin-1")}).parts()
        assert "machines" in parts


def test_who_has_the_newest_hears_only_that_it_is_there(
    serve: Serve, job: RecordedJob, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)
    client = serve()
    at, _ = listen(client).parts()
    stream = listen(client, f"/runs/r/events?after={at}")
    assert stream.next() == {"retry": "2000"}
    assert stream.next() == {"": "still here"}


def test_a_run_that_vanishes_is_told_once_and_then_is_not_there(
    serve: Serve, root: Path, job: RecordedJob, listen: Listen
) -> None:
    client = serve()
    stream = listen(client)
    at, _ = stream.parts()
    shutil.rmtree(root / "r")
    event = stream.next()
    assert event["event"] == "over"
    assert "was removed" in event["data"]
    assert stream.next() == {}
    assert client.ask("/runs/r").status == 404
    assert client.ask("/runs/r/events").status == 404
    # A page that was away meanwhile is told, too: a browser hides the status of a stream from it.
    event = listen(client, f"/runs/r/events?after={at}").next()
    assert (event["event"], "was removed" in event["data"]) == ("over", True)


def test_an_observer_that_does_not_answer_leaves_the_files(
    serve: Serve, root: Path, job: RecordedJob, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distwatch.observer.targets import live as live_runs

    monkeypatch.setattr(live_runs, "CONNECT_WITHIN_S", 0.0)
    from distwatch.runfolder import RunFolder

    assert take_lock(RunFolder(str(root / "r"))) is not None
    assert "verdict" in listen(serve()).parts()[1]


def test_a_run_that_cannot_be_read_is_an_error_with_words(
    serve: Serve, root: Path, listen: Listen
) -> None:
    (root / "bad").mkdir(parents=True)
    (root / "bad" / "x.journal").write_bytes(b"?" * 4000)
    reply = serve().ask("/runs/bad")
    assert reply.status == 500
    assert "no readable record" in reply.text


def test_the_list_of_runs_grows_by_itself(
    serve: Serve, root: Path, job: RecordedJob, listen: Listen
) -> None:
    client = serve()
    page = client.ask("/runs", Accept="text/html,*/*").text
    assert '<a href="/runs/r">r</a>' in page
    stream = listen(client, "/runs/events")
    assert "later" not in stream.parts()[1]["runs"]
    save(job, root, "later")
    assert '<a href="/runs/later">later</a>' in stream.parts()[1]["runs"]
    # Programs get the list as before.
    assert json.loads(client.ask("/runs").body)["schema"] == "distwatch.ps/1"


def test_streams_leave_places_for_pages(serve: Serve, job: RecordedJob, listen: Listen) -> None:
    client = serve()
    streams = [listen(client) for _ in range(STREAMS)]
    for stream in streams:
        stream.parts()
    reply = client.ask("/runs/r/events")
    assert reply.status == 503
    assert f"{STREAMS} live pages are open already" in reply.text
    assert client.ask("/runs/r").status == 200
    assert client.ask("/runs/r/events", "HEAD").status == 503


def test_a_head_of_a_stream_ends(serve: Serve, job: RecordedJob) -> None:
    reply = serve().ask("/runs/r/events", "HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Content-Type"].startswith("text/event-stream")


def test_a_link_to_one_rank(serve: Serve, job: RecordedJob) -> None:
    client = serve()
    reply = client.ask("/runs/r/ranks/1")
    assert (reply.status, reply.headers["Location"].rpartition("/runs")[2]) == (303, "/r#r1")
    told = json.loads(client.ask("/api/runs/r/ranks/1").body)
    assert (told["schema"], told["global_rank"]) == ("distwatch.status/1", 1)
    for path in ("/api/runs/r/ranks/2", "/api/runs/r/ranks/x", "/runs/r/ranks/x"):
        assert client.ask(path).status == 404
