"""Real py-spy dumps of processes in every state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.probes import stacks
from distwatch.probes.process import examine, sample
from distwatch.probes.procfs import state_of
from distwatch.probes.stacks import StackUnreadable, find_py_spy, parse_py_spy, take_stack
from distwatch.state.events import StackTaken, ThreadStack
from tests.probes.others import BLOCK_IN_KERNEL, Other, as_nobody, other, stop
from tests.support.waiting import wait_until

PARKED = """
import os, threading
def inner():
    print(threading.get_native_id(), flush=True)
    os.read(0, 1)
def outer():
    inner()
threading.Thread(target=threading.Event().wait, name="a thread", daemon=True).start()
outer()
"""


def wait_parked(child: Other) -> int:
    """Until it sits in its read; the native id of its main thread."""
    native_id = child.number()
    wait_until(lambda: (s := sample("k", child.pid)) is not None and s.syscall == "read")
    return native_id


def main_thread(taken: StackTaken) -> ThreadStack:
    assert taken.error is None
    return next(thread for thread in taken.threads if thread.name == "MainThread")


def functions(thread: ThreadStack) -> list[str]:
    return [frame.function for frame in thread.frames]


async def test_frames_come_outermost_first() -> None:
    with other(PARKED) as child:
        native_id = wait_parked(child)
        taken = await take_stack("k", child.pid)
        thread = main_thread(taken)
        assert (taken.process, taken.source) == ("k", "py-spy")
        assert functions(thread) == ["<module>", "outer", "inner"]
        assert [frame.line for frame in thread.frames] == [9, 7, 5]
        assert not any(frame.native for frame in thread.frames)
        assert thread.os_thread_id == native_id == child.pid
        assert not thread.owns_gil
        assert "a thread" in {thread.name for thread in taken.threads}


async def test_the_main_thread_is_named_where_nobody_imported_threading() -> None:
    with other("import os; print(1, flush=True); os.read(0, 1)") as child:
        child.line()
        (thread,) = (await take_stack("k", child.pid)).threads
        assert thread.name == "MainThread"


async def test_who_holds_the_gil() -> None:
    code = "import ctypes; print(1, flush=True); ctypes.PyDLL(None).pause()"
    with other(code) as child:
        child.line()
        wait_until(lambda: state_of(child.pid) == "S")
        assert main_thread(await take_stack("k", child.pid)).owns_gil


async def test_a_stopped_process_answers() -> None:
    with other(PARKED) as child:
        wait_parked(child)
        stop(child.pid)
        taken = await take_stack("k", child.pid)
        assert functions(main_thread(taken))[-1] == "inner"
        assert state_of(child.pid) == "T"
        refused = await take_stack("k", child.pid, native=True)
        assert refused.threads == ()
        assert "stopped" in (refused.error or "")


@pytest.mark.parametrize("thread", ["main", "another"])
async def test_a_process_blocked_in_the_kernel_answers(thread: str) -> None:
    start = "block()" if thread == "main" else "threading.Thread(target=block).start()"
    with other(BLOCK_IN_KERNEL + "print(1, flush=True)\n" + start) as child:
        child.line()
        wait_until(
            lambda: (
                (s := examine("k", child.pid)) is not None
                and len(s.children) == 1
                and (s.state == "D" or "in D" in s.wchan)
            )
        )
        taken = await take_stack("k", child.pid)
        assert any(functions(one)[-1] == "block" for one in taken.threads)
        refused = await take_stack("k", child.pid, native=True)
        assert "state D" in (refused.error or "")


async def test_native_frames_are_told_from_pythons() -> None:
    with other(PARKED) as child:
        wait_parked(child)
        taken = await take_stack("k", child.pid, native=True, timeout_s=60)
        frames = main_thread(taken).frames
        python = [frame.function for frame in frames if not frame.native]
        assert python == ["<module>", "outer", "inner"]
        assert frames[-1].native
        wait_until(lambda: state_of(child.pid) == "S")


async def test_what_is_no_python_or_gone_is_said() -> None:
    with other("", command=["/bin/cat"]) as child:
        assert "not a Python process" in ((await take_stack("k", child.pid)).error or "")
        pid = child.pid
    assert (await take_stack("k", pid)).error == f"process {pid} is gone"


async def test_a_zombie_has_no_stack() -> None:
    with other("import os; os._exit(0)") as child:
        wait_until(lambda: state_of(child.pid) == "Z")
        assert "has ended" in ((await take_stack("k", child.pid)).error or "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_told_what_to_do() -> None:
    with other(PARKED) as child:
        wait_parked(child)
        program = find_py_spy()
        assert program is not None

        def look() -> str:
            # The tests' interpreter may lie where nobody cannot look; py-spy does not.
            stacks.find_py_spy = lambda: program
            return str(asyncio.run(take_stack("k", child.pid)).error)

        said = as_nobody(look)
        assert said.startswith(f"not permitted to read process {child.pid}: it belongs to root")
        assert said.endswith("run distwatch as that user, or with CAP_SYS_PTRACE (as root)")


async def test_a_machine_without_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "find_py_spy", lambda: None)
    error = (await take_stack("k", os.getpid())).error
    assert error is not None
    assert "pip install py-spy" in error


def double_of_py_spy(folder: Path, script: str) -> str:
    path = folder / "py-spy"
    path.write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_py_spy_that_blocks_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "never")
    program = double_of_py_spy(tmp_path, "echo $$ > pid\nexec cat never")
    monkeypatch.setattr(stacks, "find_py_spy", lambda: program)
    task = asyncio.create_task(take_stack("k", os.getpid(), timeout_s=3600))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        await asyncio.sleep(0)
    pid = int((tmp_path / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state_of(pid) == ""

    taken = await take_stack("k", os.getpid(), timeout_s=0.3)
    assert taken.error == "py-spy did not answer within 0.3 s and was killed"


async def test_a_read_that_missed_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.dumps([{"thread_name": "MainThread", "frames": [{"name": "f"}]}])
    script = f"""
    echo again >> calls
    if [ $(wc -l < calls) -lt 3 ]; then echo 'Error: Failed to copy memory' >&2; exit 1; fi
    echo '{good}'
    """
    program = double_of_py_spy(tmp_path, script)
    monkeypatch.setattr(stacks, "find_py_spy", lambda: program)
    assert functions(main_thread(await take_stack("k", os.getpid()))) == ["f"]


async def test_a_read_that_always_misses_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = double_of_py_spy(
        tmp_path, "echo x >> calls; echo 'Error: Failed to copy' >&2; exit 1"
    )
    monkeypatch.setattr(stacks, "find_py_spy", lambda: program)
    error = (await take_stack("k", os.getpid())).error
    assert error == "py-spy could not read the process while it moved (Failed to copy): try again"
    assert (tmp_path / "calls").read_text() == "x\n" * 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        "[1]",
        '[{"frames": 1}]',
        '[{"frames": [{}]}]',
        "Process 1: python",
        "[" * 100_000,
        '[{"frames": [], "os_thread_id": "x"}]',
    ],
)
def test_what_is_not_py_spys_json_is_refused_with_advice(text: str) -> None:
    with pytest.raises(StackUnreadable, match="Record it again"):
        parse_py_spy(text)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_garbage_never_raises_anything_else(text: str) -> None:
    with contextlib.suppress(StackUnreadable):
        assert isinstance(parse_py_spy(text), tuple)


@pytest.mark.parametrize("timeout_s", [0.002, 0.02, 0.1])
async def test_a_native_look_that_was_cut_short_leaves_the_process_running(
    timeout_s: float,
) -> None:
    with other(PARKED) as child:
        wait_parked(child)
        await take_stack("k", child.pid, native=True, timeout_s=timeout_s)
        wait_until(lambda: state_of(child.pid) == "S")
        assert functions(main_thread(await take_stack("k", child.pid)))[-1] == "inner"
