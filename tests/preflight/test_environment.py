"""`distwatch.check()`: real ports, real stores, real interfaces of this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

import distwatch
from distwatch.preflight import accelerators
from distwatch.preflight.endpoint import own_name_finding
from distwatch.preflight.environment import check, count_nodes
from distwatch.preflight.interfaces import Interface, interface_findings, matching, read_interfaces
from distwatch.probes.listeners import listeners_of
from distwatch.state.finding import Finding
from distwatch.state.identity import identify
from tests.support.ranks import free_port

LISTENS = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""
HEAVY = "psutil yaml click textual torch pynvml asyncio subprocess".split()
IN_A_RANK = """
import sys, distwatch
before = distwatch.check()
import torch.distributed as dist
dist.init_process_group("gloo")
after = distwatch.check()
dist.barrier()
dist.destroy_process_group()
open(f"{sys.argv[1]}/{__import__('os').environ['RANK']}", "w").write(repr([before, after]))
"""
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
         "SLURM_STEP_NODELIST": "localhost", "SLURM_NNODES": "1"}  # fmt: skip


@pytest.fixture
def plain() -> dict[str, str]:
    """Rank 0 of two on one host, by hand."""
    return {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip


@pytest.fixture
def foreign() -> Iterator[tuple[int, int]]:
    """Another program that listens: its pid and its port."""
    child = subprocess.Popen(
        [sys.executable, "-c", LISTENS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        yield child.pid, int(child.stdout.readline())
        child.kill()


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def codes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code.partition(".")[2]) for finding in findings]


def test_a_process_that_nobody_launched_is_sound() -> None:
    assert distwatch.check({"HOME": "/root", "PATH": "/bin"}) == []


def test_a_rank_whose_port_is_free_is_sound(plain: dict[str, str]) -> None:
    assert check(plain, backend="gloo") == []
    assert check({**plain, "RANK": "1", "LOCAL_RANK": "1"}) == []


def test_it_loads_nothing_heavy_into_the_job() -> None:
    code = (
        f"import sys, distwatch; distwatch.check(); print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_ranks_of_a_real_torchrun_job_are_sound_before_and_after_they_met(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(IN_A_RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, f"--master-port={free_port()}"]
    subprocess.run(
        [*command, str(script), str(tmp_path)],
        check=True, capture_output=True, timeout=90, env={**os.environ, "DISTWATCH": "0"},
    )  # fmt: skip
    assert {(tmp_path / rank).read_text() for rank in "01"} == {"[[], []]"}


# ---- the rank's place ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_what_nothing_tells_is_missing(plain: dict[str, str], name: str) -> None:
    del plain[name]
    finding = only(check(plain))
    assert (finding.code, finding.severity) == ("rendezvous.env_missing", "error")
    assert name in finding.summary


def test_what_slurm_tells_is_derived() -> None:
    finding = only(check(SLURM))
    assert (finding.code, finding.severity) == ("rendezvous.env_missing", "info")
    assert "RANK=1, WORLD_SIZE=2, MASTER_ADDR=localhost, MASTER_PORT=20007" in finding.summary


def test_a_rank_that_the_batch_script_exported_for_all_tasks() -> None:
    finding = check({**SLURM, "RANK": "0"})[0]
    assert (finding.code, finding.severity) == ("rendezvous.rank_duplicated", "warning")
    assert finding.confidence < 0.7


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"RANK": "2"}, "rank_out_of_range", "rank 2 is out of range"),
        ({"RANK": "one"}, "env_missing", "RANK='one' is not a number"),
        ({"LOCAL_RANK": "2"}, "rank_out_of_range", "LOCAL_RANK 2 is out of range"),
        ({"LOCAL_WORLD_SIZE": "3"}, "world_size_disagrees", "LOCAL_WORLD_SIZE=3"),
    ],
)
def test_places_that_do_not_exist(
    plain: dict[str, str], changed: dict[str, str], code: str, words: str
) -> None:
    finding = only(check({**plain, **changed}))
    assert (finding.code, finding.severity) == (f"rendezvous.{code}", "error")
    assert words in finding.summary


@pytest.mark.parametrize(
    ("environ", "nodes"),
    [
        ({}, None),
        ({"SLURM_NNODES": "4"}, 4),
        ({"GROUP_WORLD_SIZE": "2"}, 2),
        ({"RANK": "0", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "4"}, 2),
        ({"PET_NNODES": "1:4"}, None),
    ],
)
def test_the_number_of_nodes(environ: dict[str, str], nodes: int | None) -> None:
    assert count_nodes(environ, identify(environ)) == nodes


# ---- the endpoint ----------------------------------------------------------------------------


def test_a_taken_port_names_its_owner(plain: dict[str, str], foreign: tuple[int, int]) -> None:
    pid, port = foreign
    finding = only(check({**plain, "MASTER_PORT": str(port)}))
    assert (finding.code, finding.severity) == ("rendezvous.port_taken", "error")
    assert f"pid {pid} ({sys.executable} -c" in finding.summary
    assert not finding.culprit_ranks


def test_a_secret_in_the_owners_command_line_is_not_told() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", LISTENS, "--api-key", "sk-0123456789abcdefghij"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        (owner,) = listeners_of(int(child.stdout.readline()))
        child.kill()
    assert owner.pid == child.pid
    assert "0123456789" not in owner.command


def test_a_port_that_this_process_listens_at_itself_is_its_own(plain: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        plain["MASTER_PORT"] = str(listening.getsockname()[1])
        assert check(plain) == []
        assert codes(check(plain, pid=1)) == [("error", "port_taken")]


def test_a_rank_that_finds_the_store_is_sound(plain: dict[str, str]) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    assert check({**plain, "RANK": "1", "MASTER_PORT": str(store.port)}, pid=1) == []


def test_a_rank_that_finds_silence_is_not_sure(
    plain: dict[str, str], foreign: tuple[int, int]
) -> None:
    finding = only(check({**plain, "RANK": "1", "MASTER_PORT": str(foreign[1])}))
    assert (finding.code, finding.severity) == ("rendezvous.port_taken", "warning")
    assert f"pid {foreign[0]}" in finding.summary
    assert finding.confidence < 0.7


def test_torchruns_store_that_is_gone(plain: dict[str, str]) -> None:
    under = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    finding = only(check({**plain, **under}))
    assert (finding.code, finding.severity) == ("rendezvous.store_unreachable", "error")
    assert "torchrun's agent hosts the store" in finding.summary


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b"])
def test_a_name_that_does_not_resolve(plain: dict[str, str], name: str) -> None:
    finding = only(check({**plain, "MASTER_ADDR": name}))
    assert (finding.code, finding.severity) == ("rendezvous.store_unreachable", "error")
    assert f"MASTER_ADDR {name!r} does not resolve" in finding.summary


def test_loopback_in_a_job_of_several_nodes(plain: dict[str, str]) -> None:
    several = {**plain, "WORLD_SIZE": "4", "GLOO_SOCKET_IFNAME": a_usable_interface()}
    for address in ("localhost", "127.0.0.1"):
        finding = only(check({**several, "MASTER_ADDR": address}))
        assert (finding.code, finding.severity) == ("rendezvous.store_unreachable", "error")
        assert "each would connect to itself" in finding.summary


def test_an_address_of_another_host_is_doubted(plain: dict[str, str]) -> None:
    # TEST-NET-3: nobody has it.
    finding = only(check({**plain, "MASTER_ADDR": "203.0.113.9"}))
    assert (finding.code, finding.severity) == ("rendezvous.store_unreachable", "warning")
    in_a_pod = {**plain, "MASTER_ADDR": "203.0.113.9", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert check(in_a_pod) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_port_that_only_root_may_have(plain: dict[str, str]) -> None:
    # Everything is imported as root: that user may not be able to read this Python.
    code = (
        "import os, json, sys\nfrom distwatch.preflight.environment import check\n"
        "environ = json.loads(sys.argv[1])\ncheck(environ); os.setuid(65534)\n"
        "print([finding.summary for finding in check(environ)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps({**plain, "MASTER_PORT": "999"})],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "may not listen on port 999 as uid 65534" in done.stdout


def test_the_hosts_own_name_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    # The name is the one thing of this host that a test cannot change for real.
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert own_name_finding(False, gloo_only=True) is None
    finding = own_name_finding(True, gloo_only=True)
    assert finding is not None
    assert (finding.code, finding.severity) == ("rendezvous.interface_invalid", "crash")
    assert "GLOO_SOCKET_IFNAME" in finding.advice
    with_gpus = own_name_finding(True, gloo_only=False)
    assert with_gpus is not None
    assert with_gpus.severity == "warning"


# ---- interfaces ------------------------------------------------------------------------------


def a_usable_interface() -> str:
    usable = [one.name for one in read_interfaces().values() if one.can_talk]
    return next((name for name in usable if name != "lo"), "lo")


def test_this_machines_loopback_is_seen() -> None:
    loopback = read_interfaces()["lo"]
    assert loopback.is_up
    assert loopback.is_loopback
    assert "127.0.0.1" in loopback.addresses
    assert (loopback.mtu or 0) > 1000


def test_a_variable_that_names_no_interface() -> None:
    finding = only(check({"GLOO_SOCKET_IFNAME": "ib77"}))
    assert (finding.code, finding.severity) == ("rendezvous.interface_invalid", "error")
    assert "this host has no interface 'ib77'" in finding.summary
    assert check({"GLOO_SOCKET_IFNAME": "lo"}) == []


ETH = Interface(name="eth0", is_up=True, addresses=("10.0.0.1",))
LO = Interface(name="lo", is_up=True, is_loopback=True, addresses=("127.0.0.1",))
DOWN = Interface(name="ib0", is_up=False)
BARE = Interface(name="eth1", is_up=True)
HOST = {one.name: one for one in (ETH, LO, DOWN, BARE)}


@pytest.mark.parametrize(
    ("variable", "value", "several", "words"),
    [
        ("GLOO_SOCKET_IFNAME", "eth0", True, ""),
        ("GLOO_SOCKET_IFNAME", "eth0,lo", False, ""),
        ("GLOO_SOCKET_IFNAME", "eth0,eth7", False, "no interface 'eth7'"),
        ("GLOO_SOCKET_IFNAME", "ib0", False, "ib0 is down"),
        ("GLOO_SOCKET_IFNAME", "eth1", False, "eth1 has no address"),
        ("GLOO_SOCKET_IFNAME", "lo", True, "does not lead to other hosts"),
        ("TP_SOCKET_IFNAME", "eth9", False, "no interface 'eth9'"),
        ("NCCL_SOCKET_IFNAME", "eth", True, ""),
        ("NCCL_SOCKET_IFNAME", "^lo,ib", True, ""),
        ("NCCL_SOCKET_IFNAME", "=eth", False, "no interface with an address matches it"),
        ("NCCL_SOCKET_IFNAME", "ib", False, "no interface with an address matches it"),
        ("NCCL_SOCKET_IFNAME", "^eth0,lo", False, "no interface with an address matches it"),
    ],
)
def test_variables_that_name_interfaces(
    variable: str, value: str, several: bool, words: str
) -> None:
    found = interface_findings({variable: value}, HOST, several_nodes=several, uses_nccl=True)
    assert [words in finding.summary for finding in found] == ([True] if words else [])
    assert all(finding.severity == "crash" for finding in found)


def test_nccls_patterns() -> None:
    def names(value: str) -> set[str]:
        return {one.name for one in matching(value, HOST.values())}

    assert names("eth") == {"eth0", "eth1"}
    assert names("=eth0") == {"eth0"}
    assert names("^=eth0") == {"eth1", "lo", "ib0"}
    assert names("^eth,lo") == {"ib0"}


# ---- backends and devices --------------------------------------------------------------------


def test_nccl_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if accelerators.host_gpus() != 0:
        pytest.skip("this machine has GPUs")
    finding = only(check({}, backend="cpu:gloo,cuda:nccl"))
    assert (finding.code, finding.severity) == ("rendezvous.backend_unavailable", "error")
    assert "'nccl'" in finding.summary


@pytest.mark.skipif(importlib.util.find_spec("torch_xla") is not None, reason="torch_xla is here")
def test_xla_without_torch_xla() -> None:
    finding = only(check({}, backend="xla"))
    assert finding.severity == "error"
    assert "torch_xla is not installed" in finding.summary
    assert "pip install torch-xla" in finding.advice


def test_a_backend_that_torch_does_not_know_may_come_from_a_plugin() -> None:
    finding = only(check({}, backend="gloos"))
    assert finding.severity == "warning"
    assert finding.confidence < 0.7


def test_without_torch_no_backend_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "torch is not installed" in only(check({}, backend="gloo")).summary


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        (None, "4 ranks will run on this host, but only 2 of its GPUs are visible"),
        ("0,1,0,1", "names GPU 0 twice"),
        ("0,1,2,3", "names GPU 2, but this host has 2"),
        ("1", ""),
        ("GPU-a,GPU-b,GPU-c,GPU-d", ""),
    ],
)
def test_gpus_of_a_host_with_two(
    plain: dict[str, str], visible: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A double for the host's devices: this machine may have none.
    monkeypatch.setattr(accelerators, "host_gpus", lambda: 2)
    plain |= {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    environ = {**plain, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})}
    found = [f for f in check(environ, backend="nccl") if f.code.endswith("backend_unavailable")]
    # The build of torch may have no NCCL, which is another finding.
    wanted = [finding for finding in found if "no nccl" not in finding.summary]
    assert any(words in finding.summary for finding in wanted) if words else wanted == []


@pytest.mark.parametrize(
    ("level", "severity", "words"),
    [
        ("DETAIL", "info", "about 8 times longer"),
        ("detail", "info", "about 8 times longer"),
        ("VERBOSE", "error", "ValueError"),
        ("", "error", "ValueError"),
    ],
)
def test_debug_levels(level: str, severity: str, words: str) -> None:
    finding = only(check({"TORCH_DISTRIBUTED_DEBUG": level}))
    assert (finding.severity, finding.code) == (severity, "rendezvous.config_disagrees")
    assert words in finding.summary
    assert check({"TORCH_DISTRIBUTED_DEBUG": "info"}) == []
