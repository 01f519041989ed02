"""Into what the agent is not brought, and that nothing in it was touched."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from distwatch.injection import request, thread_start
from distwatch.injection.refusal import Refused, require_free_gil, require_injectable
from distwatch.injection.request import bring_in
from distwatch.injection.thread_start import run_python
from distwatch.runfolder import RunFolder
from distwatch.state.events import Frame, ThreadStack
from tests.probes.others import BLOCK_IN_KERNEL, NOBODY, Other, other, stop
from tests.support.waiting import wait_until

WAITS = "import sys; print('up', flush=True); sys.stdin.readline(); print('over', flush=True)"
GIL = """
import ctypes, sys
print("up", flush=True)
buffer = ctypes.create_string_buffer(1)
ctypes.PyDLL(None).read(0, buffer, 1)  # PyDLL keeps the GIL
print("over", sorted(m for m in sys.modules if m.startswith("distwatch")), flush=True)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path / "root" / "attached"))
    folder.create()
    return folder


def refusal(process: Other) -> str:
    with pytest.raises(Refused) as refused:
        require_injectable(process.pid)
    return str(refused.value)


def test_a_stopped_process() -> None:
    with other(WAITS) as process:
        process.line()
        stop(process.pid)
        assert "stopped (SIGSTOP)" in refusal(process)


def test_a_process_that_is_blocked_in_the_kernel() -> None:
    code = f"{BLOCK_IN_KERNEL}\nprint('up', flush=True)\nblock()"
    with other(code) as process:
        process.line()
        wait_until(lambda: ") D " in Path(f"/proc/{process.pid}/stat").read_text())
        assert "state D" in refusal(process)


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts processes of other users")
def test_another_users_process() -> None:
    with other(WAITS, uid=NOBODY, gid=NOBODY, command=["/usr/bin/sleep", "1000"]) as process:
        assert "run distwatch as that user" in refusal(process)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes namespaces")
def test_a_process_in_a_container() -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child", "/usr/bin/sleep", "1000"]
    with other("", command=inside) as process:
        below = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(below.read_text().split()))
        with pytest.raises(Refused, match="another pid namespace"):
            require_injectable(int(below.read_text().split()[0]))


def test_a_process_with_a_debugger() -> None:
    with other(WAITS) as process:
        process.line()
        with thread_start.TracedThread(process.pid, process.pid):
            assert f"traced by process {os.getpid()}" in refusal(process)
        process.say()
        assert process.line() == "over"


def test_what_is_not_python() -> None:
    with other("", command=["/usr/bin/sleep", "1000"]) as process:
        wait_until(lambda: "sleep" in os.readlink(f"/proc/{process.pid}/exe"))
        with pytest.raises(Refused, match="not CPython"):
            run_python(process.pid, "1")


def test_a_process_without_a_thread_that_waits() -> None:
    code = "import threading; print('up', flush=True)\nwhile True: pass"
    with other(code) as process:
        process.line()
        with pytest.raises(Refused, match="no thread of it waits"):
            run_python(process.pid, "1")
        assert process.process.poll() is None


def test_python_that_only_computes_is_entered_by_remote_exec_where_there_is_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double of Python 3.14's function leaves the script to be run, as that does."""
    scripts: list[str] = []

    def remote_exec(pid: int, path: str) -> None:
        scripts.append(Path(path).read_text())
        request_path = path.removesuffix(".py")
        os.rename(request_path, f"{request_path}.taken")
        Path(f"{request_path}.taken").write_text("ok\n")

    def other_version(pid: int, path: str) -> None:
        raise RuntimeError("the remote process runs another Python")

    with other("print('up', flush=True)\nwhile True: pass") as process:
        process.line()
        monkeypatch.setattr(sys, "remote_exec", other_version, raising=False)
        with pytest.raises(Refused, match="no thread of it waits"):
            bring_in(process.pid, run, "rank", for_good=True)
        assert not os.listdir(run.path)
        monkeypatch.setattr(sys, "remote_exec", remote_exec)
        bring_in(process.pid, run, "rank", for_good=True)
        assert [compile(text, "script", "exec") is not None for text in scripts] == [True]
        assert process.process.poll() is None


def test_native_code_that_keeps_the_gil_never_gets_a_late_agent(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "TAKEN_WITHIN_S", 0.2)
    with other(GIL) as process:
        process.line()
        wait_until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0"))
        with pytest.raises(Refused, match="did not give its GIL"):
            bring_in(process.pid, run, "rank", for_good=True)
        assert not [name for name in os.listdir(run.path) if "request" in name]
        process.say()
        assert process.line() == "over []"
        assert process.process.wait(60) == 0


def stack(name: str, *, owns: bool, thread: int, line: int) -> ThreadStack:
    frame = Frame(function="usleep", file="native.py", line=line)
    return ThreadStack(name=name, os_thread_id=thread, owns_gil=owns, frames=(frame,))


def test_a_thread_that_sleeps_with_the_gil_is_named() -> None:
    with other(WAITS) as process:
        process.line()
        wait_until(lambda: ") S " in Path(f"/proc/{process.pid}/stat").read_text())
        asleep = (stack("loader", owns=True, thread=process.pid, line=7),)
        with pytest.raises(Refused, match=r"loader sleeps in usleep \(native.py:7\)"):
            require_free_gil(process.pid, asleep, asleep)
        moved = (stack("loader", owns=True, thread=process.pid, line=8),)
        require_free_gil(process.pid, asleep, moved)
        free = (stack("loader", owns=False, thread=process.pid, line=7),)
        require_free_gil(process.pid, free, free)


SHOWS_SIGNALS = """
import signal, sys, threading, time
hits = []
signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
print("up", flush=True)
end = time.monotonic() + 3
time.sleep(3)
print("early" if time.monotonic() < end else "on time", flush=True)
print(len(hits), flush=True)
names = sorted(set(dir()) - {"hits", "end", "signal", "sys", "threading", "time"})
print([n for n in names if not n.startswith("__")], threading.active_count(), flush=True)
"""


def test_a_borrowed_thread_does_not_notice() -> None:
    with other(SHOWS_SIGNALS) as process:
        process.line()
        wait_until(lambda: ") S " in Path(f"/proc/{process.pid}/stat").read_text())
        before = Path(f"/proc/{process.pid}/maps").read_text()
        borrowed = run_python(process.pid, "__import__('sys').modules.__setitem__('seen', 1)")
        assert borrowed == process.pid
        os.kill(process.pid, signal.SIGUSR1)
        assert process.line() == "on time"
        assert process.line() == "1"
        assert process.line() == "[] 1"
        assert "rwxp" not in before
        assert process.process.wait(60) == 0
