"""Memory of the machine and of a process's cgroup, and the kernel's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.probes.cgroups import MemoryGroup, memory_group
from distwatch.probes.host import sample_host, shared_memory
from distwatch.probes.kernel_log import KernelLog, killed_for_memory, xids
from tests.probes.others import other


def test_a_sample_of_this_machine() -> None:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(fields["MemTotal"].split()[0]) * 1024
    found = sample_host("here")
    assert (found.host, found.memory_total) == ("here", total)
    assert 0 < found.memory_available < total
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.load is not None


def write_group(folder: Path, limit: str, used: int, idle: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - idle}\ninactive_file {idle}\n")
    (folder / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")


V2 = {"limit": "memory.max", "used": "memory.current", "events": "memory.events"}


def test_the_tightest_limit_counts_also_of_a_group_above(tmp_path: Path) -> None:
    write_group(tmp_path / "job", "1000", 900, 100)
    write_group(tmp_path / "job" / "rank", "5000", 300, 0)
    group = MemoryGroup(path=f"{tmp_path}/job/rank", root=str(tmp_path), files=V2)
    assert group.limit == (1000, 800)
    assert group.oom_kills == 3


def test_no_limit_is_none_and_not_a_large_number(tmp_path: Path) -> None:
    write_group(tmp_path / "job", "max", 900, 0)
    group = MemoryGroup(path=f"{tmp_path}/job", root=str(tmp_path), files=V2)
    assert group.limit == (None, 900)
    assert MemoryGroup(path="/nonexistent", root="/nonexistent", files=V2).oom_kills is None


def test_the_cgroup_of_another_process() -> None:
    own = memory_group(os.getpid())
    if own is None or not os.access(own.path, os.W_OK):
        pytest.skip("cannot make a cgroup here")
    folder = Path(own.root) / f"distwatch-host-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / own.files["limit"]).write_text(str(48 << 20))
        with other("input()") as child:
            (folder / "cgroup.procs").write_text(str(child.pid))
            found = sample_host("here", child.pid)
            assert found.cgroup_limit == 48 << 20
            assert found.oom_kills == 0
            assert found.cgroup_used is not None
            assert found.cgroup_used < 48 << 20
    finally:
        folder.rmdir()


KMSG = """\
6,1,100,-;ordinary words
3,2,200,-;Memory cgroup out of memory: Killed process 4711 (python) total-vm:1kB, anon-rss:1kB
 SUBSYSTEM=memory
14,3,300,-;Out of memory: Killed process 12 (a program wrote this)
4,4,400,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.
"""


def test_the_log_is_read_from_now_on_and_only_the_kernels_words(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text("3,0,50,-;Out of memory: Killed process 1 (long ago)\n")
    log = KernelLog(str(path))
    with path.open("a") as file:
        file.write(KMSG)
    messages = log.read()
    assert list(killed_for_memory(messages)) == [4711]
    assert xids(messages) == [("0000:3b:00", 79)]
    assert log.read() == []
    log.close()
    assert log.why_not is None


def test_a_log_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    log = KernelLog(str(tmp_path / "none"))
    assert log.read() == []
    assert log.why_not is not None
    assert "No such file" in log.why_not


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel log is for root")
def test_the_real_log_opens_at_its_end() -> None:
    log = KernelLog()
    assert log.why_not is None
    assert len(log.read()) < 256
    log.close()


def test_the_size_of_shared_memory(tmp_path: Path) -> None:
    room = shared_memory(str(tmp_path))
    assert room is not None
    total, free = room
    assert 0 <= free <= total
    assert shared_memory(str(tmp_path / "absent")) is None
