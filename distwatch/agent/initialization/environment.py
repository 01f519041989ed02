"""A rank's number, world size and endpoint: given, derived from the launcher, or missing."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from distwatch.agent.initialization.plan import read_init_method
from distwatch.state.bounds import MOST_RANKS, first_number, whole_number
from distwatch.state.finding import Evidence, Finding, Severity, Source
from distwatch.state.identity import Identity, identify

SLURM_PORTS = range(20_000, 30_000)
_SLURM_NODES = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """A rank's place in a world. None: neither given nor derived.

    Attributes:
        method: env, tcp, file, or alone (a single process without peers).
        endpoint: `host:port`, or the file's path.
        hosts_store: whether this rank listens at the endpoint.
        derived: sentences about what was derived, and from what.
        missing: names of the variables that the rank needs and does not have.
        wrong: sentences about invalid values.
    """

    global_rank: int | None = None
    local_rank: int = 0
    world_size: int | None = None
    local_world_size: int | None = None
    method: str = "env"
    endpoint: str = ""
    hosts_store: bool = False
    store_host: str = "rank 0"
    """Who listens at the endpoint, as text."""
    attempt: int = 0
    launcher: str = "unknown"
    derived: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def read_environment(
    environ: Mapping[str, str],
    *,
    init_method: str | None = None,
    global_rank: int | None = None,
    world_size: int | None = None,
) -> Launched:
    """A rank's place from the arguments, else torch's variables, else the launcher's.

    A process without any of them forms a world alone.
    """
    identity = identify(environ)
    method, endpoint, query = read_init_method(init_method, None, environ)
    rank = first_number(global_rank, query.get("rank"), identity.global_rank)
    world = first_number(world_size, query.get("world_size"), identity.world_size)
    wrong = (*_wrong_numbers(environ), *_too_large(world, identity))
    derived: list[str] = []
    if rank is not None and global_rank is None and "RANK" not in environ and "rank" not in query:
        derived.append(f"rank {rank} from {identity.launcher}'s variables")
    if method not in ("tcp", "file"):
        method, endpoint = "env", _endpoint(environ, identity, derived)
    if rank is None and world in (None, 1) and not _is_launched(environ, identity):
        rank, world, method, endpoint = 0, 1, "alone", ""
    elif rank == 0 and world == 1 and not endpoint:
        method = "alone"
    missing = _missing(rank, world, method, endpoint, environ)
    return Launched(
        global_rank=rank,
        local_rank=_local_rank(identity, rank),
        world_size=world,
        local_world_size=identity.local_world_size,
        method=method,
        endpoint=endpoint,
        hosts_store=method in ("env", "tcp") and rank == 0 and not identity.agent_store,
        store_host="torchrun's agent" if identity.agent_store else "rank 0",
        attempt=identity.restart,
        launcher=identity.launcher,
        derived=tuple(derived),
        missing=missing,
        wrong=wrong,
    )


def first_host(nodes: str) -> str | None:
    """The first name of a Slurm node list: `node[03-05,9],x1` → `node03`; None for an empty list."""
    found = re.match(r"\s*([^\[\],\s]+)(?:\[([^\]]*)\])?([^,\[\]]*)", nodes)
    if found is None:
        return None
    stem, ranges, tail = found.group(1), found.group(2), found.group(3)
    first = re.split(r"[-,]", ranges)[0] if ranges else ""
    return f"{stem}{first}{tail}"


def _endpoint(environ: Mapping[str, str], identity: Identity, derived: list[str]) -> str:
    addr, port = identity.master_addr, identity.master_port
    if identity.launcher == "slurm":
        addr, port = _from_slurm(environ, addr, port, derived)
    return f"{addr}:{port}" if addr and port is not None else ""


def _from_slurm(
    environ: Mapping[str, str], addr: str | None, port: int | None, derived: list[str]
) -> tuple[str | None, int | None]:
    if addr is None:
        listed = next((environ[name] for name in _SLURM_NODES if environ.get(name)), "")
        addr = first_host(listed) or environ.get("SLURM_LAUNCH_NODE_IPADDR")
        if addr:
            derived.append(f"MASTER_ADDR={addr}, the first node of the Slurm job")
    job = whole_number(environ.get("SLURM_JOB_ID"))
    if port is None and job is not None:
        # Every task derives the same port; two jobs on one node rarely get the same one.
        port = SLURM_PORTS[job % len(SLURM_PORTS)]
        derived.append(f"MASTER_PORT={port} from SLURM_JOB_ID={job}")
    return addr, port


def _missing(
    rank: int | None, world: int | None, method: str, endpoint: str, environ: Mapping[str, str]
) -> tuple[str, ...]:
    missing = []
    if rank is None:
        missing.append("RANK")
    if world is None:
        missing.append("WORLD_SIZE")
    if method == "env" and not endpoint:
        missing += [n for n in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(n)] or [
            "MASTER_PORT"
        ]
    return tuple(missing)


def _is_launched(environ: Mapping[str, str], identity: Identity) -> bool:
    """Whether anything suggests that this process is one of several."""
    said = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RAY_RAYLET_PID")
    return identity.launcher not in ("unknown", "accelerate") or any(environ.get(n) for n in said)


def _wrong_numbers(environ: Mapping[str, str]) -> list[str]:
    wrong = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        value = environ.get(name)
        if value and whole_number(value) is None:
            wrong.append(f"{name}={value!r} is not a number")
    port = whole_number(environ.get("MASTER_PORT"))
    if port is not None and not 0 < port < 65536:
        wrong.append(f"MASTER_PORT={port} is not a port (1 to 65535)")
    if environ.get("WORLD_SIZE", "").strip() == "0":
        wrong.append("WORLD_SIZE=0: a world has at least one rank")
    return wrong


def _too_large(world: int | None, identity: Identity) -> list[str]:
    """World sizes that are too large to handle rank by rank."""
    said = [f"WORLD_SIZE={world}"] if (world or 0) > MOST_RANKS else identity.beyond
    return [f"{one}: a world has at most {MOST_RANKS} ranks" for one in said]


def _local_rank(identity: Identity, rank: int | None) -> int:
    if identity.local_rank is not None:
        return identity.local_rank
    per_node = identity.local_world_size
    return (rank or 0) % per_node if per_node else 0


def unfit(launched: Launched) -> Finding | None:
    """Why a process cannot join its world as it was started; None where it can."""
    rank, world = launched.global_rank, launched.world_size
    culprits = () if rank is None else (rank,)
    if launched.missing or launched.wrong:
        lacks = f"{', '.join(launched.missing)} not set" if launched.missing else ""
        told = "; ".join(filter(None, [lacks, *launched.wrong]))
        return Finding(
            code="rendezvous.env_missing",
            severity="crash",
            culprit_ranks=culprits,
            summary=f"this process cannot join a world: {told}",
            advice=_how_to_set(launched),
            evidence=(Evidence("journal", f"launcher: {launched.launcher}; {told}", rank),),
        )  # fmt: skip
    if rank is not None and world is not None and rank >= world:
        return Finding(
            code="rendezvous.rank_out_of_range",
            severity="crash",
            culprit_ranks=culprits,
            summary=f"rank {rank} is out of range: WORLD_SIZE={world} has ranks 0 to {world - 1}",
            evidence=(Evidence("journal", f"RANK={rank}, WORLD_SIZE={world}", rank),),
        )
    return None


def backend_unavailable(
    what: str,
    advice: str,
    global_rank: int | None = None,
    *,
    seen: str = "",
    source: Source = "journal",
    severity: Severity = "crash",
    confidence: float = 1.0,
) -> Finding:
    """A finding about a backend, or a device for it, that a process or this host lacks.

    Args:
        seen: the evidence, where it is more than `what`.
    """
    return Finding(
        code="rendezvous.backend_unavailable",
        severity=severity,
        culprit_ranks=() if global_rank is None else (global_rank,),
        summary=what,
        advice=advice,
        evidence=(Evidence(source, seen or what, global_rank),),
        confidence=confidence,
    )


def _how_to_set(launched: Launched) -> str:
    names = ", ".join(launched.missing) or "the variables"
    if launched.launcher == "ray":
        given = ", ".join(f'"{name}": "…"' for name in launched.missing)
        return f"Pass them when you create the Ray actor: .options(runtime_env={{'env_vars': {{{given}}}}})."
    return (
        f"Start the script with torchrun, which sets {names}, or set them yourself for every rank."
    )
