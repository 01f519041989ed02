"""`distwatch.initialize`: forms the world under deadlines, once, and returns it."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import traceback
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from distwatch.agent import core
from distwatch.agent.core import Agent
from distwatch.agent.initialization.environment import Launched
from distwatch.agent.initialization.initializer import Initializer
from distwatch.agent.initialization.library import Formed, Layout
from distwatch.agent.initialization.steps import Deadlines
from distwatch.errors import DistwatchError
from distwatch.integrations.additions import add_groups
from distwatch.integrations.builders import (
    Builder,
    already_initialized,
    first_call,
)
from distwatch.integrations.ray_rendezvous import meet_in_ray, read_endpoint, telling_driver
from distwatch.integrations.registry import running_agent
from distwatch.integrations.required import import_required
from distwatch.integrations.torch_library import TorchLibrary
from distwatch.integrations.world_plan import (
    Asked,
    describe,
    framework_terms,
    plan_world,
    require_known,
    require_place,
    seconds_of,
    world_terms,
)
from distwatch.settings import read_settings
from distwatch.state.events import FindingRaised, InitPlanned
from distwatch.visible_text import say

_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_lock = threading.Lock()
_held: World | None = None
_formed = 0


class World:
    """A formed world: `rank`, `size`, `groups`. A context manager that closes it.

    Attributes:
        groups: this rank's groups, `world` and one for each axis: members in the order of the axis.
        layouts: the same by framework, where one world has several.
        mesh: the device mesh of `framework="mesh"`, else None.
        plan: the plan that formed it.
        without: ranks that do not use `distwatch.initialize`; if there are any, the first round trip is
            skipped, since they would not take part.
    """

    def __init__(self, formed: Formed, library: TorchLibrary, stack: tuple[str, ...]) -> None:
        self._library = library
        self._stack = stack
        self._leave = formed.leave
        self._plans = {formed.plan.framework: formed.plan}
        self.rank = formed.launched.global_rank or 0
        self.size = formed.launched.world_size or 1
        self.local_rank = formed.launched.local_rank
        self.backend = formed.plan.backend
        self.plan = formed.plan
        self.mesh = library.builders[0].mesh if library.builders else None
        self.without = formed.without
        self.groups = {"world": tuple(range(self.size)), **formed.layout}
        self.layouts: dict[str, Layout] = {}
        if formed.plan.framework:
            self.layouts[formed.plan.framework] = formed.layout

    @property
    def roles(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Every group of each framework, by the framework's own name for the group."""
        builders = zip(self.layouts, self._library.builders, strict=False)
        return {framework: builder.roles() for framework, builder in builders}

    @property
    def closed(self) -> bool:
        """Whether the world has been destroyed."""
        return _held is not self

    def close(self) -> None:
        """Destroys its groups, the last built first. Idempotent; then another world can be formed."""
        global _held
        with _lock:
            if self.closed:
                return
            self._library.undo()
            self._leave()
            self.mesh = None
            _held = None

    def _add(self, asked: Asked, builder: Builder, layout: Layout) -> None:
        """Takes in another framework's groups."""
        self.mesh = self.mesh or builder.mesh
        self._library.builders.append(builder)
        self._plans[asked.plan.framework] = asked.plan
        self.layouts[asked.plan.framework] = layout
        if len(self.layouts) == 1:
            self.groups.update(layout)

    def release(self, framework: str) -> None:
        """Destroys one framework's groups and keeps the world. Call it on every rank."""
        import torch.distributed as dist

        # In gloo, a rank fails if its peer destroys a group that the rank is still connecting.
        dist.barrier()
        builders = dict(zip(self.layouts, self._library.builders, strict=True))
        builders[framework].undo()
        self._forget_destroyed()

    def _forget_destroyed(self) -> None:
        """Frameworks whose groups the user destroyed can be built again, with other sizes."""
        for name, builder in list(zip(self.layouts, self._library.builders, strict=True)):
            if not builder.holds():
                self._library.builders.remove(builder)
                del self._plans[name]
                for axis in self.layouts.pop(name):
                    self.groups.pop(axis, None)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        axes = "".join(f", {name} {list(r)}" for name, r in self.groups.items() if name != "world")
        return f"<World rank {self.rank} of {self.size}, {self.backend}{axes}>"


def initialize(
    backend: str | None = None,
    framework: str | None = None,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    context: int = 1,
    expert: int = 1,
    data: int | None = None,
    axes: Mapping[str, int] | None = None,
    options: Mapping[str, Any] | None = None,
    deadlines: Mapping[str, float] | None = None,
    timeout: timedelta | float | None = None,
    init_method: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    **unknown: Any,
) -> World:
    """Forms the world of this job, step by step, each step under its deadline.

    Again with the same plan, it does nothing and returns the same world. It can add a framework's
    groups to an existing world, including a world that torch itself formed.

    Args:
        backend: gloo, nccl, xla or anything torch knows; default: by this process's device.
        framework: whose groups to build on top: None for none, "mesh" for a `DeviceMesh`,
            "megatron" and others by their own initializers.
        tensor, pipeline, context, expert, data: sizes of the framework's axes; `data` is by default the
            quotient that remains.
        axes: of a mesh, with your own names, the outermost first, instead of those sizes.
        options: further arguments for the framework's own initializer, by its names.
        deadlines: seconds by step (endpoint, store, arrival, agreement, group, round_trip,
            framework, layouts) and `init` for all of them together (default: DISTWATCH_DEADLINES).
        timeout: of later collectives, in seconds; default: torch's own.
        init_method, rank, world_size: as in `init_process_group`; default: from the environment of
            torchrun, Slurm, MPI or a plain one. Without any: a world of one.
            In Ray actors, rank 0's actor chooses the endpoint where nothing names one;
            `ray://name` does the same for one of several worlds in a job.

    Raises:
        PlanInvalid: no world of this size can be built from this plan, or there is no torch.
        InitTimeout: a step did not end in time; it names who arrived, who did not, and where they are.
        InitFailed: the ranks disagree, or this one cannot join; `.finding` says why.
        AlreadyInitialized: this process already has a world with another plan.
    """
    global _held, _formed
    require_known(unknown)
    held_endpoint = _held.plan.endpoint if _held is not None else None
    launched, ray_world = read_endpoint(init_method, rank, world_size, held_endpoint)
    sizes = {
        "tensor": tensor, "pipeline": pipeline, "context": context, "expert": expert, "data": data,
    }  # fmt: skip
    with _lock:
        with _on_record():
            limit_s, known = seconds_of(timeout), _standing(launched)
            require_place(known, to_compare=framework is not None and ray_world is None)
            with telling_driver(known):
                asked = plan_world(known, backend, framework, sizes, axes, options, limit_s)
            limits = Deadlines(deadlines, read_settings().deadlines)
            if (held := _already(asked, limits)) is not None:
                return held
        library = TorchLibrary(limit_s, asked.builder)
        formed = _form(asked, launched, ray_world, limits, library)
        _formed += 1
        atexit.register(formed.leave)
        _held = World(formed, library, _users_stack())
        return _held


def _form(
    asked: Asked,
    launched: Launched,
    ray_world: str | None,
    limits: Deadlines,
    library: TorchLibrary,
) -> Formed:
    agent, plan = _activated_agent(), asked.plan
    with _on_record():
        if asked.builder is not None:
            asked.builder.prepare()
    if agent is not None:
        plan = agent.plan_init(plan)
        agent.is_initializing = True
    try:
        if ray_world is not None:
            launched = meet_in_ray(launched, ray_world, _formed, limits, agent)
            plan = msgspec.structs.replace(plan, endpoint=launched.endpoint)
            if agent is not None:
                agent.record(plan)
            plan = msgspec.structs.replace(plan, method="env")
        return Initializer(launched, plan, limits, library, agent, _formed).run()
    except BaseException:
        _undo_quietly(library)
        raise
    finally:
        if agent is not None:
            agent.is_initializing = False


def held_world() -> World | None:
    """The world that `initialize` has formed, if it still exists."""
    import torch.distributed as dist

    return _held if dist.is_initialized() else None


def add_framework(
    world: World,
    backend: str | None,
    framework: str,
    sizes: Mapping[str, int],
    deadlines: Mapping[str, float] | None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Builds a framework's groups in an existing world; a no-op where it has them.

    Raises:
        AlreadyInitialized: the world has them with other sizes, or has another backend.
        InitTimeout, InitFailed: as from `initialize`.
    """
    terms = world.plan
    launched = Launched(
        global_rank=terms.global_rank,
        world_size=terms.world_size,
        method=terms.method,
        endpoint=terms.endpoint,
    )
    whole = {"tensor": 1, "pipeline": 1, "context": 1, "expert": 1, "data": None, **sizes}
    with _lock, _on_record():
        limits = Deadlines(deadlines, read_settings().deadlines)
        asked = plan_world(
            launched, backend or world.backend, framework, whole, None, options, terms.timeout_s
        )
        _already(asked, limits)


@contextlib.contextmanager
def _on_record() -> Iterator[None]:
    """Journals an error's finding, since the caller may catch the error."""
    try:
        yield
    except DistwatchError as error:
        agent = core.current()
        if agent is not None and error.finding is not None:
            agent.record(FindingRaised(finding=error.finding, step="initialize"))
        raise


def _standing(launched: Launched) -> Launched:
    """Fills in what torch already knows, where the environment does not say."""
    dist = import_required("torch.distributed", "distwatch.initialize", "torch")

    if launched.method != "alone" or not dist.is_initialized():
        return launched
    return msgspec.structs.replace(
        launched, global_rank=dist.get_rank(), world_size=dist.get_world_size()
    )


def _already(asked: Asked, limits: Deadlines) -> World | None:
    """The existing world, where it has that plan, or gets it by adding a framework.

    Raises:
        AlreadyInitialized: it has another plan.
        InitTimeout, InitFailed: the framework's groups cannot be added.
    """
    global _held
    import torch.distributed as dist

    if not dist.is_initialized():
        _held = None  # other code destroyed it
        return None
    if _held is None:
        return _adopt(asked, limits)
    _held._forget_destroyed()
    held, plan = _held._plans.get(asked.plan.framework), asked.plan
    if held is not None and world_terms(held) == world_terms(plan):
        if framework_terms(held) == framework_terms(plan):
            return _held
    elif held is None and world_terms(_held.plan) == world_terms(plan) and asked.builder:
        _extend(_held, asked, asked.builder, limits)
        return _held
    stack = first_call(plan.framework) if held is not None else ()
    raise already_initialized(describe(held or _held.plan), describe(plan), stack or _held._stack)


def _extend(world: World, asked: Asked, builder: Builder, limits: Deadlines) -> None:
    """Builds a framework's groups in an existing world; a failure changes nothing."""
    layout = add_groups(asked.plan, builder, limits, _activated_agent(), _formed)
    world._add(asked, builder, layout)


def _adopt(asked: Asked, limits: Deadlines) -> World:
    """torch was initialized without distwatch: the plan is the same if torch holds what is requested."""
    global _held
    import torch.distributed as dist

    rank, size, backend = dist.get_rank(), dist.get_world_size(), str(dist.get_backend())
    agent, plan = running_agent(), asked.plan
    first = agent.retained.get(InitPlanned) if agent is not None else None
    stack = (str(first.site),) if first is not None and first.site else ()
    another = (plan.world_size or size) != size or plan.global_rank not in (None, rank)
    if another or backend != plan.backend:
        held = f"rank {rank} of {size}, {backend}, formed by init_process_group itself"
        raise already_initialized(held, describe(plan), stack)
    launched = Launched(global_rank=rank, world_size=size, method="env")
    bare = msgspec.structs.replace(plan, framework="", sizes={}, order=())
    formed = Formed(launched=launched, plan=bare, layout={}, leave=lambda: None)
    world = World(formed, TorchLibrary(None, None), stack)
    if asked.builder is not None:
        _extend(world, asked, asked.builder, limits)
        _held = world
    return world


def _activated_agent() -> Agent | None:
    """Turns distwatch on, unless it is switched off: then the world forms without a journal."""
    if read_settings().enabled is False:
        return None
    import distwatch.auto  # noqa: F401

    return running_agent()


def _undo_quietly(library: TorchLibrary) -> None:
    # A half-built world must not prevent the next attempt; the reason is already being raised.
    try:
        library.undo()
    except Exception as error:
        say(f"could not destroy the groups of the failed initialization: {error}")


def _users_stack() -> tuple[str, ...]:
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith(_OURS)]
    return tuple(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
