"""The plan of an initialization, read from the call and the environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from distwatch import __version__
from distwatch.state.bounds import first_number, whole_number
from distwatch.state.events import InitPlanned, Site
from distwatch.state.identity import identify

COMMUNICATION_VARIABLES = (
    "TORCH_DISTRIBUTED_DEBUG TORCH_DIST_INIT_BARRIER GLOO_SOCKET_IFNAME TP_SOCKET_IFNAME "
    "NCCL_SOCKET_IFNAME NCCL_SOCKET_FAMILY NCCL_IB_DISABLE NCCL_IB_HCA NCCL_P2P_DISABLE "
    "NCCL_SHM_DISABLE NCCL_NET NCCL_ALGO NCCL_PROTO USE_LIBUV"
).split()


def read_plan(
    given: Mapping[str, Any], *, site: Site | None = None, environ: Mapping[str, str] = os.environ
) -> InitPlanned:
    """The plan of one call of `init_process_group`; missing arguments come from the environment.

    Missing or invalid numbers are None; torch itself reports them to the user.

    Args:
        given: the call's arguments by name.
    """
    method, endpoint, query = read_init_method(
        given.get("init_method"), given.get("store"), environ
    )
    said = environ if method == "env" else {}
    rank = first_number(given.get("rank"), query.get("rank"), said.get("RANK"))
    world = first_number(given.get("world_size"), query.get("world_size"), said.get("WORLD_SIZE"))
    timeout = given.get("timeout")
    return InitPlanned(
        global_rank=rank,
        world_size=world or None,
        method=method,
        endpoint=endpoint,
        hosts_store=method in ("env", "tcp") and rank == 0 and not identify(environ).agent_store,
        backend=str(given.get("backend") or ""),
        timeout_s=timeout.total_seconds() if isinstance(timeout, timedelta) else None,
        variables={name: environ[name] for name in COMMUNICATION_VARIABLES if environ.get(name)},
        interfaces=interfaces(),
        versions=versions(),
        site=site,
    )


def interfaces() -> tuple[str, ...]:
    """The network interfaces of this host; empty where they cannot be listed."""
    try:
        return tuple(name for _, name in socket.if_nameindex())
    except OSError:
        return ()


def versions() -> dict[str, str]:
    """Of distwatch and Python, and of torch where it is loaded."""
    torch = getattr(sys.modules.get("torch"), "__version__", None)
    found = {"distwatch": __version__, "python": sys.version.split()[0]}
    return {**found, "torch": str(torch)} if torch else found


def torch_version_of(plan: InitPlanned) -> tuple[int, int]:
    """Major and minor version of a rank's torch; (0, 0) where the plan does not say."""
    parts = [whole_number(part) for part in plan.versions.get("torch", "").split(".")[:2]]
    major, minor = parts if len(parts) == 2 else (None, None)
    return (0, 0) if major is None or minor is None else (major, minor)


def read_init_method(
    init_method: str | None, store: object, env: Mapping[str, str]
) -> tuple[str, str, dict[str, str]]:
    """The method (env, tcp, file, store or another scheme), the endpoint, and the URL's query."""
    if store is not None:
        host, port = getattr(store, "host", None), getattr(store, "port", None)
        return "store", f"{host}:{port}" if host and port else "", {}
    url = urlsplit(init_method or "env://")
    query = dict(parse_qsl(url.query))
    if url.scheme == "tcp":
        return "tcp", url.netloc, query
    if url.scheme == "file":
        return "file", url.path, query
    if url.scheme != "env":
        return url.scheme or "unknown", "", query
    addr, port = env.get("MASTER_ADDR"), env.get("MASTER_PORT")
    return "env", f"{addr}:{port}" if addr and port else "", query
