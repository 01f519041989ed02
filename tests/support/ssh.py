"""Real ssh between the machines of a test: a server on each, and one key that opens all of them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.machines import Machine

_SERVER = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
ListenAddress {address}
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
SetEnv {variables}
"""
_CLIENT = """
Host {name}
  HostName {address}
  IdentityFile {folder}/user
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@contextlib.contextmanager
def ssh_servers(folder: Path, hosts: Mapping[Machine, Mapping[str, str]]) -> Iterator[str]:
    """Servers on these machines; the `ssh` command that finds them by their names.

    Args:
        hosts: what the environment of a session on each says.
    """
    server = shutil.which("sshd")
    if server is None or shutil.which("ssh") is None:
        pytest.skip("ssh needs its client and its server; here one is missing")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    client = folder / "client"
    with contextlib.ExitStack() as undo, client.open("w") as known:
        for host, variables in hosts.items():
            words = {"folder": folder, "address": host.address, "name": host.name}
            said = " ".join(f"{name}={value}" for name, value in variables.items())
            config = folder / f"{host.name}.sshd"
            config.write_text(_SERVER.format(**words, variables=said))
            known.write(_CLIENT.format(**words))
            undo.enter_context(_serving(host, [server, "-D", "-e", "-f", str(config)]))
        known.flush()
        yield f"ssh -F {client}"


@contextlib.contextmanager
def _serving(host: Machine, command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(host.command(command), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ready, _, _ = select.select([process.stderr], [], [], 60)
        assert ready, f"the ssh server of {host.name} does not come up"
        said = process.stderr.readline()
        assert "listening" in said, said
        yield
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
