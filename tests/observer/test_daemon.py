"""The observer: ends are seen, nothing is read twice, the verdict is on disk before it goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from distwatch.observer import daemon, judging
from distwatch.observer.daemon import Observer
from distwatch.observer.journals.reading import read_entries
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.journals.segments import read_journal
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from tests.observer.rank_process import HOME, RankProcess

Start = Callable[..., RankProcess]
Observe = Callable[[], Observer]


@pytest_asyncio.fixture
async def observe(folder: RunFolder) -> AsyncIterator[Observe]:
    """Observers of the folder, driven tick by tick."""
    made: list[Observer] = []

    def start() -> Observer:
        made.append(Observer(folder))
        return made[-1]

    yield start
    for observer in made:
        await observer.finish("the test ends")


async def settle(observer: Observer) -> None:
    """Lets an inspection that a tick began come to its end, and judges what it brought."""
    while observer.inspection.running:
        await asyncio.wait([observer.inspection.begin("", {})])
        observer.tick()


def exits(observer: Observer) -> dict[str, tuple[int | None, int | None]]:
    return {
        key: (p.outside.exit.exit_code, p.outside.exit.signal)
        for key, p in observer.state.processes.items()
        if p.outside.exit is not None
    }


async def test_exit_codes_and_signals_are_seen(observe: Observe, start_rank: Start) -> None:
    quiet, failed, killed = (start_rank(number, 3) for number in range(3))
    observer = observe()
    observer.tick()
    assert exits(observer) == {}
    failed.do("raising boom")
    failed.exit(3)
    killed.kill()
    observer.tick()
    assert exits(observer) == {failed.key: (3, None), killed.key: (None, signal.SIGKILL)}
    exception = observer.state.processes[failed.key].exception
    assert exception is not None
    assert exception.message == "boom"
    assert quiet.key in {tracked.key for tracked in observer.tracking.living()}


async def test_last_words_are_read_however_late_the_tick(
    observe: Observe, start_rank: Start
) -> None:
    rank = start_rank()
    observer = observe()
    observer.tick()
    rank.do("steps 4")
    rank.do("begin load 5")
    rank.do("beat 7 6")
    rank.kill()
    observer.tick()
    process = observer.state.processes[rank.key]
    assert [step.name for step in process.open_steps()] == ["load"]
    assert process.outside.pulse is not None
    assert process.outside.pulse.groups[0].enqueued == 7


async def test_a_process_that_was_gone_before_is_told_without_a_code(
    observe: Observe, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("steps 1")
    rank.kill()
    rank.close()
    observer = observe()
    observer.tick()
    assert exits(observer) == {rank.key: (None, None)}
    assert len(observer.state.processes[rank.key].steps) == 1


async def test_the_next_observer_loses_nothing_and_repeats_nothing(
    folder: RunFolder, observe: Observe, start_rank: Start
) -> None:
    rank = start_rank()
    first = observe()
    rank.do("steps 50")
    first.tick()
    rank.do("steps 50")
    # The first one is gone without a word, in the middle of a frame.
    path = Path(folder.journal(rank.stem))
    os.truncate(path, path.stat().st_size - 5)
    second = observe()
    second.tick()
    rank.do("steps 50")
    second.tick()
    contents = read_journal(str(path))
    assert contents is not None
    assert [record.seq for record in contents.records] == list(range(1, 302))
    assert second.state.processes[rank.key].gaps == 0


async def test_the_next_observer_does_not_bury_the_dead_twice(
    folder: RunFolder, observe: Observe, start_rank: Start
) -> None:
    rank = start_rank()
    first = observe()
    first.tick()
    rank.exit(0)
    first.tick()
    rank.close()
    second = observe()
    second.tick()
    ends = [e for e in read_entries(folder) if isinstance(e.event, ev.ExitSeen)]
    assert len(ends) == 1
    assert exits(second) == {rank.key: (0, None)}


async def test_records_of_other_nodes_are_not_taken_for_ours(
    folder: RunFolder, observe: Observe
) -> None:
    text = f"pid={os.getpid()}\nticks=5\nppid=1\nhost=another-node\nrole=rank\nRANK=1\n"
    Path(folder.path, "another-node-5.start").write_text(text)
    observer = observe()
    observer.tick()
    assert exits(observer) == {}
    assert observer.tracking.living() == []


async def test_a_start_record_that_is_not_filled_yet_is_read_later(
    folder: RunFolder, observe: Observe
) -> None:
    path = Path(folder.path, f"x-{os.getpid()}.start")
    path.touch()
    observer = observe()
    observer.tick()
    host = os.uname().nodename
    path.write_text(f"pid=1\nticks=1099511627776\nppid=1\nhost={host}\nrole=rank\nRANK=1\n")
    observer.tick()
    assert [process.global_rank for process in observer.state.processes.values()] == [1]


async def test_a_crash_is_an_incident_on_disk(
    folder: RunFolder, observe: Observe, start_rank: Start
) -> None:
    failed, other = start_rank(0, 2), start_rank(1, 2)
    for rank in (failed, other):
        rank.do("group 2")
        rank.do("begin init_process_group 60")
    observer = observe()
    observer.tick()
    failed.exit(3)
    observer.tick()
    await settle(observer)
    report = json.loads(Path(folder.incidents, "1", "report.json").read_bytes())
    assert report["findings"][0]["culprit_ranks"] == [0]
    assert report["findings"][0]["severity"] == "crash"
    assert Path(folder.incidents, "1", "report.html").stat().st_size > 0
    stack = observer.state.processes[other.key].outside.stack
    reason = observer.state.processes[other.key].outside.not_observed
    assert stack is not None or "stack" in reason
    judged = load_state(folder).judged
    assert judged is not None
    assert judged.incident == 1


async def test_the_same_trouble_stays_the_same_incident_for_the_next_observer(
    folder: RunFolder, observe: Observe, start_rank: Start
) -> None:
    failed, other = start_rank(0, 2), start_rank(1, 2)
    other.do("begin init_process_group 60")
    first = observe()
    first.tick()
    failed.exit(3)
    first.tick()
    await settle(first)
    await first.finish("replaced")
    second = observe()
    second.tick()
    await settle(second)
    assert os.listdir(folder.incidents) == ["1"]


async def test_a_report_that_fails_does_not_cost_the_verdict(
    folder: RunFolder, observe: Observe, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("template broken")

    monkeypatch.setattr(judging, "write_incident", fail)
    rank = start_rank()
    observer = observe()
    observer.tick()
    rank.exit(3)
    observer.tick()
    await settle(observer)
    state = load_state(folder)
    assert state.recorded_findings
    told = state.hosts[os.uname().nodename].not_observed
    assert "template broken" in told["incident"]


async def test_a_failing_tick_is_told_and_the_watch_goes_on(
    folder: RunFolder, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(*_: object) -> list[object]:
        calls.append(1)
        if len(calls) == 3:
            observer.stop()
        raise RuntimeError("check broken")

    monkeypatch.setattr(judging, "diagnose", fail)
    monkeypatch.setattr(daemon, "TICK_S", 0.01)
    start_rank()
    observer = Observer(folder)
    assert await observer.run() == "asked to end"
    told = load_state(folder).hosts[os.uname().nodename].not_observed
    assert "check broken" in told["tick"]


async def test_it_ends_after_its_last_process(
    folder: RunFolder, start_rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "LINGER_S", 0.0)
    rank = start_rank()
    observer = Observer(folder)
    task = asyncio.create_task(observer.run())
    while rank.key not in observer.state.processes:
        await asyncio.sleep(0)
    rank.exit(0)
    assert await task == "the run has ended"
    state = load_state(folder)
    seen = state.processes[rank.key].outside.exit
    assert seen is not None
    assert seen.exit_code == 0
    assert state.recorded_findings == ()


async def test_without_a_place_to_write_it_still_observes(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("steps 3")
    observer = Observer(folder, embedded=True, writable=False)
    observer.tick()
    before = sorted(os.listdir(folder.path))
    rank.exit(3)
    observer.tick()
    await settle(observer)
    await observer.finish("over")
    assert exits(observer) == {rank.key: (3, None)}
    assert len(observer.state.processes[rank.key].steps) == 3
    assert sorted(os.listdir(folder.path)) == before == [f"{rank.stem}.start"]


def daemon_process(folder: RunFolder) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distwatch.observer", folder.path]
    return subprocess.Popen(command, cwd=HOME, env={**os.environ, "DISTWATCH": "0"})


async def test_of_two_observers_one_works_and_one_leaves(
    folder: RunFolder, start_rank: Start
) -> None:
    start_rank()
    both = [daemon_process(folder) for _ in range(2)]
    loop = asyncio.get_running_loop()
    waits = [loop.run_in_executor(None, one.wait) for one in both]
    done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    try:
        assert [task.result() for task in done] == [0]
        running = [one for one in both if one.poll() is None]
        assert len(running) == 1
        assert Path(folder.lock).read_text().split() == [str(running[0].pid)]
    finally:
        for one in both:
            one.terminate()
        await asyncio.gather(*waits)


async def test_sigterm_leaves_everything_on_disk(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    rank.do("steps 5")
    observer = daemon_process(folder)
    try:
        while not Path(folder.journal(rank.stem)).exists() or not Path(folder.socket).exists():
            assert observer.poll() is None
            await asyncio.sleep(0.01)
    finally:
        observer.terminate()
        code = observer.wait()
    assert code == 0
    contents = read_journal(folder.journal(rank.stem))
    assert contents is not None
    assert len(contents.records) == 11
    ends = [e.event for e in read_entries(folder) if isinstance(e.event, ev.ObserverEnded)]
    assert [end.reason for end in ends] == ["asked to end"]
    assert not Path(folder.socket).exists()
    assert Path(folder.lock).read_bytes() == b""
