"""How processes that are not our children ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.probes import exits
from distwatch.probes.cgroups import MemoryGroup, memory_group
from distwatch.probes.exits import ExitWatch
from distwatch.probes.kernel_log import pids_are_global
from distwatch.probes.procfs import state_of
from distwatch.runfolder import start_ticks
from distwatch.state.events import ExitSeen
from tests.probes.others import Other, as_nobody, other
from tests.support.waiting import wait_until

# Forks a child, prints its pid, and does with it what it is told line by line.
PARENT = """
import os, sys
child = os.fork()
if child == 0:
    sys.stdin.readline()
    exec(sys.argv[1])
    os._exit(7)
print(child, flush=True)
if sys.argv[2] == "reap":
    os.waitpid(child, 0)
    print("reaped", flush=True)
import signal; signal.pause()
"""
NO_LOG = "/nonexistent/kmsg"


@contextlib.contextmanager
def watched(pid: int, log_path: str = NO_LOG) -> Iterator[ExitWatch]:
    watch = ExitWatch("k", pid, start_ticks(pid), log_path)
    try:
        yield watch
    finally:
        watch.close()


def wait_end(watch: ExitWatch) -> None:
    select.select([watch], [], [])
    assert watch.has_ended()


def keeps_status() -> bool:
    release = os.uname().release.split(".")
    return (int(release[0]), int(release[1])) >= (6, 15)


def collect_reaped(parent: Other, watch: ExitWatch) -> ExitSeen:
    wait_end(watch)
    assert parent.line() == "reaped"
    return watch.collect()


@pytest.mark.skipif(not keeps_status(), reason="Linux < 6.15 keeps no status of a reaped process")
def test_the_code_of_anothers_child_that_was_reaped() -> None:
    with other(PARENT, "pass", "reap") as parent, watched(parent.number()) as watch:
        assert not watch.has_ended()
        parent.say()
        assert collect_reaped(parent, watch) == ExitSeen(process="k", exit_code=7, how="pidfd")


@pytest.mark.skipif(not keeps_status(), reason="Linux < 6.15 keeps no status of a reaped process")
def test_the_signal_of_anothers_child_that_was_reaped() -> None:
    with other(PARENT, "pass", "reap") as parent, watched(parent.number()) as watch:
        os.kill(watch.pid, signal.SIGTERM)
        assert collect_reaped(parent, watch) == ExitSeen(process="k", signal=15, how="pidfd")


def test_a_reaped_process_on_an_older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "_PIDFD_GET_INFO", 0)
    with other(PARENT, "pass", "reap") as parent, watched(parent.number()) as watch:
        parent.say()
        found = collect_reaped(parent, watch)
        assert (found.exit_code, found.signal, found.oom_killed) == (None, None, None)
        assert "6.15" in found.how


def test_a_zombies_code() -> None:
    with other(PARENT, "pass", "leave") as parent, watched(parent.number()) as watch:
        parent.say()
        wait_end(watch)
        assert watch.collect() == ExitSeen(process="k", exit_code=7, how="status of the zombie")


def test_a_zombies_signal() -> None:
    with other(PARENT, "pass", "leave") as parent, watched(parent.number()) as watch:
        os.kill(watch.pid, signal.SIGKILL)
        wait_end(watch)
        assert watch.collect() == ExitSeen(process="k", signal=9, how="status of the zombie")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_zombies_zero_that_we_may_not_read_is_no_exit_code() -> None:
    with other(PARENT, "pass", "leave") as parent, watched(parent.number()) as watch:
        parent.say()
        wait_end(watch)
        said = as_nobody(lambda: f"{watch.collect().exit_code} {watch.collect().how}")
        assert said.startswith("None ended; only its own user may read its status")


def test_a_pid_that_was_reused_is_not_watched() -> None:
    with pytest.raises(ProcessLookupError, match="no longer"):
        ExitWatch("k", os.getpid(), start_ticks(os.getpid()) - 1)


def test_a_process_that_is_gone_is_not_watched() -> None:
    with other("") as child:
        child.process.wait()
        with pytest.raises(ProcessLookupError):
            ExitWatch("k", child.pid, 1)


def test_an_orderly_end_closes_all_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with other(PARENT, "pass", "leave") as parent, watched(parent.number(), "/dev/null") as watch:
        watch.close()
        watch.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def small_group() -> Iterator[MemoryGroup]:
    """A memory cgroup of 32 MiB below our own, without swap."""
    own = memory_group(os.getpid())
    if own is None or not os.access(own.path, os.W_OK):
        pytest.skip("cannot make a cgroup here")
    path = Path(own.root) / f"distwatch-test-{os.getpid()}"
    path.mkdir()
    group = MemoryGroup(path=str(path), root=own.root, files=own.files)
    try:
        (path / group.files["limit"]).write_text(str(32 << 20))
        yield group
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text())
        path.rmdir()


# Joins the group, prints its pid, waits for a word, then needs more than the group has.
GREEDY = """
import os, sys, mmap
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
print(os.getpid(), flush=True)
sys.stdin.readline()
hungry = mmap.mmap(-1, 256 << 20)
for at in range(0, len(hungry), 4096):
    hungry[at] = 1
"""


def exhaust(group: MemoryGroup, log_path: str, also_kill: bool = False) -> list[ExitSeen]:
    """One process is killed by the OOM killer, and another by SIGKILL right after it."""
    with (
        other(GREEDY, group.path) as one,
        other(GREEDY, group.path) as two,
        watched(one.number(), log_path) as first,
        watched(two.number(), log_path) as second,
    ):
        one.say()
        wait_end(first)
        found = [first.collect()]
        if also_kill:
            os.kill(second.pid, signal.SIGKILL)
            wait_end(second)
            found.append(second.collect())
        return found


def test_the_cgroups_word_for_an_oom_kill(small_group: MemoryGroup) -> None:
    found, bystander = exhaust(small_group, NO_LOG, also_kill=True)
    assert found.signal == bystander.signal == 9
    assert found.oom_killed is not None
    assert "oom_kill 0 → 1" in found.oom_killed
    # The counter rose once, and once only it is an explanation.
    assert bystander.oom_killed is None


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel log is for root")
@pytest.mark.skipif(not pids_are_global(), reason="the kernel tells other pids")
def test_the_kernels_word_for_an_oom_kill(small_group: MemoryGroup) -> None:
    found, bystander = exhaust(small_group, "/dev/kmsg", also_kill=True)
    assert found.oom_killed is not None
    assert "illed process" in found.oom_killed
    assert bystander.oom_killed is None


def test_a_sigkill_is_no_oom_kill(small_group: MemoryGroup) -> None:
    with other(GREEDY, small_group.path) as one, watched(one.number()) as watch:
        os.kill(watch.pid, signal.SIGKILL)
        wait_end(watch)
        found = watch.collect()
        assert (found.signal, found.oom_killed) == (9, None)
    assert state_of(watch.pid) == ""
