"""A real Slurm: one slurmctld, and a slurmd on each of several machines made of namespaces."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.environment import inherited_environment
from tests.support.leftovers import end_processes
from tests.support.machines import Machine, machines
from tests.support.waiting import wait_until

_CONFIGURATION = """
ClusterName=dw
SlurmctldHost={first.name}({first.address})
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
MinJobAge=600
PartitionName=all Nodes=ALL Default=YES State=UP
{more}
"""
_NODE = "NodeName={name} NodeAddr={address} CPUs=8 RealMemory=1000 State=UNKNOWN\n"
_TOOLS = ("munged", "slurmctld", "slurmd", "srun")
UP_WITHIN_S = 60.0


class SlurmCluster:
    """One of them; its first machine has the controller, too. Its files are in `folder`."""

    def __init__(self, hosts: list[Machine], folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a command needs to find this Slurm, and us."""
        tools = os.path.dirname(sys.executable)
        return {
            **inherited_environment(),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.pathsep.join([tools, os.environ.get("PATH", os.defpath)]),
            **(env or {}),
        }

    def call(
        self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = 100.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the first machine, in `folder`."""
        return subprocess.run(
            self.hosts[0].command(command), cwd=self.folder, env=self.environment(env),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def ask(self, *command: str) -> str:
        """What a command says that must succeed."""
        done = self.call(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()


@contextlib.contextmanager
def slurm_cluster(count: int, *, task_prolog: str = "", epilog: str = "") -> Iterator[SlurmCluster]:
    """A cluster of that many machines; skips where Slurm or the rights for machines are missing.

    Args:
        task_prolog, epilog: scripts for slurm.conf, in which `{folder}` is the cluster's folder.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} missing")
    folder = Path(tempfile.mkdtemp(prefix="dws-", dir="/tmp"))
    folder.chmod(0o755)
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        hosts = undo.enter_context(machines(count))
        cluster = SlurmCluster(hosts, folder)
        _write(cluster, {"TaskProlog": task_prolog, "Epilog": epilog})
        _start(
            cluster, ["munged", "--foreground", "--force", *_munge_files(folder)], "munged", undo
        )
        _start(cluster, hosts[0].command(["slurmctld", "-D"]), "slurmctld", undo)
        for host in hosts:
            _mount_cgroups(host)
            _start(
                cluster,
                host.command(["slurmd", "-D", "-N", host.name]),
                f"slurmd-{host.name}",
                undo,
            )
        _wait_idle(cluster)
        yield cluster


def _write(cluster: SlurmCluster, scripts: Mapping[str, str]) -> None:
    folder = cluster.folder
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    lines = []
    for option, text in scripts.items():
        if text:
            path = folder / option
            path.write_text(text.replace("{folder}", str(folder)))
            path.chmod(0o755)
            lines.append(f"{option}={path}")
    text = _CONFIGURATION.format(first=cluster.hosts[0], folder=folder, more="\n".join(lines))
    nodes = "".join(_NODE.format(name=one.name, address=one.address) for one in cluster.hosts)
    (folder / "slurm.conf").write_text(text + nodes)
    known = "".join(f"{one.address} {one.name}\n" for one in cluster.hosts)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
    for host in cluster.hosts:
        host.run("mount", "--bind", str(folder / "hosts"), "/etc/hosts")


def _munge_files(folder: Path) -> list[str]:
    names = {
        "key-file": "key",
        "socket": "sock",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    return [f"--{option}={folder}/munge.{end}" for option, end in names.items()]


def _start(
    cluster: SlurmCluster, command: Sequence[str], name: str, undo: contextlib.ExitStack
) -> None:
    with open(cluster.folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            command, env=cluster.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    undo.callback(end)


def _mount_cgroups(host: Machine) -> None:
    """A network namespace brings an empty /sys, and slurmd ends where it finds no cgroups there."""
    place = "/sys/fs/cgroup"
    if os.path.exists(f"{place}/cgroup.controllers"):
        host.run("mount", "-t", "cgroup2", "cgroup2", place)
        return
    host.run("mount", "-t", "tmpfs", "tmpfs", place)
    host.run("mkdir", f"{place}/systemd")
    host.run("mount", "-t", "cgroup", "-o", "none,name=systemd", "cgroup", f"{place}/systemd")


def settle(cluster: SlurmCluster) -> None:
    """Ends every job, waits for its epilogs, and ends the observers, which outlive their ranks for a while."""
    cluster.ask("scancel", "--user=root")
    _wait_idle(cluster)
    end_processes(str(cluster.folder / "runs"))


def _wait_idle(cluster: SlurmCluster) -> None:
    states = ""

    def are_idle() -> bool:
        nonlocal states
        done = cluster.call("sinfo", "--noheader", "--Node", "--format=%T")
        states = done.stdout
        return done.returncode == 0 and states.split() == ["idle"] * len(cluster.hosts)

    try:
        wait_until(are_idle, "the nodes are up", within_s=UP_WITHIN_S)
    except AssertionError as error:
        logs = "\n".join(path.read_text()[-2000:] for path in sorted(cluster.folder.glob("*.log")))
        raise AssertionError(f"{error}: {states}\n{logs}") from None
