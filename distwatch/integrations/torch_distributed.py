"""torch.distributed: initialization, process groups, collectives.

The hooks are in the defining module, so that `torch.distributed` re-exports the hooked functions;
names that were bound earlier are found and rebound.
"""

from __future__ import annotations

from datetime import timedelta
from types import ModuleType
from typing import Any

from distwatch.agent import core
from distwatch.agent.core import Agent
from distwatch.agent.guard import guard
from distwatch.agent.initialization.plan import read_plan
from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet
from distwatch.integrations import torch_collectives, torch_deadlines, torch_rendezvous
from distwatch.integrations.call_counts import Counts
from distwatch.integrations.registry import running_agent, site_outside
from distwatch.integrations.step_hook import Called, StepHook
from distwatch.integrations.torch_deadlines import TIMEOUT_SHARE
from distwatch.integrations.torch_groups import KnownGroups, members_of_call
from distwatch.integrations.torch_recorder import FlightRecorder, records_gloo
from distwatch.integrations.torch_rendezvous import NewProcessGroup
from distwatch.redaction import redact_text
from distwatch.settings import read_settings
from distwatch.state.events import (
    GroupCalled,
    GroupDestroyed,
    IdentityConfirmed,
    LocalGroupCalled,
    NonMemberCalled,
    Site,
)
from distwatch.state.steps import GROUP, INIT


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `torch.distributed.distributed_c10d`."""
    if (on_hang := read_settings().on_hang) != "report":
        torch_deadlines.supervise(module, patches, on_hang)
    known = KnownGroups(module)
    counts = torch_collectives.apply(module, patches, known, unrecorded=not records_gloo())
    recorder = FlightRecorder(known, counts)
    patches.when_undone(lambda: _stop_polling(recorder))
    hooks: dict[str, CallHook] = {
        "init_process_group": _InitProcessGroup(module, known, recorder),
        "new_group": _NewGroup(known),
        "split_group": _SplitGroup(known),
        "destroy_process_group": _DestroyProcessGroup(module, known, counts, recorder),
        "_new_process_group_helper": NewProcessGroup(known),
        "_store_based_barrier": _StoreBarrier(),
        "_warn_not_in_group": _WarnNotInGroup(),
    }
    absent = [name for name in hooks if not hasattr(module, name)]
    for name, hook in hooks.items():
        if name not in absent:
            patches.observe(f"torch.distributed.{name}", module, name, hook, rebinds=True)
    if "rendezvous" in vars(module):
        torch_rendezvous.hook_rendezvous(module, patches, known)
    else:
        absent.append("rendezvous")
    torch_rendezvous.hook_constructors(patches, known)
    remarks = [f"not in this torch: {', '.join(absent)}"] if absent else []
    if module.is_initialized():
        guard("late arming", _take_over, module, known, recorder)
        remarks.append("initialized before distwatch was on: that call was not seen")
    return "; ".join(remarks)


def _stop_polling(recorder: FlightRecorder) -> None:
    if agent := core.current():
        agent.progress_sources[:] = [s for s in agent.progress_sources if s != recorder.progress]
        agent.dump_sources[:] = [s for s in agent.dump_sources if s != recorder.dump]


def _take_over(module: ModuleType, known: KnownGroups, recorder: FlightRecorder) -> None:
    if agent := running_agent():
        _initialized(agent, module, known, recorder)


def _initialized(
    agent: Agent, module: ModuleType, known: KnownGroups, recorder: FlightRecorder
) -> None:
    recorder.attach(agent)
    known.read(agent)
    _confirm(agent, module)


def _confirm(agent: Any, module: ModuleType) -> None:
    rank, size = module.get_rank(), module.get_world_size()
    unrecorded = () if records_gloo() else ("gloo",)
    agent.record(IdentityConfirmed(global_rank=rank, world_size=size, unrecorded=unrecorded))


def _share_of(timeout: object) -> float | None:
    if isinstance(timeout, timedelta) and timeout.total_seconds() > 0:
        return timeout.total_seconds() * TIMEOUT_SHARE
    return None


class _InitProcessGroup(StepHook):
    """The step of a whole initialization, and the confirmed identity after it."""

    def __init__(self, module: ModuleType, known: KnownGroups, recorder: FlightRecorder) -> None:
        self._module = module
        self._known = known
        self._recorder = recorder

    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        site = site_outside("torch")
        # `distwatch.initialize` has journaled its own plan, which is more complete.
        if not agent.is_initializing:
            agent.plan_init(read_plan(given, site=site))
        self._known.initializing = True
        method = given.get("init_method") or "env://"
        step = agent.begin_step(
            "init_process_group",
            kind=INIT,
            deadline_s=_share_of(given.get("timeout")),
            label=redact_text(f"{given.get('backend') or 'default backend'}, {method}"),
            site=site,
        )
        return Called(agent, step)

    def hold(self, called: Called, result: Any) -> None:
        _initialized(called.agent, self._module, self._known, self._recorder)

    def after(self, token: Called, result: Any, error: BaseException | None) -> None:
        self._known.initializing = False
        if error is not None and self._module.is_initialized():
            # A second call was rejected: the world of the first one still exists.
            _confirm(token.agent, self._module)
        super().after(token, result, error)


class _MakesGroup(StepHook):
    """A call that returns a process group, which is read once it exists."""

    def __init__(self, known: KnownGroups) -> None:
        self._known = known

    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        site = site_outside("torch")
        step = agent.begin_step(
            self._name(agent, given, site),
            kind=GROUP,
            deadline_s=_share_of(given.get("timeout")),
            label=str(given.get("group_desc") or ""),
            site=site,
        )
        return Called(agent, step, site)

    def hold(self, called: Called, result: Any) -> None:
        self._known.read(called.agent, result, called.site)

    def _name(self, agent: Agent, given: dict[str, Any], site: Site | None) -> str:
        raise NotImplementedError


class _NewGroup(_MakesGroup):
    """Every call of `new_group`, by members and non-members, with its running number."""

    def _name(self, agent: Agent, given: dict[str, Any], site: Site | None) -> str:
        """Calls that only members make have no number, since ranks could not compare it."""
        if given.get("use_local_synchronization"):
            self._known.local_calls += 1
            agent.record(
                LocalGroupCalled(
                    number=self._known.local_calls,
                    members=members_of_call(given.get("ranks")),
                    held=self._known.held,
                    pg_desc=str(given.get("group_desc") or ""),
                    site=site,
                )
            )
            return "new_group (members only)"
        self._known.calls += 1
        agent.record(
            GroupCalled(
                number=self._known.calls,
                members=members_of_call(given.get("ranks")),
                pg_desc=str(given.get("group_desc") or ""),
                site=site,
            )
        )
        return f"new_group #{self._known.calls}"


class _SplitGroup(_MakesGroup):
    def _name(self, agent: Agent, given: dict[str, Any], site: Site | None) -> str:
        return "split_group"


class _StoreBarrier(StepHook):
    """The barrier of all ranks after a group's creation, in versions of torch that have it."""

    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        step = agent.begin_step(
            "store barrier",
            kind=GROUP,
            deadline_s=_share_of(given.get("timeout")),
            label=f"group {given.get('group_name', '?')}",
        )
        return Called(agent, step)


class _WarnNotInGroup(CallHook):
    """torch warns, and does nothing, where a rank uses a group that it is not in.

    Journaled once for each call site, up to a limit: there may be such a call in every step.
    """

    def __init__(self) -> None:
        self._seen: set[NonMemberCalled] = set()

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if agent := running_agent():
            op = str(argument(args, kwargs, 0, "op_name") or "?")
            called = NonMemberCalled(op=op, site=site_outside("torch"))
            if called not in self._seen and len(self._seen) < NonMemberCalled.retain.most:
                self._seen.add(called)
                agent.record(called)


class _DestroyProcessGroup(CallHook):
    def __init__(
        self, module: ModuleType, known: KnownGroups, counts: Counts, recorder: FlightRecorder
    ) -> None:
        self._module = module
        self._known = known
        self._counts = counts
        self._recorder = recorder

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        group = argument(args, kwargs, 0, "group")
        world = group is None or group is self._module.GroupMember.WORLD
        return "" if world else str(self._module._world.pg_names.get(group, "?"))

    def after(self, token: str, result: Any, error: BaseException | None) -> None:
        if error is not None:
            return
        self._recorder.forget(token)
        self._counts.forget(token)
        self._known.forget(token)
        if agent := core.current():
            agent.record(GroupDestroyed(pg_name=token))
