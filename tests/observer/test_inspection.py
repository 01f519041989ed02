"""The closer look: taken on suspicion, ever more rarely, and honest about who did not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest

from distwatch.observer.background import in_background
from distwatch.observer.daemon import Observer
from distwatch.observer.looks import inspection as module
from distwatch.observer.looks import rounds, stack_looks
from distwatch.observer.looks.inspection import Inspection
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


class Clock:
    """Waits until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(rounds, "time", made)
    return made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pids whose stacks were taken; py-spy itself has its own tests."""
    pids: list[int] = []

    async def take_stack(key: str, pid: int) -> ev.StackTaken:
        pids.append(pid)
        frames = (ev.Frame(function="main", file="train.py", line=3),)
        return ev.StackTaken(
            process=key, threads=(ev.ThreadStack(name="MainThread", frames=frames),)
        )

    monkeypatch.setattr(stack_looks, "take_stack", take_stack)
    return pids


async def finish_round(inspection: Inspection) -> None:
    if inspection.running:
        await asyncio.wait([inspection.begin("", {})])


async def test_a_long_suspicion_is_looked_at_ever_more_rarely(
    folder: RunFolder, start_rank: Start, clock: Clock, taken: list[int]
) -> None:
    start_rank()
    observer = Observer(folder, writable=False)
    observer.tick()
    times: list[float] = []
    for _ in range(400):
        before = len(taken)
        observer.inspection.consider("slow", sockets={})
        await finish_round(observer.inspection)
        if len(taken) > before:
            times.append(clock.now - 1000)
        clock.now += 0.5
    assert times == [0.0, 3.0, 13.0, 43.0, 103.0, 163.0]
    await observer.finish("over")


async def test_a_step_that_is_slow_again_and_again_is_no_new_suspicion(
    folder: RunFolder, start_rank: Start, clock: Clock, taken: list[int]
) -> None:
    start_rank()
    observer = Observer(folder, writable=False)
    observer.tick()
    for tick in range(240):
        observer.inspection.consider("slow" if tick % 10 < 5 else "", sockets={})
        await finish_round(observer.inspection)
        clock.now += 1
    assert len(taken) <= 8
    clock.now += 61
    observer.inspection.consider("", sockets={})
    observer.inspection.consider("slow", sockets={})
    await finish_round(observer.inspection)
    clock.now += 3
    before = len(taken)
    observer.inspection.consider("slow", sockets={})
    await finish_round(observer.inspection)
    assert len(taken) == before + 1, "after a quiet time it looks as closely as at first"
    await observer.finish("over")


class AgentSocket:
    """The agent's end of the control socket: `answer` None is a frozen agent."""

    def __init__(self, path: str, answer: bytes | None) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        if answer is not None:
            self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(512).decode())
                connection.sendall(self._answer or b"")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._answer is not None:
            self._thread.join()


async def test_agents_are_asked_for_a_dump_once_a_suspicion(
    folder: RunFolder, start_rank: Start, clock: Clock, taken: list[int]
) -> None:
    rank = start_rank()
    path = f"{folder.volatile}/{rank.stem}.sock"
    agent = AgentSocket(path, b"ok\n")
    observer = Observer(folder, writable=False)
    observer.tick()
    for _ in range(3):
        observer.inspection.consider("rank 0\nwaits", sockets={rank.key: path})
        await finish_round(observer.inspection)
        clock.now += 100
    assert len(taken) == 3
    assert agent.asked == ["dump rank 0 waits\n"]
    observer.inspection.again_soon()
    observer.inspection.consider("a verdict stands", sockets={rank.key: path})
    await finish_round(observer.inspection)
    assert len(agent.asked) == 2
    await observer.finish("over")
    agent.close()


async def test_an_agent_that_is_frozen_is_named(
    folder: RunFolder, start_rank: Start, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK_WITHIN_S", 0.05)
    rank = start_rank()
    path = f"{folder.volatile}/{rank.stem}.sock"
    agent = AgentSocket(path, None)
    observer = Observer(folder, writable=False)
    observer.tick()
    await observer.inspection.begin("slow", {rank.key: path})
    told = observer.state.processes[rank.key].outside.not_observed
    assert "did not answer" in told["flight recorder"]
    assert len(taken) == 1, "its stack is taken all the same"
    await observer.finish("over")
    agent.close()


async def test_a_call_that_hangs_is_left_behind() -> None:
    hanging = threading.Event()
    with pytest.raises(asyncio.TimeoutError):
        await in_background(hanging.wait, within_s=0.01)
    assert await in_background(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await in_background(int, "x")
    hanging.set()


async def test_a_process_that_is_no_rank_is_looked_at_though_nothing_is_suspicious(
    folder: RunFolder, start_rank: Start, clock: Clock, taken: list[int]
) -> None:
    """As a quiet actor: in no group, so that nobody waits for it."""
    rank = start_rank()
    observer = Observer(folder, writable=False)
    observer.tick()
    tracked = observer.tracking.processes[rank.key]
    sampled = ev.ProcessSampled(process=rank.key, state="S")
    observer.recording.record(sampled)
    jobs = [case.job for case in observer.judge.cases]
    assert observer.inspection.look_beside(jobs, dict) is None, "it is a rank of a world"
    at: list[float] = []
    for _ in range(300):
        clock.now += 0.5
        if look := observer.inspection.look_beside([], dict):
            await look
            at.append(clock.now - 1000)
    assert at == [5.0, 10.0, 30.0, 90.0, 150.0]
    assert taken == [tracked.pid] * 5
    await observer.finish("over")
