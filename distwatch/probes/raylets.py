"""The raylets of this machine, Ray's daemons: their command lines name their clusters."""

from __future__ import annotations

import os

import msgspec

from distwatch.probes.procfs import all_pids, argv_of, name_of, owner_of, read_bytes
from distwatch.probes.table import read_environ
from distwatch.state.bounds import whole_number

_PASSED_ON = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
"""How the raylet's cluster authenticates; the token is always this user's own."""


class Raylet(msgspec.Struct, frozen=True, kw_only=True):
    """Ray's daemon for one node, running on this machine."""

    pid: int
    address: str
    """The address of its cluster's control store (GCS)."""
    node_id: str
    session: str = ""
    python: str = ""
    """The interpreter of its workers; '' where the raylet belongs to another user."""
    environ: dict[str, str] = {}


def clusters_here() -> dict[str, list[Raylet]]:
    """The raylets of this machine that this user can see, by their cluster's address."""
    clusters: dict[str, list[Raylet]] = {}
    for pid in all_pids():
        if name_of(pid) == "raylet" and (raylet := raylet_at(pid)):
            clusters.setdefault(raylet.address, []).append(raylet)
    return clusters


def raylet_of(pid: int) -> Raylet | None:
    """The raylet of a worker; None for a process that is not a Ray worker, or not readable."""
    parent = whole_number((read_environ(pid) or {}).get("RAY_RAYLET_PID"))
    return None if parent is None else raylet_at(parent)


def has_loaded_ray(pid: int) -> bool:
    """Whether a process has loaded Ray's library: only its drivers and workers do."""
    return b"/ray/_raylet" in read_bytes(f"/proc/{pid}/maps")


def raylet_at(pid: int) -> Raylet | None:
    """A process as a raylet; None where it is not one."""
    options: dict[str, str] = {}
    for argument in argv_of(pid)[1:]:
        name, equals, value = argument.partition("=")
        if equals and name.startswith("--"):
            options[name.removeprefix("--").replace("-", "_")] = value
    address, node_id = options.get("gcs_address", ""), options.get("node_id", "")
    if not address or not node_id:
        return None
    environ = read_environ(pid) or {}
    worker = options.get("python_worker_command", "").split(" ")
    # Only this user's interpreter may run as this user: another user's raylet may name any program.
    own = owner_of(pid) == os.geteuid()
    return Raylet(
        pid=pid,
        address=address,
        node_id=node_id,
        session=options.get("session_name", ""),
        python=worker[0] if own and os.access(worker[0], os.X_OK) else "",
        environ={name: environ[name] for name in _PASSED_ON if own and environ.get(name)},
    )
