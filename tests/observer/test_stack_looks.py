"""How stacks are taken: one that was read while it changed is taken again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.observer.journals.recording import Recording
from distwatch.observer.looks import stack_looks
from distwatch.observer.looks.stack_looks import TORN_AT_MOST, StackLooks
from distwatch.observer.looks.tracking import Tracked
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev

MAIN = ev.Frame(function="<module>", file="/job/train.py", line=9)
TORN = (MAIN, ev.Frame(function="_buffers", file="_parameters", line=0))
WHOLE = (MAIN, ev.Frame(function="compile", file="<frozen importlib>", line=0))


def stack(frames: tuple[ev.Frame, ...]) -> ev.StackTaken:
    thread = ev.ThreadStack(name="MainThread", os_thread_id=os.getpid(), frames=frames)
    return ev.StackTaken(process="k", threads=(thread,))


@pytest.mark.parametrize("torn", range(TORN_AT_MOST + 1))
async def test_a_torn_stack_is_taken_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torn: int
) -> None:
    said = [stack(TORN)] * torn + [stack(WHOLE)]
    taken: list[ev.StackTaken] = []

    async def take(key: str, pid: int) -> ev.StackTaken:
        taken.append(said[len(taken)])
        return taken[-1]

    monkeypatch.setattr(stack_looks, "take_stack", take)
    recording = Recording(RunFolder(str(tmp_path)), lambda *_: None, writable=False)
    me = Tracked(key="k", pid=os.getpid(), ticks=1, role="rank")
    got = await StackLooks(recording).take(me)
    assert got is not None
    assert got.main_frames(os.getpid()) == taken[-1].main_frames(os.getpid())
    assert len(taken) == min(torn + 1, TORN_AT_MOST)
