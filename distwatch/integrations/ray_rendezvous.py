"""The endpoint of a Ray job's world if none is set: rank 0's actor chooses and publishes it.

Ray's own key-value store holds `host:port`, keyed by the job, the world's name and its number. Only
`distwatch.initialize` reads it, under the deadline of the step `endpoint`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from distwatch.agent.core import Agent
from distwatch.agent.initialization import steps as st
from distwatch.agent.initialization.environment import Launched, read_environment
from distwatch.agent.initialization.init_failures import InitFailures
from distwatch.agent.initialization.steps import Deadlines, Ledger
from distwatch.errors import InitFailed, PlanInvalid
from distwatch.state.addresses import split_endpoint
from distwatch.state.events import FindingRaised
from distwatch.visible_text import say

_NAMESPACE = b"distwatch"
_ASK_EVERY_S = 0.05
_CONNECT_WITHIN_S = 1.0
_IN_ACTORS = "Call distwatch.initialize in the job's actors, each with a RANK of its own."
_SCHEME = "ray://"
_GIVEN_BY_RANK_0 = {"MASTER_ADDR", "MASTER_PORT"}


def read_endpoint(
    init_method: str | None, rank: int | None, world_size: int | None, held_endpoint: str | None
) -> tuple[Launched, str | None]:
    """This rank's place, and the world's name in Ray's store; None if Ray need not be asked.

    Args:
        held_endpoint: the existing world's, which Ray has already given.
    """
    by_ray = init_method is not None and init_method.startswith(_SCHEME)
    name = (init_method or "").removeprefix(_SCHEME) if by_ray else None
    launched = read_environment(
        os.environ,
        init_method=init_method if name is None else None,
        global_rank=rank,
        world_size=world_size,
    )
    if not meets_in_ray(launched, name):
        return launched, None
    return settled(launched, held_endpoint) if held_endpoint else launched, name or ""


def meets_in_ray(launched: Launched, name: str | None) -> bool:
    """Whether to ask Ray for the endpoint: it was requested, or no endpoint is set."""
    if launched.global_rank is None or launched.world_size is None or launched.wrong:
        return False
    if name is not None:
        return True
    lacks = set(launched.missing)
    return launched.launcher == "ray" and bool(lacks) and lacks <= _GIVEN_BY_RANK_0


@contextlib.contextmanager
def telling_driver(launched: Launched) -> Iterator[None]:
    """Around the planning of a world: the driver of a Ray job, which is no rank, is told so."""
    is_driver = launched.method == "alone" and _is_driver()
    try:
        yield
    except PlanInvalid as error:
        if not is_driver:
            raise
        why = f"{error.args[0]}; this process is the driver of a Ray job, which is no rank"
        raise PlanInvalid(why, advice=_IN_ACTORS, finding=error.finding) from error
    if is_driver:
        say(f"this process is the driver of a Ray job: its world has one rank. {_IN_ACTORS}")


def _is_driver() -> bool:
    module = sys.modules.get("ray._private.worker")
    worker = getattr(module, "global_worker", None)
    return worker is not None and worker.mode == getattr(module, "SCRIPT_MODE", None)


def settled(launched: Launched, endpoint: str) -> Launched:
    """The same place, with the endpoint that rank 0's actor has chosen."""
    return msgspec.structs.replace(
        launched,
        method="env",
        endpoint=endpoint,
        hosts_store=launched.global_rank == 0,
        derived=(*launched.derived, f"{endpoint}, chosen by rank 0's actor"),
        missing=(),
    )


def meet_in_ray(
    launched: Launched, name: str, number: int, deadlines: Deadlines, agent: Agent | None
) -> Launched:
    """Publishes an endpoint (rank 0), or waits until rank 0's actor listens at the published one.

    Raises:
        InitTimeout: rank 0's actor has not published it in time.
        InitFailed: there is no Ray here, or it does not answer.
    """
    ledger = Ledger(agent)
    within_s = deadlines.of(st.ENDPOINT)
    try:
        asks = "asks Ray for the endpoint of rank 0's actor"
        # Within the call: a rank that only has a part of it open does not count as one that waits.
        with (
            ledger.step("initialize", deadlines.whole_s),
            ledger.step(st.ENDPOINT, within_s, label=asks),
        ):
            key = f"{_job_id()}/{name}/{launched.world_size}/{number}".encode()
            failures = InitFailures(launched, agent, ledger)
            endpoint = (
                _publish(key)
                if launched.global_rank == 0
                else _await_listener(key, within_s, failures)
            )
            if endpoint is None:
                raise failures.absent(st.ENDPOINT, within_s, (0,), (launched.global_rank or 0,))
    except InitFailed as failure:
        if agent is not None and failure.finding is not None:
            agent.record(FindingRaised(finding=failure.finding, step=st.ENDPOINT))
        raise
    return settled(launched, endpoint)


def _job_id() -> str:
    try:
        import ray

        return str(ray.get_runtime_context().get_job_id())
    except Exception as error:
        raise InitFailed(
            f"cannot ask Ray for this world's endpoint: {error}",
            step=st.ENDPOINT,
            advice="Call it inside a Ray actor, or set MASTER_ADDR and MASTER_PORT.",
        ) from error


def _publish(key: bytes) -> str:
    import ray

    host = ray.util.get_node_ip_address()
    with socket.socket() as listener:
        listener.bind(("", 0))
        endpoint = f"{host}:{listener.getsockname()[1]}"
    _key_values()._internal_kv_put(key, endpoint.encode(), overwrite=True, namespace=_NAMESPACE)
    return endpoint


def _await_listener(key: bytes, within_s: float, failures: InitFailures) -> str | None:
    """The endpoint that rank 0 has published, once a process listens there.

    A restarted world may find the previous world's entry, where nobody listens any more.

    Raises:
        InitFailed: rank 0's actor is dead, and Ray will not restart it.
    """
    ask, until = _key_values()._internal_kv_get, time.monotonic() + within_s
    while time.monotonic() < until:
        if (said := ask(key, namespace=_NAMESPACE)) and _is_listening(
            endpoint := str(said, "utf-8")
        ):
            return endpoint
        failures.raise_if_hopeless(st.ENDPOINT)
        time.sleep(_ASK_EVERY_S)
    return None


def _is_listening(endpoint: str) -> bool:
    address = split_endpoint(endpoint)
    try:
        with socket.create_connection(address or ("", 0), _CONNECT_WITHIN_S):
            return True
    except OSError:
        return False


def _key_values() -> Any:
    """Ray's internal key-value store, by its names in Ray 2."""
    from ray.experimental import internal_kv

    return internal_kv
