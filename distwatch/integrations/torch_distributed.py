"""torch.distributed: initialization, process groups, collectives.

Hooks the module that defines the functions, so that `torch.distributed` re-exports what is
hooked; names that were bound earlier are found and rebound.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

from distwatch.agent.guard import caller_site, guard
from distwatch.hooks.observed import error_text, observe
from distwatch.hooks.patch import PatchSet
from distwatch.hooks.rebinding import rebind_early_imports
from distwatch.integrations import torch_collectives
from distwatch.integrations.registry import running_agent
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.integrations.torch_recorder import FlightRecorder
from distwatch.state.events import GroupCalled, IdentityClaimed

SKIP = ("/torch/", "importlib")
_TIMEOUT_SHARE = 0.8
_known: KnownGroups | None = None
_recorder: FlightRecorder | None = None


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `torch.distributed.distributed_c10d`."""
    global _known, _recorder
    known = _known = KnownGroups(module)
    counts = torch_collectives.apply(module, patches)
    _recorder = FlightRecorder(known, counts)
    observers: dict[str, Any] = {
        "init_process_group": _InitProcessGroup(module, known, _recorder),
        "new_group": _NewGroup(known),
        "split_group": _SplitGroup(known),
        "destroy_process_group": _DestroyProcessGroup(module, known),
        "_new_process_group_helper": _NewProcessGroup(known),
    }
    absent = [name for name in observers if not hasattr(module, name)]
    for name, observer in observers.items():
        if name not in absent:
            _replace(
                module,
                patches,
                name,
                observe(f"torch.distributed.{name}", vars(module)[name], observer),
            )
    if "rendezvous" in vars(module):
        _hook_rendezvous(module, patches)
    else:
        absent.append("rendezvous")
    remark = f"not in this torch: {', '.join(absent)}" if absent else ""
    if module.is_initialized():
        guard("late arming", _take_over, module, known, _recorder)
        remark = "; ".join(
            filter(None, [remark, "initialized before arming: its init was not seen"])
        )
    return remark


def undo() -> None:
    """Forgets the groups and stops polling."""
    global _known, _recorder
    from distwatch.agent import core

    agent = core.current()
    if agent is not None and _recorder is not None:
        agent.progress_sources[:] = [s for s in agent.progress_sources if s != _recorder.progress]
        agent.dump_sources[:] = [s for s in agent.dump_sources if s != _recorder.dump]
    torch_collectives.undo()
    _known = _recorder = None


def _replace(module: ModuleType, patches: PatchSet, name: str, replacement: Any) -> None:
    original = vars(module)[name]
    patches.replace(module, name, replacement)
    rebind_early_imports(patches, original, replacement)


def _take_over(module: ModuleType, known: KnownGroups, recorder: FlightRecorder) -> None:
    agent = running_agent()
    if agent is None:
        return
    _initialized(agent, module, known, recorder)


def _initialized(
    agent: Any, module: ModuleType, known: KnownGroups, recorder: FlightRecorder
) -> None:
    recorder.attach(agent)
    known.read(agent)
    agent.confirm(module.get_rank(), module.get_world_size())


def _bound(
    original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    return dict(inspect.signature(original).bind_partial(*args, **kwargs).arguments)


def _share_of(timeout: object) -> float | None:
    if isinstance(timeout, timedelta) and timeout.total_seconds() > 0:
        return timeout.total_seconds() * _TIMEOUT_SHARE
    return None


class _InitProcessGroup:
    """The step of a whole initialization, and who this is afterwards."""

    def __init__(self, module: ModuleType, known: KnownGroups, recorder: FlightRecorder) -> None:
        self._module = module
        self._original = vars(module)["init_process_group"]
        self._known = known
        self._recorder = recorder

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None:
            return None
        given = _bound(self._original, args, kwargs)
        self._claim(agent, given)
        method = given.get("init_method") or "env://"
        step = agent.begin_step(
            "init_process_group",
            deadline_kind="init",
            deadline_s=_share_of(given.get("timeout")),
            label=f"{given.get('backend') or 'default backend'}, {method}",
            site=caller_site(SKIP),
        )
        return agent, step

    def _claim(self, agent: Any, given: dict[str, Any]) -> None:
        global_rank, world_size = given.get("rank", -1), given.get("world_size", -1)
        if isinstance(global_rank, int) and isinstance(world_size, int) and global_rank >= 0:
            agent.record(IdentityClaimed(global_rank=global_rank, world_size=max(world_size, 0)))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        agent, step = token
        if error is None:
            _initialized(agent, self._module, self._known, self._recorder)
        agent.end_step(step, error_text(error))


class _NewGroup:
    """Every call of `new_group`, by members and non-members, with its running number."""

    def __init__(self, known: KnownGroups) -> None:
        self._known = known

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None:
            return None
        ranks = kwargs.get("ranks", args[0] if args else None)
        members = tuple(int(r) for r in ranks) if ranks is not None else None
        self._known.calls += 1
        number = self._known.calls
        description = str(kwargs.get("group_desc") or "")
        site = caller_site(SKIP)
        agent.call_group(
            GroupCalled(number=number, members=members, pg_desc=description, site=site)
        )
        timeout = kwargs.get("timeout", args[1] if len(args) > 1 else None)
        step = agent.begin_step(
            f"new_group #{number}",
            deadline_kind="group",
            deadline_s=_share_of(timeout),
            label=description,
            site=site,
        )
        return agent, step

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        agent, step = token
        if error is None:
            self._known.read(agent)
        agent.end_step(step, error_text(error))


class _SplitGroup:
    def __init__(self, known: KnownGroups) -> None:
        self._known = known

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None:
            return None
        step = agent.begin_step(
            "split_group",
            deadline_kind="group",
            deadline_s=_share_of(kwargs.get("timeout")),
            label=str(kwargs.get("group_desc") or ""),
            site=caller_site(SKIP),
        )
        return agent, step

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        agent, step = token
        if error is None:
            self._known.read(agent)
        agent.end_step(step, error_text(error))


class _NewProcessGroup:
    """The connecting part of any group's creation, also where others call it directly."""

    def __init__(self, known: KnownGroups) -> None:
        self._known = known

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None:
            return None
        name = kwargs.get("group_name", args[5] if len(args) > 5 else "")
        label = f"connects group {name}" if name not in ("", None) else ""
        return agent, agent.begin_step("new_process_group", deadline_kind="group", label=label)

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        agent, step = token
        agent.end_step(step, error_text(error))


class _DestroyProcessGroup:
    def __init__(self, module: ModuleType, known: KnownGroups) -> None:
        self._module = module
        self._known = known

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        group = kwargs.get("group", args[0] if args else None)
        world = group is None or group is self._module.GroupMember.WORLD
        return "" if world else self._module._world.pg_names.get(group, "?")

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        from distwatch.agent import core

        agent = core.current()
        if agent is not None and error is None and isinstance(token, str):
            self._known.forget(token)
            agent.release_group(token)


def _hook_rendezvous(module: ModuleType, patches: PatchSet) -> None:
    """The function returns a generator, and it is the generator's first item that blocks."""
    original = vars(module)["rendezvous"]

    def rendezvous(url: str, rank: int = -1, world_size: int = -1, **kwargs: Any) -> Iterator[Any]:
        iterator = original(url, rank, world_size, **kwargs)
        return _observed_rendezvous(iterator, url)

    rendezvous.__doc__ = original.__doc__
    rendezvous.__module__ = original.__module__
    rendezvous.__qualname__ = original.__qualname__
    rendezvous.__wrapped__ = original  # type: ignore[attr-defined]
    patches.replace(module, "rendezvous", rendezvous)
    # `import torch.distributed.rendezvous` gives the function: the module is only here.
    defining = sys.modules.get("torch.distributed.rendezvous")
    if defining is not None and vars(defining).get("rendezvous") is original:
        patches.replace(defining, "rendezvous", rendezvous)
    rebind_early_imports(patches, original, rendezvous)


def _observed_rendezvous(iterator: Iterator[Any], url: str) -> Iterator[Any]:
    token = guard("torch.distributed.rendezvous", _begin_rendezvous, url)
    try:
        first = next(iterator)
    except BaseException as error:
        guard("torch.distributed.rendezvous", _end_rendezvous, token, error)
        # A generator that has nothing to give ends; it does not raise StopIteration.
        if isinstance(error, StopIteration):
            return
        raise
    guard("torch.distributed.rendezvous", _end_rendezvous, token, None)
    yield first
    yield from iterator


def _begin_rendezvous(url: str) -> Any:
    agent = running_agent()
    return (
        None
        if agent is None
        else (agent, agent.begin_step("rendezvous", deadline_kind="init", label=url))
    )


def _end_rendezvous(token: Any, error: BaseException | None) -> None:
    if token is not None:
        agent, step = token
        agent.end_step(step, error_text(error))
