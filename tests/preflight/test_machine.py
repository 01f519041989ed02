"""The doctor: what it sees of this machine, and what it would say of others."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.preflight import capacity as room
from distwatch.preflight import installed, machine, network
from distwatch.preflight import permissions as sight
from distwatch.preflight.check_result import Checked
from distwatch.preflight.container import container_kind, how_to_share_memory, how_to_trace
from distwatch.preflight.interfaces import Interface
from distwatch.probes.listeners import Listener
from distwatch.state.events import (
    Device,
    DevicesSampled,
    Frame,
    HostSampled,
    StackTaken,
    ThreadStack,
)

GIB = 1 << 30
ETH = Interface(name="eth0", is_up=True, addresses=("10.0.0.1",), mtu=1500)


def versions(**found: str) -> Callable[[str], str | None]:
    torch = {"torch": "2.13.0+cpu", "textual": "8.2.8"}
    named = {name.replace("_", "-"): version for name, version in found.items()}
    return {**torch, **named}.get


def test_everything_is_looked_at_and_what_is_wrong_has_a_fix(tmp_path: Path) -> None:
    found = machine.examine({}, str(tmp_path / "runs"))
    assert len({one.what for one in found}) == len(found) >= 13
    assert all(one.detail for one in found)
    assert all(one.fix for one in found if one.status != "pass")


def test_what_cannot_be_looked_at_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks() -> Checked:
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(machine.network, "host_name", breaks)
    (found,) = [one for one in machine.examine({}, str(tmp_path)) if one.what == "host name"]
    assert (found.status, found.detail) == (
        "warn",
        "could not be checked: RuntimeError: no such thing here",
    )


# ---- looking into processes ------------------------------------------------------------------


def test_py_spy_reads_a_real_process() -> None:
    found = sight.stack_of_a_child()
    assert found.status == "pass", found.detail
    assert found.detail.startswith("py-spy ")


def test_py_spy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "find_py_spy", lambda: None)
    assert sight.stack_of_a_child().fix == "pip install py-spy"


@pytest.mark.parametrize(
    ("error", "frames", "status", "words"),
    [
        ("", ("waits_to_be_seen",), "pass", "reads the stack"),
        ("", ("main",), "fail", "did not see its function"),
        ("not permitted to read process 7", (), "fail", "not permitted"),
        ("py-spy did not answer within 5 s", (), "fail", "did not answer"),
    ],
)
def test_what_the_trial_of_py_spy_says(
    error: str, frames: tuple[str, ...], status: str, words: str
) -> None:
    thread = ThreadStack(
        name="MainThread",
        frames=tuple(Frame(function=name, file="p.py", line=1) for name in frames),
    )
    taken = StackTaken(process="p", error=error, threads=(thread,) if frames else ())
    found = sight.judge_stack("py-spy 0.4", taken, "docker")
    assert found.status == status
    assert words in found.detail
    assert ("--cap-add SYS_PTRACE" in found.fix) == ("permitted" in error)


@pytest.mark.parametrize(
    ("uid", "capable", "scope", "status"),
    [(0, True, None, "pass"), (1000, False, 0, "pass"), (1000, False, 1, "warn"),
     (1000, False, 2, "fail"), (0, True, 3, "fail"), (1000, False, None, "pass")],
)  # fmt: skip
def test_rights(uid: int, capable: bool, scope: int | None, status: str) -> None:
    assert sight.judge_rights(uid, capable, scope, "").status == status


def test_a_driver_that_is_absent_is_no_fault() -> None:
    absent = DevicesSampled(
        host="h", not_observed="no NVIDIA driver: NVML Shared Library Not Found"
    )
    assert sight.judge_devices(absent, has_device=False).status == "pass"
    hidden = sight.judge_devices(absent, has_device=True)
    assert (hidden.status, "--gpus all" in hidden.fix) == ("warn", True)
    two = DevicesSampled(
        host="h", devices=(Device(index=0, name="H200"), Device(index=1, name="H200"))
    )
    assert sight.judge_devices(two, has_device=True).detail == "2: H200"


# ---- room ------------------------------------------------------------------------------------


def test_a_run_folder_that_can_be_made(tmp_path: Path) -> None:
    assert "not made yet" in room.run_folder(str(tmp_path / "deep" / "runs")).detail
    tmp_path.chmod(0o700)
    found = room.run_folder(str(tmp_path))
    assert (found.status, "mode 0700" in found.detail) == ("pass", True)


def test_a_run_folder_that_others_may_write_to(tmp_path: Path) -> None:
    for mode in (0o777, 0o777 | stat.S_ISVTX):
        tmp_path.chmod(mode)
        found = room.run_folder(str(tmp_path))
        assert (found.status, found.detail) == ("fail", f"others may write to {tmp_path}")
        # /tmp is not ours to close.
        assert found.fix.startswith("chmod 700" if mode == 0o777 else "Set DISTWATCH_DIR")


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert room.run_folder(str(tmp_path / "runs")).status == "fail"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_run_folder_of_somebody_else(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert "belongs to uid 65534" in room.run_folder(str(tmp_path)).detail


def test_journals_have_a_tmpfs_here(tmp_path: Path) -> None:
    assert "left on /dev/shm" in room.journal_memory(str(tmp_path)).detail


def test_journals_without_a_tmpfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A double: no test can take /dev/shm away.
    monkeypatch.setattr("distwatch.runfolder.filesystem_of", lambda path: "ext4")
    found = room.journal_memory(str(tmp_path))
    assert (found.status, "ranks cannot be recorded" in found.detail) == ("fail", True)


@pytest.mark.parametrize(
    ("total", "free", "status", "words"),
    [
        (None, None, "fail", "it does not exist"),
        (64 << 20, 60 << 20, "warn", "a container's default"),
        (512 << 20, 500 << 20, "warn", "little for dataloader workers"),
        (16 * GIB, 10 << 20, "warn", "files of ended jobs"),
        (16 * GIB, 15 * GIB, "pass", "15 GiB free of 16 GiB"),
    ],
)
def test_shared_memory(total: int | None, free: int | None, status: str, words: str) -> None:
    found = room.judge_shared_memory(total, free, "docker")
    assert (found.status, words in found.detail) == (status, True)
    assert ("--shm-size" in found.fix) == (status != "pass" and "ended jobs" not in words)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (HostSampled(host="h", memory_total=64 * GIB, memory_available=60 * GIB), "pass"),
        (HostSampled(host="h", memory_total=64 * GIB, memory_available=2 * GIB), "warn"),
        (HostSampled(host="h", memory_total=64 * GIB, memory_available=60 * GIB,
                     cgroup_limit=8 * GIB, cgroup_used=GIB), "pass"),
        (HostSampled(host="h", memory_total=64 * GIB, memory_available=60 * GIB,
                     cgroup_limit=8 * GIB, cgroup_used=8 * GIB - 1), "warn"),
        (HostSampled(host="h"), "pass"),
    ],
)  # fmt: skip
def test_memory(host: HostSampled, status: str) -> None:
    assert room.judge_memory(host).status == status


@pytest.mark.parametrize(
    ("soft", "hard", "status", "fix"),
    [
        (1024, 1 << 20, "warn", "ulimit -n 65536"),
        (1024, resource.RLIM_INFINITY, "warn", "ulimit -n 4096"),
        (1024, 1024, "warn", "--ulimit nofile"),
        (65536, 65536, "pass", ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "pass", ""),
    ],
)
def test_open_files(soft: int, hard: int, status: str, fix: str) -> None:
    found = room.judge_open_files(soft, hard)
    assert found.status == status
    assert fix in found.fix
    assert ("may be raised" in found.detail) == (hard != soft)


# ---- the network -----------------------------------------------------------------------------


def test_a_taken_master_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        found = network.ports({"MASTER_PORT": str(port)})
    assert found.status == "warn"
    assert f"MASTER_PORT {port} is taken by pid {os.getpid()}" in found.detail


@pytest.mark.parametrize(
    ("port", "owners", "span", "status", "words"),
    [
        (29500, [], (32768, 60999), "pass", "is free"),
        (40000, [], (32768, 60999), "warn", "any program may be given it"),
        (29500, [], (50000, 50100), "warn", "few for the connections of many ranks"),
        (29500, [Listener()], None, "warn", "a process that this user cannot see"),
        (29500, [], None, "pass", "not known"),
    ],
)
def test_ports(
    port: int, owners: list[Listener], span: tuple[int, int] | None, status: str, words: str
) -> None:
    found = network.judge_ports(f"port {port}", port, owners, span)
    assert (found.status, words in found.detail) == (status, True)


@pytest.mark.parametrize(
    ("addresses", "status"),
    [
        ((), "warn"),
        (("127.0.1.1",), "warn"),
        (("127.0.1.1", "10.0.0.1"), "pass"),
        (("::1",), "warn"),
    ],
)
def test_host_names(addresses: tuple[str, ...], status: str) -> None:
    assert network.judge_host_name("node", addresses, "unknown").status == status


def test_interfaces_of_a_host() -> None:
    assert network.judge_interfaces({"eth0": ETH}).detail == "eth0 10.0.0.1, MTU 1500"
    ib0 = Interface(name="ib0", is_up=True, addresses=("10.1.0.1",), mtu=2044)
    assert "MTUs differ" in network.judge_interfaces({"eth0": ETH, "ib0": ib0}).detail
    assert network.judge_interfaces({}).status == "warn"


def test_this_machine_can_talk_to_itself() -> None:
    assert network.loopback().status == "pass"


# ---- versions and containers -----------------------------------------------------------------


def test_versions_come_from_metadata() -> None:
    import textual

    line = installed.versions()[0]
    assert f"textual {textual.__version__}" in line.detail
    assert "torch 2.13" in line.detail


@pytest.mark.parametrize(
    ("found", "status", "what"),
    [
        ({"torch": "2.1.0"}, "warn", "torch"),
        ({"torch": "2.6.0"}, "warn", "torch"),
        ({"neuronx_distributed": "0.1"}, "fail", "neuronx-distributed"),
        ({"pynvml": "12", "nvidia_ml_py": "13"}, "warn", "NVML bindings"),
        ({"textual": "0.89.1"}, "fail", "textual"),
        ({"textual": "9.0.0"}, "fail", "textual"),
    ],
)
def test_combinations_that_are_known_not_to_work(
    found: dict[str, str], status: str, what: str
) -> None:
    _, bad = installed.versions(versions(**found))
    assert (bad.status, bad.what) == (status, what)
    assert bad.fix


def test_sound_versions_need_no_further_line() -> None:
    assert len(installed.versions(versions(nvidia_ml_py="13", neuronx_distributed="0.18"))) == 1


def test_a_pod_is_known_by_its_environment() -> None:
    assert container_kind({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "kubernetes"
    assert "capabilities.add" in how_to_trace("kubernetes")
    assert "emptyDir" in how_to_share_memory("kubernetes")
    assert container_kind({"APPTAINER_NAME": "x"}) == "singularity"
