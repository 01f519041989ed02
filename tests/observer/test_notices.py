"""People are told of an incident once, and once when it is over; whatever their service does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from distwatch.observer.daemon import Observer
from distwatch.observer.incidents import write_incident
from distwatch.observer.journals.recording import Recording
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.responses import addresses, notices
from distwatch.observer.responses.addresses import addresses_in
from distwatch.observer.responses.delivery import deliver, run_process
from distwatch.observer.responses.notices import Notices, Pace
from distwatch.report.notice import Notice, body_of, notice_of
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from tests.diagnosis.recorded import hung_job, judged
from tests.docs.blocks import blocks_for
from tests.observer.rank_process import RankProcess
from tests.support.leftovers import wait_gone

QUICK = Pace(pauses_s=(0.0, 0.0), within_s=60.0)
SECRET = "hf_abcdefghijklmnopqrstuvwx"


class Hook:
    """A web hook on loopback that answers with the given codes in turn, the last one for ever."""

    def __init__(self, *codes: int) -> None:
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.paths: list[str] = []
        left = list(codes or (200,))
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((dict(self.headers), json.loads(body)))
                hook.paths.append(self.path)
                self.send_response(code := left.pop(0) if len(left) > 1 else left[0])
                if code in (301, 302, 307):
                    self.send_header("Location", f"{hook.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hook() -> Iterator[Callable[..., Hook]]:
    made: list[Hook] = []

    def start(*codes: int) -> Hook:
        made.append(Hook(*codes))
        return made[-1]

    yield start
    for one in made:
        one.close()


class Watch:
    """Notices as an observer has them, with incidents written by hand, and a clock of its own."""

    def __init__(self, folder: RunFolder, setting: str, pace: Pace = QUICK) -> None:
        self.folder = folder
        self.now = 0.0
        self.recording = Recording(folder, lambda *_: None)
        self.notices = Notices(
            folder, load_state_or_new(folder), self.recording, addresses_in(setting), pace,
            clock=lambda: self.now,
        )  # fmt: skip

    def find(self, incident: int, finding: Finding) -> None:
        """An incident is on disk, and the verdict says so."""
        write_incident(self.folder, hung_job().state, [finding], incident)
        self.notices.consider(incident, [finding], blocked=True)

    async def sent(self) -> None:
        while self.notices.holds_on():
            await asyncio.sleep(0.01)

    async def recover(self) -> None:
        self.notices.consider(None, [], blocked=False)
        self.now += notices.SETTLED_S
        self.notices.consider(None, [], blocked=False)
        await self.sent()

    def told(self) -> list[tuple[int, str, bool]]:
        self.recording.flush()
        state = load_state(self.folder)
        found = [e.event for e in state.timeline if isinstance(e.event, ev.IncidentNotified)]
        return [(event.incident, event.how or event.phase, event.delivered) for event in found]


def load_state_or_new(folder: RunFolder) -> Any:
    from distwatch.observer.journals.run_state import resume_state

    return resume_state(folder)


@pytest_asyncio.fixture
async def watch(folder: RunFolder) -> AsyncIterator[Callable[..., Watch]]:
    made: list[Watch] = []

    def start(setting: str, pace: Pace = QUICK) -> Watch:
        made.append(Watch(folder, setting, pace))
        return made[-1]

    yield start
    for one in made:
        await one.notices.finish(ended=False, within_s=5)
        one.recording.close()


def root(code: str = "collective.rank_missing", *culprits: int, **more: Any) -> Finding:
    summary = more.pop("summary", "rank 2 never entered all_reduce #5")
    return Finding(code=code, summary=summary, culprit_ranks=culprits or (2,), **more)


async def test_once_and_once_when_it_is_over(watch: Any, hook: Any) -> None:
    service = hook()
    run = watch(f"{service.url}/T0/{SECRET}")
    for _ in range(3):
        run.find(1, root())
        await run.sent()
    run.find(1, root("process.data_stall", 2))  # a better word for the same incident
    await run.sent()
    await run.recover()
    await run.recover()
    assert [body["notice"]["phase"] for _, body in service.got] == ["new", "recovered"]
    headers, body = service.got[0]
    assert headers["Content-Type"] == "application/json"
    assert len({headers["Idempotency-Key"] for headers, _ in service.got}) == 2
    assert body["schema"] == "distwatch.report/1"
    assert body["findings"][0]["culprit_ranks"] == [2]
    assert "rank 2 never entered" in body["text"]
    assert f"{run.folder.incidents}/1/report.md" in body["text"]
    assert run.told() == [(1, "new", True), (1, "recovered", True)]
    # Where a token is in the path, nothing that is written or shown has it.
    for path in Path(run.folder.path).rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


async def test_another_culprit_is_another_incident(watch: Any, hook: Any) -> None:
    service = hook()
    run = watch(service.url)
    run.find(1, root())
    run.find(2, root("collective.rank_missing", 3))
    await run.sent()
    await run.notices.finish(ended=True, within_s=20)
    phases = [(b["notice"]["incident"], b["notice"]["phase"]) for _, b in service.got]
    assert phases == [(1, "new"), (1, "replaced"), (2, "new"), (2, "ended")]


async def test_a_verdict_that_flickers_is_one_incident(watch: Any, hook: Any) -> None:
    service = hook()
    run = watch(service.url)
    run.find(1, root())
    run.notices.consider(None, [], blocked=False)
    run.now += notices.SETTLED_S / 2
    run.notices.consider(None, [], blocked=False)
    run.find(2, root("process.data_stall", 2))
    await run.sent()
    assert [b["notice"]["phase"] for _, b in service.got] == ["new"]


async def test_an_incident_that_is_not_on_disk_is_not_told(watch: Any, hook: Any) -> None:
    service = hook()
    run = watch(service.url)
    run.notices.consider(None, [root()], blocked=True)
    assert not run.notices.holds_on()
    assert service.got == []


async def test_a_later_observer_does_not_tell_again(watch: Any, hook: Any) -> None:
    service = hook()
    first = watch(service.url)
    first.find(1, root())
    await first.sent()
    await first.notices.finish(ended=False, within_s=5)  # SIGTERM: the run goes on
    first.recording.close()
    second = watch(service.url)
    second.find(1, root())
    await second.sent()
    assert [b["notice"]["phase"] for _, b in service.got] == ["new"]
    await second.recover()
    assert [b["notice"]["phase"] for _, b in service.got] == ["new", "recovered"]


async def test_a_service_that_is_away_for_a_while(watch: Any, hook: Any) -> None:
    service = hook(503, 429, 200)
    run = watch(service.url)
    run.find(1, root())
    await run.sent()
    assert len(service.got) == 3
    assert run.told() == [(1, "new", True)]


@pytest.mark.parametrize(
    ("codes", "tries", "why"),
    [([500], 3, "it answered 500"), ([404], 1, "it answered 404"), ([302], 1, "it answered 302")],
)
async def test_a_service_that_does_not_take_it(
    watch: Any, hook: Any, codes: list[int], tries: int, why: str
) -> None:
    service = hook(*codes)
    run = watch(service.url)
    run.find(1, root())
    await run.sent()
    assert len(service.got) == tries
    assert not any("elsewhere" in path for path in service.paths), "no redirect is followed"
    assert run.told() == [(1, "new", False)]
    state = load_state(run.folder)
    (host,) = state.hosts.values()
    assert why in host.not_observed["notify"]
    await run.recover()  # of what nobody knows, nobody is told that it is over
    assert len(service.got) == tries


async def test_a_command_gets_the_report_and_the_facts(watch: Any, tmp_path: Path) -> None:
    told = "cat > got.json; env | grep -a '^DISTWATCH' > got.env; echo done >> got.count"
    run = watch(f"cd {tmp_path} && {{ {told}; }}")
    hostile = root(summary="$(touch pwned) `touch pwned` \x1b[2J password=hunter2hunter2")
    run.find(1, hostile)
    await run.sent()
    report = json.loads((tmp_path / "got.json").read_text())
    on_disk = json.loads(Path(run.folder.incidents, "1", "report.json").read_text())
    assert report == on_disk, "a command gets all of it"
    variables = (tmp_path / "got.env").read_text()
    assert f"DISTWATCH_RUN={run.folder.run_id}\n" in variables
    assert "DISTWATCH_CODE=collective.rank_missing\n" in variables
    assert "DISTWATCH_SUMMARY=$(touch pwned)" in variables
    assert "hunter2" not in variables
    assert "\x1b" not in variables
    assert not (tmp_path / "pwned").exists()


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    (address,) = addresses_in(f"sleep 1000 & echo $! > {tmp_path}/child; exec sleep 1000")
    outcome = deliver(address, Notice(phase="test", run="r"), b"{}", within_s=1.0)
    assert (outcome.why, outcome.final) == ("no answer within 1 s", False)
    assert wait_gone(int((tmp_path / "child").read_text()), 60)


def test_a_command_whose_child_keeps_the_pipe_open(tmp_path: Path) -> None:
    (address,) = addresses_in(f"sleep 1000 & echo $! > {tmp_path}/child")
    outcome = deliver(address, Notice(phase="test", run="r"), b"{}", within_s=60.0)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert outcome.why == ""


def test_why_a_command_failed() -> None:
    (address,) = addresses_in(f"echo 'token={SECRET} refused' >&2; exit 7")
    outcome = deliver(address, Notice(phase="test", run="r"), b"{}")
    assert outcome.why.startswith("exit code 7: token=")
    assert SECRET not in outcome.why
    (missing,) = addresses_in("/no/such/program")
    assert deliver(missing, Notice(phase="test", run="r"), b"{}").final


def test_much_output_is_not_kept() -> None:
    ended = run_process(["/bin/sh", "-c", "yes | head -c 5000000 >&2"], dict(os.environ), b"", 60)
    assert (ended.code, len(ended.said)) == (0, 1)


def test_no_stacks_and_no_source_leave_the_machine(folder: RunFolder) -> None:
    job = hung_job()
    frames = (ev.Frame(function="secret_sauce", file="model.py", line=3),)
    threads = (ev.ThreadStack(name="MainThread", frames=frames),)
    job.see(31.0, ev.StackTaken(process=job.key(2), threads=threads))
    raised = ev.ExceptionUncaught(
        type_name="E", message="m", traceback=("File model.py in secret_sauce",)
    )
    job.say(2, 31.5, raised)
    write_incident(folder, job.state, judged(job), 1)
    report = Path(folder.incidents, "1", "report.json").read_bytes()
    assert b"secret_sauce" in report
    sent = json.loads(body_of(report, notice_of(report, 1, "h:/i/1")))
    assert sent["stacks"] == []
    assert all("exception" not in rank for rank in sent["ranks"])
    assert all(e["source"] != "stack" for f in sent["findings"] for e in f["evidence"])


def test_text_that_pages_well() -> None:
    report = json.dumps(
        {
            "run": {"id": "llama"},
            "findings": [
                {
                    "code": "process.data_stall", "severity": "hang", "role": "root",
                    "summary": "rank 2 waits for data", "advice": "Look at the loader.",
                    "culprit_ranks": [2], "waiting_ranks": [0, 1, 3], "confidence": 0.4,
                }
            ],
            "ranks": [{"global_rank": 2, "host": "node3", "step": 1200}],
        }
    ).encode()  # fmt: skip
    (block,) = blocks_for("tests/observer/test_notices.py")
    assert notice_of(report, 4, "node1:/runs/llama/incidents/4").text + "\n" == block.text


def test_what_the_setting_means() -> None:
    kinds = [(a.kind, a.shown) for a in addresses_in("https://u:p@h.example/x slack://a/b/c")]
    assert kinds == [("web", "https://h.example"), ("service", "slack://[redacted]")]
    assert [(a.kind, a.shown) for a in addresses_in("TOKEN=x /usr/bin/page --to me")] == [
        ("command", "the command page")
    ]
    assert addresses_in("  ") == ()


def test_a_service_without_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses.importlib.util, "find_spec", lambda _name: None)
    (address,) = addresses_in("slack://a/b/c")
    outcome = deliver(address, Notice(phase="test", run="r"), b"{}")
    assert outcome.final
    assert "pip install 'distwatch[notify]'" in outcome.why
    assert "a/b/c" not in outcome.why


def test_a_service_by_apprise(hook: Any) -> None:
    """Its `json://` is a service like Slack's, on loopback."""
    service = hook()
    (address,) = addresses_in(service.url.replace("http://", "json://") + "/path")
    outcome = deliver(address, Notice(phase="test", run="here", summary="all well"), b"{}")
    assert outcome.why == ""
    ((_, body),) = service.got
    assert body["title"] == "distwatch: test message from here"
    assert "all well" in body["message"]


async def test_an_observer_that_is_started_again_tells_nothing_twice(
    folder: RunFolder, start_rank: Callable[..., RankProcess], tmp_path: Path
) -> None:
    told = {"DISTWATCH_NOTIFY": f'echo "$DISTWATCH_PHASE $DISTWATCH_RANKS" >> {tmp_path}/told'}
    ranks = [start_rank(number, 2) for number in range(2)]
    for number, rank in enumerate(ranks):
        rank.do(f"confirm {number} 2")
        rank.do("group 2")
    for time_of_observer in range(2):
        observer = Observer(folder)
        observer.act_on_incidents(told)
        observer.tick()
        if not time_of_observer:
            ranks[1].kill()
        while not (observer.judge.incident and not observer.responses.holds_on()):
            observer.tick()
            await asyncio.sleep(0.01)
        observer.tick()
        assert not observer.responses.holds_on()
        await observer.finish("asked to end")
    assert (tmp_path / "told").read_text() == "new 1\n"
    ranks[0].kill()
    observer = Observer(folder)
    observer.act_on_incidents(told)
    observer.tick()
    await observer.finish("the run has ended")
    # Whether the end also names rank 0 depends on whether its own death was judged before.
    lines = (tmp_path / "told").read_text().splitlines()
    assert (lines[0], [line.split()[0] for line in lines]) == ("new 1", ["new", "ended"])
