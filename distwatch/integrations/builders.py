"""Builders of groups on top of a world: a device mesh, or a framework's own initializer."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

from distwatch.agent import core
from distwatch.agent.initialization.environment import backend_unavailable
from distwatch.agent.initialization.library import Layout
from distwatch.errors import AlreadyInitialized, PlanInvalid
from distwatch.integrations.frameworks import TRIGGERS
from distwatch.integrations.frameworks.framework import Framework
from distwatch.integrations.registry import running_agent
from distwatch.integrations.torch_devices import device_of
from distwatch.preflight.plan import Plan
from distwatch.state.events import InitPlanned, LayoutHeld
from distwatch.state.finding import Evidence, Finding
from distwatch.state.layouts import sizes_text

Axes = tuple[tuple[str, int], ...]
"""Outermost first."""


class Builder:
    """Builds the groups of one framework, once torch's default group exists."""

    mesh: Any = None
    """The device mesh, where the builder makes one."""

    def prepare(self) -> None:
        """Imports what will be needed, before any rank waits for another.

        Raises:
            PlanInvalid: it is not installed, or cannot be imported.
        """

    def held(self) -> Layout | None:
        """The groups along each axis that other code has built already; None where there are none.

        Raises:
            AlreadyInitialized: they have other sizes.
        """
        return None

    def build(self, plan: InitPlanned) -> Layout:
        """Builds the groups; returns this rank's group along each axis."""
        raise NotImplementedError

    def roles(self) -> dict[str, tuple[int, ...]]:
        """Every group that it holds, by its own name for the group."""
        raise NotImplementedError

    def holds(self) -> bool:
        """Whether the groups still exist: other code may have destroyed them."""
        raise NotImplementedError

    def undo(self) -> None:
        """Destroys the groups; harmless where there are none."""
        raise NotImplementedError


class MeshBuilder(Builder):
    """A `DeviceMesh`."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes

    def build(self, plan: InitPlanned) -> Layout:
        """Builds the mesh; its axes are named, the outermost first."""
        from torch.distributed.device_mesh import init_device_mesh

        names = tuple(name for name, _ in self._axes)
        sizes = tuple(size for _, size in self._axes)
        self.mesh = init_device_mesh(device_of(plan.backend).type, sizes, mesh_dim_names=names)
        return self.roles()

    def roles(self) -> Layout:
        """The groups along the axes; a mesh has no others."""
        import torch.distributed as dist

        return {
            name: tuple(dist.get_process_group_ranks(self.mesh.get_group(name)))
            for name, _ in (self._axes if self.mesh is not None else ())
        }

    def holds(self) -> bool:
        """A mesh exists until it is undone."""
        return self.mesh is not None

    def undo(self) -> None:
        """Destroys the last one built first."""
        import torch.distributed as dist

        mesh, self.mesh = self.mesh, None
        for name, _ in reversed(self._axes if mesh is not None else ()):
            group = mesh.get_group(name)
            if group is not dist.group.WORLD:
                dist.destroy_process_group(group)


class FrameworkBuilder(Builder):
    """A framework's parallel state, built by the framework's own initializer."""

    def __init__(self, framework: Framework, plan: Plan, options: Mapping[str, Any]) -> None:
        self.framework = framework
        self._plan = plan
        self._options = dict(options)

    def prepare(self) -> None:
        """Imports the module that holds the state, which takes seconds for some frameworks."""
        name, package = self.framework.name, self.framework.packages[0]
        try:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}")
            self.framework.module()
        except ImportError as error:
            what = f"framework={name!r} cannot be imported: {error}"
            advice = f"pip install {self.framework.distribution}, in the environment of this job."
            agent = core.current()
            rank = agent.started.identity.global_rank if agent is not None else None
            raise PlanInvalid(what, finding=backend_unavailable(what, advice, rank)) from error

    def held(self) -> Layout | None:
        """The framework's state, which the job itself has built."""
        held = self.framework.layout(self.framework.module())
        if held:
            self._compare(held)
        return held or None

    def build(self, plan: InitPlanned) -> Layout:
        """Builds the state, or uses the existing one if it has these sizes."""
        if (held := self.held()) is not None:
            return held
        module = self.framework.module()
        if self.framework.is_left_over(module):
            self.framework.destroy(module)
        self.framework.build(self._plan, self._options)
        return self.framework.layout(module)

    def roles(self) -> dict[str, tuple[int, ...]]:
        """By the framework's own names."""
        return {group.role: group.members for group in self.framework.read(self.framework.module())}

    def holds(self) -> bool:
        """Whether the framework's module has any groups."""
        module = sys.modules.get(TRIGGERS[self.framework.name])
        return module is not None and bool(self.framework.read(module))

    def undo(self) -> None:
        """Calls the framework's own destroyer if there are groups."""
        if self.holds():
            self.framework.destroy(self.framework.module())

    def _compare(self, held: Layout) -> None:
        asked = self.framework.sizes(self._plan)
        holds = {axis: len(members) for axis, members in held.items()}
        if all(holds.get(axis, 1) == asked.get(axis, 1) for axis in ("tp", "cp", "pp", "ep")):
            return
        name = self.framework.name
        raise already_initialized(
            f"{name} {sizes_text(holds)}, initialized by the job itself",
            f"{name} {sizes_text(asked)}",
            first_call(name),
        )


def already_initialized(held: str, asked: str, stack: tuple[str, ...]) -> AlreadyInitialized:
    """The exception, with both plans and the stack of the first call."""
    where = "".join(stack[-1:]).strip()
    finding = Finding(
        code="group.already_initialized",
        severity="warning",
        summary=f"this process already has a world ({held}), and another one was requested ({asked})",
        advice="Close the first world before forming another, or initialize once.",
        evidence=tuple(Evidence("stack", line.strip()) for line in stack[-8:]),
    )
    message = f"this process already has a world with another plan: {held}; requested now: {asked}"
    if stack:
        message += f"; the first call was at {where}"
    return AlreadyInitialized(message, held=held, asked=asked, first_call=stack, finding=finding)


def first_call(framework: str) -> tuple[str, ...]:
    """The stack of the call that built a framework's state, where it was seen."""
    agent = running_agent()
    known = agent.retained.get(LayoutHeld, framework) if agent is not None else None
    return known.stack if known is not None else ()
