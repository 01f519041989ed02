"""What a rank is about to initialize with, read from its call and its environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from distwatch import __version__
from distwatch.state.bounds import whole_number
from distwatch.state.events import InitPlanned, Site
from distwatch.state.identity import identify

COMMUNICATION_VARIABLES = (
    "TORCH_DISTRIBUTED_DEBUG",
    "TORCH_DIST_INIT_BARRIER",
    "GLOO_SOCKET_IFNAME",
    "TP_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "NCCL_SOCKET_FAMILY",
    "NCCL_IB_DISABLE",
    "NCCL_IB_HCA",
    "NCCL_P2P_DISABLE",
    "NCCL_SHM_DISABLE",
    "NCCL_NET",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "USE_LIBUV",
)


def read_plan(
    given: Mapping[str, Any], *, site: Site | None = None, environ: Mapping[str, str] = os.environ
) -> InitPlanned:
    """The plan of one call of `init_process_group`; what it leaves out comes from the environment.

    Numbers that are missing or make no sense are None here; torch tells the user of them.

    Args:
        given: the call's arguments by name.
    """
    method, endpoint, query = _method(given.get("init_method"), given.get("store"), environ)
    said = environ if method == "env" else {}
    rank = _number(given.get("rank"), query.get("rank"), said.get("RANK"))
    world = _number(given.get("world_size"), query.get("world_size"), said.get("WORLD_SIZE"))
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
    """Of distwatch, and of torch where it is loaded."""
    torch = getattr(sys.modules.get("torch"), "__version__", None)
    found = {"distwatch": __version__, "python": sys.version.split()[0]}
    return {**found, "torch": str(torch)} if torch else found


def torch_version_of(plan: InitPlanned) -> tuple[int, int]:
    """Major and minor version of a rank's torch; (0, 0) where the plan does not say."""
    parts = [whole_number(part) for part in plan.versions.get("torch", "").split(".")[:2]]
    major, minor = parts if len(parts) == 2 else (None, None)
    return (0, 0) if major is None or minor is None else (major, minor)


def _method(
    init_method: str | None, store: object, env: Mapping[str, str]
) -> tuple[str, str, dict[str, str]]:
    if store is not None:
        host, port = getattr(store, "host", None), getattr(store, "port", None)
        return "store", f"{host}:{port}" if host and port else "", {}
    url = urlsplit(init_method or "env://")
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    if url.scheme == "tcp":
        return "tcp", url.netloc, query
    if url.scheme == "file":
        return "file", url.path, query
    if url.scheme != "env":
        return url.scheme or "unknown", "", query
    addr, port = env.get("MASTER_ADDR"), env.get("MASTER_PORT")
    return "env", f"{addr}:{port}" if addr and port else "", query


def _number(*candidates: Any) -> int | None:
    for value in candidates:
        if isinstance(value, int) and value >= 0:
            return value
        if isinstance(value, str) and (number := whole_number(value)) is not None:
            return number
    return None
