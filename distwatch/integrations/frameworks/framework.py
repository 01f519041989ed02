"""The base class for a framework with its own parallel state.

A framework's file has one subclass, which says how the state is built, read and destroyed, and ends
with

    framework = Megatron()
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from distwatch.agent import core
from distwatch.agent.core import Agent
from distwatch.agent.guard import caller_site, is_users
from distwatch.agent.initialization.library import Layout
from distwatch.hooks.call_hook import CallHook
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.frameworks import TRIGGERS
from distwatch.integrations.registry import NotApplicable, folders_of, running_agent
from distwatch.integrations.step_hook import Called, StepHook
from distwatch.preflight.plan import ORDER, Plan, validate
from distwatch.state.events import HeldGroup, LayoutHeld, LayoutReleased
from distwatch.state.finding import Finding
from distwatch.state.layouts import TWINS, layout_label
from distwatch.state.steps import GROUP, PARALLEL_STATE

_FRAMES = 8
_FIELDS = {
    "tp": "tensor", "cp": "context", "pp": "pipeline", "ep": "expert", "etp": "expert_tensor",
}  # fmt: skip
"""The field of a plan with the size of an axis."""


class Part(NamedTuple):
    """A process group as the framework holds it.

    Attributes:
        role: the framework's own name for it.
        group: torch's object, from which its name and members are read.
        axis: tp, pp, cp, ep, dp, etp, edp; '' for a group along several axes.
        members: global ranks in the order of the axis, where torch does not know them.
    """

    role: str
    group: Any
    axis: str = ""
    members: tuple[int, ...] = ()


class Framework:
    """One framework. Subclasses set the names and implement `build`, `parts` and `destroy`."""

    name = ""
    """The name in `distwatch.initialize(framework=…)`, and of its integration."""
    packages: tuple[str, ...] = ()
    """Packages whose frames are not the user's; the first one must be installed."""
    distribution = ""
    """What to install, as arguments of pip."""
    initializers: tuple[str, ...] = ()
    """Functions of the module that build the state, or `Class.method`. At least one must exist."""
    destroyers: tuple[str, ...] = ()
    """Functions that destroy it."""
    arguments: Mapping[str, str] = {}
    """For the initializers: by an argument's name, the axis whose size it gives."""

    def __init__(self) -> None:
        self._calls = 0

    # ---- what a framework provides ---------------------------------------------------------

    def build(self, plan: Plan, options: Mapping[str, Any]) -> None:
        """Calls the framework's own initializer. torch's default group exists by then.

        Args:
            options: the user's further arguments, passed to the initializer unchanged.
        """
        raise NotImplementedError

    def parts(self, module: ModuleType) -> Iterable[Part]:
        """The groups that it holds now; none where it is not initialized."""
        raise NotImplementedError

    def destroy(self, module: ModuleType) -> None:
        """Destroys the state; harmless where there is none."""
        for name in self.destroyers:
            getattr(module, name)()

    def asked(self, given: Mapping[str, Any]) -> dict[str, int]:
        """The sizes, by axis, of a call of an initializer; only those that are given.

        Args:
            given: its arguments by name, defaults included.
        """
        asked = {axis: given.get(name) for name, axis in self.arguments.items()}
        return {axis: size for axis, size in asked.items() if isinstance(size, int) and size > 1}

    def order(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Axes from the one whose ranks are closest together; () where the call does not say."""
        return ()

    def planned(self, plan: Plan, options: Mapping[str, Any]) -> Plan:
        """The plan, with the sizes and order from the options."""
        said = {
            _FIELDS[a]: options[n]
            for n, a in self.arguments.items()
            if a in _FIELDS and options.get(n)
        }
        if order := self.order(options):
            said["order"] = order
        return msgspec.structs.replace(plan, **said)

    def size_arguments(self, plan: Plan) -> dict[str, int]:
        """The plan's sizes by the initializers' arguments."""
        sizes = {name: getattr(plan, _FIELDS[axis]) for name, axis in self.arguments.items()}
        return {name: size for name, size in sizes.items() if size is not None}

    def validate(self, plan: Plan, world: int) -> list[Finding]:
        """Findings about a plan for a world of that size, those that stop it first."""
        return validate(plan, world)

    def sizes(self, plan: Plan, world: int | None = None) -> dict[str, int]:
        """The plan's sizes by axis, without those of 1; with the data size of a known world."""
        asked = {axis: getattr(plan, field) or 1 for axis, field in _FIELDS.items()}
        if world is not None:
            asked["dp"] = plan.data_size(world)
        return {axis: size for axis, size in asked.items() if size > 1}

    def note(self, result: Any) -> None:
        """Keeps an initializer's result, where the module itself does not."""

    def hook_more(self, module: ModuleType, patches: PatchSet) -> str:
        """Hooks what else can be observed; returns a remark on what could not be hooked."""
        return ""

    # ---- what every framework gets ---------------------------------------------------------

    def module(self) -> ModuleType:
        """The module of the parallel state, imported."""
        return importlib.import_module(TRIGGERS[self.name])

    def read(self, module: ModuleType) -> tuple[HeldGroup, ...]:
        """Every group that it holds, with role, members and torch's name; () without state."""
        held = [group for part in self.parts(module) if (group := _held(part)) is not None]
        # Destroyers do not delete all groups along several axes.
        return tuple(held) if any(group.axis for group in held) else ()

    def is_left_over(self, module: ModuleType) -> bool:
        """Whether it only holds groups of a world that has been destroyed."""
        parts = list(self.parts(module))
        return bool(parts) and all(_held(part) is None for part in parts)

    def layout(self, module: ModuleType) -> Layout:
        """This rank's group along each axis of more than one rank, or of data.

        Includes the expert layers' own axes where they differ from those of the other layers.
        """
        held = {group.axis: group.members for group in self.read(module) if group.axis}
        return {
            axis: members
            for axis, members in held.items()
            if axis == "dp" or (len(members) > 1 and members != held.get(TWINS.get(axis, "")))
        }

    def apply(self, module: ModuleType, patches: PatchSet) -> str:
        """Hooks initializers and destroyers, and reads the state that already exists."""
        hooks: dict[str, CallHook] = {
            **{name: _Initializes(self, module) for name in self.initializers},
            **{name: _Destroys(self, module) for name in self.destroyers},
        }
        absent = [name for name in hooks if _place(module, name) is None]
        if set(self.initializers) <= set(absent):
            raise NotApplicable(f"{module.__name__} has no {' or '.join(self.initializers)}")
        for name, hook in hooks.items():
            if place := _place(module, name):
                in_module = isinstance(place[0], ModuleType)
                patches.observe(f"{self.name}.{name}", *place, hook, rebinds=in_module)
        remarks = [self.hook_more(module, patches)]
        if absent:
            remarks.append(f"not in this version: {', '.join(absent)}")
        if self.read(module):
            self.hold(module)
            remarks.append("initialized before distwatch was on: that call was not seen")
        return "; ".join(filter(None, remarks))

    def version(self) -> str:
        """From the installed distribution: not all packages have a version themselves."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def begin(self, agent: Agent, given: Mapping[str, Any]) -> int:
        """The step of a call with these arguments, under the group deadline."""
        self._calls += 1
        return agent.begin_step(
            f"{PARALLEL_STATE} #{self._calls}",
            kind=GROUP,
            label=self.label(given),
            site=caller_site(self.folders()),
        )

    def label(self, given: Mapping[str, Any]) -> str:
        """The requested layout, as a text that ranks can compare."""
        order = self.order(given)
        return layout_label(self.name, self.asked(given), order if order != ORDER else ())

    def hold(self, module: ModuleType, given: Mapping[str, Any] | None = None) -> None:
        """Journals the current state, and the call that built it where there was one (`given`)."""
        agent = running_agent()
        groups = self.read(module)
        if agent is None or not groups:
            return
        for group in groups:
            if group.axis:
                agent.amend_group(group.pg_name, axis=group.axis)
        known = agent.retained.get(LayoutHeld, self.name)
        first = known is None or not known.stack
        agent.record(
            LayoutHeld(
                framework=self.name,
                number=self._calls,
                label=self.label(given) if given is not None else "",
                sizes={g.axis: len(g.members) for g in groups if g.axis},
                order=self.order(given or {}),
                # For groups along several axes, torch's own record has the members.
                groups=tuple(
                    g if g.axis else msgspec.structs.replace(g, members=()) for g in groups
                ),
                site=caller_site(self.folders()) if given is not None else None,
                stack=self._stack()
                if given is not None and first
                else known.stack
                if known
                else (),
            )
        )

    def folders(self) -> tuple[str, ...]:
        """Folders whose frames are not the user's."""
        return folders_of("torch", *self.packages)

    def _stack(self) -> tuple[str, ...]:
        skip = self.folders()
        frames = [f for f in traceback.extract_stack() if is_users(f.filename, skip)]
        return tuple(f"{f.filename}:{f.lineno} in {f.name}" for f in frames[-_FRAMES:])


def framework_of(name: str) -> Framework:
    """The framework of that name, which need not be installed."""
    found = importlib.import_module(f"distwatch.integrations.frameworks.{name}").framework
    if not isinstance(found, Framework):
        raise TypeError(f"{name} offers no framework")
    return found


def accepted(call: Callable[..., Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `wanted` that this version's signature accepts."""
    parameters = inspect.signature(call).parameters
    return {name: value for name, value in wanted.items() if name in parameters}


def _place(module: ModuleType, name: str) -> tuple[Any, str] | None:
    """Where a function or method (`Class.method`) of the module is defined; None if it is not."""
    *owners, attribute = name.split(".")
    owner: Any = module
    for one in owners:
        owner = vars(owner).get(one)
    return (owner, attribute) if owner is not None and attribute in vars(owner) else None


class _Initializes(StepHook):
    """A call that builds the state: a step under the group deadline, and the resulting state."""

    def __init__(self, framework: Framework, module: ModuleType) -> None:
        self._framework = framework
        self._module = module

    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        return Called(agent, self._framework.begin(agent, given), given=given)

    def hold(self, called: Called, result: Any) -> None:
        self._framework.note(result)
        self._framework.hold(self._module, called.given)


class _Destroys(CallHook):
    """A call that destroys the state."""

    def __init__(self, framework: Framework, module: ModuleType) -> None:
        self._framework = framework
        self._module = module

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        agent = core.current()
        if error is not None or agent is None or self._framework.read(self._module):
            return
        if agent.retained.get(LayoutHeld, self._framework.name) is not None:
            agent.record(LayoutReleased(framework=self._framework.name))


def _held(part: Part) -> HeldGroup | None:
    """None for a group that torch has destroyed: frameworks keep such groups."""
    c10d: Any = sys.modules["torch.distributed.distributed_c10d"]
    name = c10d._world.pg_names.get(part.group)
    if name is None:
        return None
    members = part.members or tuple(int(r) for r in c10d.get_process_group_ranks(part.group))
    return HeldGroup(role=part.role, axis=part.axis, pg_name=str(name), members=members)
