"""Where ranks connect: torch's rendezvous, and the creation of groups, also of separate worlds.

Weight-sync groups of SGLang, slime, RLinf and others do not call `init_process_group`, but use its
parts: a rendezvous and `_new_process_group_helper`, or only a `TCPStore` and a backend's class. Each
is a separate world, whose ranks are not the job's.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from distwatch.agent import core
from distwatch.agent.core import Agent
from distwatch.agent.entry import enter_run
from distwatch.agent.guard import error_text, guard
from distwatch.hooks.call_hook import CallHook
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.registry import running_agent, site_outside
from distwatch.integrations.step_hook import Called, StepHook
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.redaction import redact_text
from distwatch.state.bounds import first_number, whole_number
from distwatch.state.events import ExtraGroupJoined
from distwatch.state.steps import GROUP, INIT

_inside = threading.local()
_STORES = "torch._C._distributed_c10d"
_CLASSES = ("ProcessGroupGloo", "ProcessGroupNCCL")


# ---- torch's own rendezvous ----------------------------------------------------------------------


def hook_rendezvous(module: ModuleType, patches: PatchSet, known: KnownGroups) -> None:
    """The function returns a generator, whose first item is the part that blocks."""
    original = vars(module)["rendezvous"]

    @functools.wraps(original)
    def rendezvous(url: str, rank: int = -1, world_size: int = -1, **kwargs: Any) -> Iterator[Any]:
        iterator = original(url, rank, world_size, **kwargs)
        return _observed_rendezvous(iterator, url, rank, world_size, known)

    patches.replace(module, "rendezvous", rendezvous, rebinds=True)


def _observed_rendezvous(
    iterator: Iterator[Any], url: str, rank: int, world_size: int, known: KnownGroups
) -> Iterator[Any]:
    token = guard("torch.distributed.rendezvous", _begin, url, rank, world_size, known)
    try:
        first = next(iterator)
    except BaseException as error:
        guard("torch.distributed.rendezvous", _end, token, error)
        # A generator must return instead of raising StopIteration.
        if isinstance(error, StopIteration):
            return
        raise
    guard("torch.distributed.rendezvous", _end, token, None)
    yield first
    yield from iterator


def _begin(url: str, rank: int, world_size: int, known: KnownGroups) -> Any:
    agent = running_agent()
    if agent is None:
        return None
    label, endpoint = url, urlsplit(url).netloc
    if url.startswith("env://"):
        # The values that torch reads now; a missing one is shown as `?`.
        addr, port = (os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        label, endpoint = f"{url}, {addr}:{port}", f"{addr}:{port}"
    site = site_outside("torch") if not _is_default(known) else None
    step = agent.begin_step("rendezvous", kind=INIT, label=redact_text(label), site=site)
    if not _is_default(known):
        asked = dict(parse_qsl(urlsplit(url).query))
        _join(
            agent,
            step,
            endpoint,
            group_rank=first_number(rank, asked.get("rank")),
            size=first_number(world_size, asked.get("world_size")),
            via="rendezvous",
        )
    _enter()
    return agent, step


def _end(token: Any, error: BaseException | None) -> None:
    if token is not None:
        _leave()
        agent, step = token
        agent.end_step(step, error_text(error))


# ---- the creation of a group ---------------------------------------------------------------------


class NewProcessGroup(StepHook):
    """The connecting part of every group's creation, including direct calls by other code.

    A group from a direct call gets its members later, if ever, so it is read at its first collective.
    """

    def __init__(self, known: KnownGroups) -> None:
        self._known = known

    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        name = given.get("group_name")
        own = not given.get("global_ranks_in_group") and not _is_default(self._known)
        step = agent.begin_step(
            "new_process_group",
            kind=GROUP,
            label=f"connects group {name}" if name not in ("", None) else "",
            site=site_outside("torch") if own else None,
        )
        if own:
            endpoint = endpoint_of(given.get("store"))
            self._known.own_worlds[str(name)] = endpoint
            _join(
                agent,
                step,
                endpoint,
                name=str(name or ""),
                group_rank=whole_number(given.get("group_rank")),
                size=whole_number(given.get("group_size")),
                via="process group",
            )
        _enter()
        return Called(agent, step)

    def hold(self, called: Called, result: Any) -> None:
        self._known.note_order()

    def after(self, token: Called, result: Any, error: BaseException | None) -> None:
        _leave()
        super().after(token, result, error)


# ---- bare stores and bare groups -----------------------------------------------------------------


def hook_constructors(patches: PatchSet, known: KnownGroups) -> None:
    """Patches `__init__` in place, so that classes keep their identity and early imports work."""
    c10d: Any = sys.modules.get(_STORES)
    for name in ("TCPStore", *_CLASSES):
        kind = getattr(c10d, name, None)
        if isinstance(kind, type) and "__init__" in vars(kind):
            hook = _Store(known) if name == "TCPStore" else _Backend(known, name)
            patches.observe(f"{name}.__init__", kind, "__init__", hook)


class _Constructor(CallHook):
    """A store or a group that other code creates for a world of its own."""

    parameters: tuple[str, ...]

    def __init__(self, known: KnownGroups, name: str = "") -> None:
        self._known = known
        self._name = name

    def begin(self, agent: Agent, given: dict[str, Any]) -> int:
        """The step of a call with these arguments."""
        raise NotImplementedError

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = _agent_of_rank(self._known)
        if agent is None:
            return None
        given = {**dict(zip(self.parameters, args[1:], strict=False)), **kwargs}
        step = self.begin(agent, given)
        _enter()
        return agent, step

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        _end(token, error)


class _Store(_Constructor):
    """A store that other code makes for its own rendezvous."""

    parameters = ("host_name", "port", "world_size", "is_master", "timeout", "wait_for_workers")

    def begin(self, agent: Agent, given: dict[str, Any]) -> int:
        endpoint = f"{given.get('host_name')}:{given.get('port')}"
        waits = bool(given.get("wait_for_workers", True))
        step = agent.begin_step("store", kind=INIT, label=endpoint, site=site_outside("torch"))
        if given.get("port"):
            _join(
                agent,
                step,
                endpoint,
                group_rank=0 if given.get("is_master") else None,
                size=whole_number(given.get("world_size")) if waits else None,
                via="store",
            )
        return step


class _Backend(_Constructor):
    """A backend's group that other code makes over its own store."""

    parameters = ("store", "rank", "size")

    def begin(self, agent: Agent, given: dict[str, Any]) -> int:
        endpoint, label = endpoint_of(given.get("store")), f"connects {self._name}"
        step = agent.begin_step(
            "new_process_group", kind=GROUP, label=label, site=site_outside("torch")
        )
        _join(
            agent,
            step,
            endpoint,
            group_rank=whole_number(given.get("rank")),
            size=whole_number(given.get("size")),
            via="process group",
        )
        return step


def _agent_of_rank(known: KnownGroups) -> Any:
    """The agent; None inside a call that is already observed, and in a launcher."""
    if getattr(_inside, "depth", 0) or _is_default(known):
        return None
    agent = core.current()
    if agent is None and enter_run(os.environ)[2] != "launcher":
        agent = running_agent()
    return None if agent is None or agent.started.role == "launcher" else agent


def endpoint_of(store: Any) -> str:
    """`host:port` of the TCPStore below any prefixes; '' for another store. Sends no request."""
    for _ in range(8):
        inner = getattr(store, "underlying_store", None)
        if inner is None:
            break
        store = inner
    host, port = getattr(store, "host", None), getattr(store, "port", None)
    return f"{host}:{port}" if host and port else ""


# ---- what is journaled ---------------------------------------------------------------------------


def _join(agent: Any, step: int, endpoint: str, *, name: str = "", **said: Any) -> None:
    """Journals a new world, or completes the newest one at that endpoint if it was only a store."""
    known: list[ExtraGroupJoined] = agent.retained.all(ExtraGroupJoined)
    here = [one for one in known if one.endpoint == endpoint]
    newest = here[-1] if here else None
    grows = newest is not None and not newest.name and said["via"] == "process group"
    of_name = 1 + max((o.of_name for o in here if o.name == name), default=0) if name else 0
    if grows and newest is not None:
        # A None must not overwrite what is known from the store.
        told = {field: value for field, value in said.items() if value is not None}
        grown = {**told, "step": step, "name": name, "of_name": of_name}
        agent.record(msgspec.structs.replace(newest, **grown))
        return
    agent.record(
        ExtraGroupJoined(
            number=1 + max((one.number for one in known), default=0),
            step=step,
            endpoint=endpoint,
            name=name,
            at_endpoint=1 + max((one.at_endpoint for one in here), default=0),
            of_name=of_name,
            site=site_outside("torch"),
            **said,
        )
    )


def _is_default(known: KnownGroups) -> bool:
    agent = core.current()
    return known.initializing or (agent is not None and agent.is_initializing)


def _enter() -> None:
    _inside.depth = getattr(_inside, "depth", 0) + 1


def _leave() -> None:
    _inside.depth = max(0, getattr(_inside, "depth", 0) - 1)
