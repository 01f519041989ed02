"""torch.distributed: initialization, process groups, collectives.

Hooks the module that defines the functions, so that `torch.distributed` re-exports what is
hooked; names that were bound earlier are found and rebound.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

from distwatch.agent.guard import caller_site, error_text, guard
from distwatch.agent.initialization.plan import read_plan
from distwatch.hooks.call_hook import observe
from distwatch.hooks.patch import PatchSet
from distwatch.hooks.rebinding import rebind_early_imports
from distwatch.integrations import torch_collectives, torch_deadlines, torch_rendezvous
from distwatch.integrations.registry import folders_of, running_agent
from distwatch.integrations.torch_collectives import Counts
from distwatch.integrations.torch_deadlines import TIMEOUT_SHARE
from distwatch.integrations.torch_groups import KnownGroups, members_of_call
from distwatch.integrations.torch_recorder import FlightRecorder
from distwatch.integrations.torch_rendezvous import NewProcessGroup
from distwatch.redaction import redact_text
from distwatch.settings import read_settings
from distwatch.state.events import GroupCalled, InitPlanned, NonMemberCalled, Site

_known: KnownGroups | None = None
_recorder: FlightRecorder | None = None


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `torch.distributed.distributed_c10d`."""
    global _known, _recorder
    if (on_hang := read_settings().on_hang) != "report":
        torch_deadlines.supervise(module, patches, on_hang)
    known = _known = KnownGroups(module)
    counts = torch_collectives.apply(module, patches, known)
    recorder = _recorder = FlightRecorder(known, counts)
    observers: dict[str, Any] = {
        "init_process_group": _InitProcessGroup(module, known, recorder),
        "new_group": _NewGroup(module, known),
        "split_group": _SplitGroup(module, known),
        "destroy_process_group": _DestroyProcessGroup(module, known, counts, recorder),
        "_new_process_group_helper": NewProcessGroup(module, known),
        "_store_based_barrier": _StoreBarrier(module),
        "_warn_not_in_group": _WarnNotInGroup(),
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
        torch_rendezvous.hook_rendezvous(module, patches, known)
    else:
        absent.append("rendezvous")
    torch_rendezvous.hook_constructors(patches, known)
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


def bound(
    original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, as far as they fit its signature."""
    try:
        return dict(inspect.signature(original).bind_partial(*args, **kwargs).arguments)
    except TypeError:
        return kwargs  # the user's mistake, of which the original tells them


def _site() -> Site | None:
    return caller_site(folders_of("torch"))


def _plan_of(given: dict[str, Any], site: Site | None) -> InitPlanned:
    timeout = given.get("timeout")
    return read_plan(
        backend=given.get("backend"),
        init_method=given.get("init_method"),
        store=given.get("store"),
        global_rank=given.get("rank"),
        world_size=given.get("world_size"),
        timeout_s=timeout.total_seconds() if isinstance(timeout, timedelta) else None,
        site=site,
    )


def _share_of(timeout: object) -> float | None:
    if isinstance(timeout, timedelta) and timeout.total_seconds() > 0:
        return timeout.total_seconds() * TIMEOUT_SHARE
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
        given = bound(self._original, args, kwargs)
        site = _site()
        # `distwatch.initialize` has stated its own plan, which says more.
        if not agent.is_initializing:
            agent.plan_init(_plan_of(given, site))
        self._known.initializing = True
        method = given.get("init_method") or "env://"
        step = agent.begin_step(
            "init_process_group",
            deadline_kind="init",
            deadline_s=_share_of(given.get("timeout")),
            label=redact_text(f"{given.get('backend') or 'default backend'}, {method}"),
            site=site,
        )
        return agent, step

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        self._known.initializing = False
        if token is None:
            return
        agent, step = token
        if error is None:
            _initialized(agent, self._module, self._known, self._recorder)
        elif self._module.is_initialized():
            # A second call was refused: what the first one formed still holds.
            agent.confirm(self._module.get_rank(), self._module.get_world_size())
        agent.end_step(step, error_text(error))


class _MakesGroup:
    """A call that returns a process group, which is read once it holds."""

    function = ""

    def __init__(self, module: ModuleType, known: KnownGroups) -> None:
        self._original = vars(module).get(self.function)
        self._known = known

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is None:
            return
        agent, step, site = token
        if error is None:
            self._known.read(agent, result, site)
        agent.end_step(step, error_text(error))


class _NewGroup(_MakesGroup):
    """Every call of `new_group`, by members and non-members, with its running number."""

    function = "new_group"

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None or self._original is None:
            return None
        given = bound(self._original, args, kwargs)
        description = str(given.get("group_desc") or "")
        site = _site()
        step = agent.begin_step(
            self._count(agent, given, description, site),
            deadline_kind="group",
            deadline_s=_share_of(given.get("timeout")),
            label=description,
            site=site,
        )
        return agent, step, site

    def _count(self, agent: Any, given: dict[str, Any], description: str, site: Any) -> str:
        """The step's name. Calls that only members make have no number that ranks could compare."""
        if given.get("use_local_synchronization"):
            return "new_group (members only)"
        self._known.calls += 1
        agent.call_group(
            GroupCalled(
                number=self._known.calls,
                members=members_of_call(given.get("ranks")),
                pg_desc=description,
                site=site,
            )
        )
        return f"new_group #{self._known.calls}"


class _SplitGroup(_MakesGroup):
    function = "split_group"

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None or self._original is None:
            return None
        given = bound(self._original, args, kwargs)
        site = _site()
        step = agent.begin_step(
            "split_group",
            deadline_kind="group",
            deadline_s=_share_of(given.get("timeout")),
            label=str(given.get("group_desc") or ""),
            site=site,
        )
        return agent, step, site


class _StoreBarrier:
    """Where every rank waits for all others after a group's creation, if torch does that at all."""

    def __init__(self, module: ModuleType) -> None:
        self._original = vars(module).get("_store_based_barrier")

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        agent = running_agent()
        if agent is None or self._original is None:
            return None
        given = bound(self._original, args, kwargs)
        return agent, agent.begin_step(
            "store barrier",
            deadline_kind="group",
            deadline_s=_share_of(given.get("timeout")),
            label=f"group {given.get('group_name', '?')}",
        )

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if token is not None:
            agent, step = token
            agent.end_step(step, error_text(error))


class _WarnNotInGroup:
    """torch says this, and does nothing, where a rank uses a group that it is not in."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if agent := running_agent():
            op = str(kwargs.get("op_name", args[0] if args else "?"))
            agent.note_non_member(NonMemberCalled(op=op, site=_site()))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        """It returns at once."""


class _DestroyProcessGroup:
    def __init__(
        self, module: ModuleType, known: KnownGroups, counts: Counts, recorder: FlightRecorder
    ) -> None:
        self._module = module
        self._known = known
        self._counts = counts
        self._recorder = recorder

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        group = kwargs.get("group", args[0] if args else None)
        world = group is None or group is self._module.GroupMember.WORLD
        return "" if world else self._module._world.pg_names.get(group, "?")

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        from distwatch.agent import core

        if error is not None or not isinstance(token, str):
            return
        self._recorder.forget(token)
        self._counts.forget(token)
        self._known.forget(token)
        if agent := core.current():
            agent.release_group(token)
