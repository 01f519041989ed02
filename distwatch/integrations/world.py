"""`distwatch.initialize`: forms the world under deadlines, once, and gives back what holds."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from distwatch.agent import core
from distwatch.agent.core import Agent
from distwatch.agent.environment import Launched, read_environment
from distwatch.agent.guard import caller_site
from distwatch.agent.initializer import Initializer
from distwatch.agent.library import Formed
from distwatch.agent.plan import COMMUNICATION_VARIABLES, interfaces, versions
from distwatch.agent.steps import Deadlines
from distwatch.errors import AlreadyInitialized, DistwatchError, PlanInvalid
from distwatch.integrations.registry import folders_of, running_agent
from distwatch.integrations.torch_devices import device_identity
from distwatch.integrations.torch_library import TorchLibrary, axes_of, choose_backend
from distwatch.preflight.plan import Plan, validate
from distwatch.settings import read_settings
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence, Finding

FRAMEWORKS = ("mesh",)
_PLANNED = ("megatron", "sglang", "neuron")
_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_lock = threading.Lock()
_held: World | None = None
_formed = 0


class World:
    """A world that holds: `rank`, `size`, `groups`. A context manager that closes it.

    Attributes:
        groups: this rank's groups, `world` and one for each axis: members in the order of the axis.
        mesh: the device mesh of `framework="mesh"`, else None.
        plan: what it was formed by.
        without: ranks that came without `distwatch.initialize`; with them the first round trip
            was left out, since they would not have made it.
    """

    def __init__(self, formed: Formed, library: TorchLibrary, stack: tuple[str, ...]) -> None:
        self._library = library
        self._stack = stack
        self._leave = formed.leave
        self.rank = formed.launched.global_rank or 0
        self.size = formed.launched.world_size or 1
        self.local_rank = formed.launched.local_rank
        self.backend = formed.plan.backend
        self.plan = formed.plan
        self.mesh = library.mesh
        self.without = formed.without
        self.groups = {"world": tuple(range(self.size)), **formed.layout}

    @property
    def closed(self) -> bool:
        """Whether it no longer holds."""
        return _held is not self

    def close(self) -> None:
        """Destroys its groups, the last built first. Idempotent; then another can be formed."""
        global _held
        with _lock:
            if self.closed:
                return
            self._library.undo()
            self._leave()
            self.mesh = None
            _held = None

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
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
    deadlines: Mapping[str, float] | None = None,
    timeout: timedelta | float | None = None,
    init_method: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> World:
    """Forms the world of this job, step by step, each step under its deadline.

    Again with the same plan it is a no-op that returns the same world.

    Args:
        backend: gloo, nccl, xla or whatever torch knows; by default by this process's device.
        framework: whose groups to build on top: None for none, "mesh" for a `DeviceMesh`.
        tensor, pipeline, context, expert, data: sizes of the framework's axes; `data` is by
            default what is left of the world.
        axes: of a mesh, by names of your own, the outermost first, in place of those sizes.
        deadlines: seconds by step (endpoint, store, arrival, agreement, group, round_trip,
            framework, layouts) and `init` for all of them together (default: DISTWATCH_DEADLINES).
        timeout: of the collectives that come later, in seconds; default: torch's own.
        init_method, rank, world_size: as of `init_process_group`; by default from the
            environment of torchrun, Slurm, MPI or a plain one. Without any: a world of one.

    Raises:
        PlanInvalid: no world of this size can be built by this plan.
        InitTimeout: a step did not end in time; who came, who did not, and where those are.
        InitFailed: the ranks disagree, or this one cannot take its place; `.finding` says why.
        AlreadyInitialized: this process holds a world of another plan.
    """
    global _held, _formed
    launched = read_environment(
        os.environ, init_method=init_method, global_rank=rank, world_size=world_size
    )
    sizes = {
        "tensor": tensor,
        "pipeline": pipeline,
        "context": context,
        "expert": expert,
        "data": data,
    }
    with _lock:
        with _on_record():
            plan, named = _plan(launched, backend, framework, sizes, axes, _seconds(timeout))
            limits = Deadlines(deadlines, read_settings().deadlines["init"])
            if (same := _already(plan)) is not None:
                return same
        agent = _activated_agent()
        library = TorchLibrary(_as_timedelta(timeout), named)
        if agent is not None:
            plan = agent.plan_init(plan)
            agent.is_initializing = True
        try:
            formed = Initializer(launched, plan, limits, library, agent, _formed).run()
        except BaseException:
            _undo_quietly(library)
            raise
        finally:
            if agent is not None:
                agent.is_initializing = False
        _formed += 1
        atexit.register(formed.leave)
        _held = World(formed, library, _users_stack())
        return _held


@contextlib.contextmanager
def _on_record() -> Iterator[None]:
    """Whoever catches what is raised here must not be the only one to know of it."""
    try:
        yield
    except DistwatchError as error:
        agent = core.current()
        if agent is not None and error.finding is not None:
            agent.raise_finding(error.finding, "initialize")
        raise


def _plan(
    launched: Launched,
    backend: str | None,
    framework: str | None,
    sizes: dict[str, int | None],
    axes: Mapping[str, int] | None,
    timeout_s: float | None,
) -> tuple[InitPlanned, tuple[tuple[str, int], ...]]:
    """The plan of this rank, and the mesh's axes.

    Raises:
        PlanInvalid: it makes no sense, whatever the others do.
    """
    _check_framework(framework, sizes, axes)
    world = launched.world_size or 1
    named: tuple[tuple[str, int], ...] = ()
    if framework == "mesh":
        named = _mesh_axes(sizes, axes, world)
    chosen = choose_backend(backend)
    plan = InitPlanned(
        by="distwatch",
        global_rank=launched.global_rank,
        world_size=launched.world_size,
        method=launched.method,
        endpoint=launched.endpoint,
        hosts_store=launched.hosts_store,
        backend=chosen,
        device=device_identity(chosen, launched),
        timeout_s=timeout_s,
        framework=framework or "",
        sizes=dict(named),
        # From the axis whose ranks lie closest together.
        order=tuple(name for name, _ in reversed(named)),
        variables={n: os.environ[n] for n in COMMUNICATION_VARIABLES if os.environ.get(n)},
        interfaces=interfaces(),
        versions=versions(),
        site=caller_site(folders_of("torch")),
    )
    return plan, named


def _check_framework(
    framework: str | None, sizes: Mapping[str, int | None], axes: Mapping[str, int] | None
) -> None:
    if framework in _PLANNED:
        raise PlanInvalid(
            f"framework={framework!r} is not supported by this version of distwatch",
            advice="Initialize it yourself; distwatch then shows its groups.",
        )
    if framework is not None and framework not in FRAMEWORKS:
        raise PlanInvalid(
            f"there is no framework {framework!r}", advice=f"There is: {', '.join(FRAMEWORKS)}."
        )
    asked = {name: size for name, size in sizes.items() if size not in (1, None)}
    if framework is None and (asked or axes):
        told = (
            ", ".join(f"{name}={size}" for name, size in asked.items())
            or f"axes={dict(axes or {})}"
        )
        raise PlanInvalid(
            f"{told} without a framework that builds such groups", advice="Pass framework='mesh'."
        )
    if axes is not None and asked:
        raise PlanInvalid(
            "axes and sizes were both given", advice="Give the mesh either its own axes or sizes."
        )


def _mesh_axes(
    sizes: Mapping[str, int | None], axes: Mapping[str, int] | None, world: int
) -> tuple[tuple[str, int], ...]:
    if axes is not None:
        _check_axes(axes, world)
        return tuple(axes.items())
    if sizes["expert"] != 1:
        raise PlanInvalid(
            "a plain mesh has no expert axis", advice="Name the axes: axes={'dp': …, 'ep': …}."
        )
    tensor, pipeline, context = (
        _size(name, sizes[name]) for name in ("tensor", "pipeline", "context")
    )
    plan = Plan(
        framework="mesh", tensor=tensor, pipeline=pipeline, context=context, data=sizes["data"]
    )
    for finding in validate(plan, world):
        if finding.blocks:
            raise PlanInvalid(finding.summary, advice=finding.advice, finding=finding)
    data = plan.data_size(world)
    return axes_of((("pp", pipeline), ("dp", data), ("cp", context), ("tp", tensor)), world)


def _does_not_divide(why: str) -> PlanInvalid:
    advice = "Change the sizes, or start another number of ranks."
    finding = Finding(code="group.size_invalid", severity="crash", summary=why, advice=advice)
    return PlanInvalid(why, advice=advice, finding=finding)


def _check_axes(axes: Mapping[str, int], world: int) -> None:
    product = 1
    for name, size in axes.items():
        product *= _size(name, size)
    if not axes or product != world:
        told = " × ".join(f"{name} {size}" for name, size in axes.items()) or "no axis"
        raise _does_not_divide(f"a mesh of {told} has {product} ranks, and the world has {world}")


def _size(name: str, size: object) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise PlanInvalid(f"{name}={size!r} is no size", advice="Give a positive whole number.")
    return size


def _already(plan: InitPlanned) -> World | None:
    """The world that holds, where it is of that plan.

    Raises:
        AlreadyInitialized: it is of another.
    """
    global _held
    import torch.distributed as dist

    if not dist.is_initialized():
        _held = None  # somebody destroyed it behind our back
        return None
    if _held is None:
        return _adopt(plan)
    if _terms(_held.plan) == _terms(plan):
        return _held
    raise _another(_describe(_held.plan), _describe(plan), _held._stack)


def _adopt(plan: InitPlanned) -> World:
    """torch was initialized without us: the same plan is that it holds what is asked for."""
    import torch.distributed as dist

    rank, size, backend = dist.get_rank(), dist.get_world_size(), str(dist.get_backend())
    agent = running_agent()
    first = agent.planned.site if agent is not None and agent.planned is not None else None
    fits = backend == plan.backend and (plan.world_size or size) == size and not plan.framework
    if not fits or plan.global_rank not in (None, rank):
        held = f"rank {rank} of {size}, {backend}, formed by init_process_group itself"
        raise _another(held, _describe(plan), (str(first),) if first else ())
    launched = Launched(global_rank=rank, world_size=size, method="env")
    formed = Formed(launched=launched, plan=plan, layout={}, leave=lambda: None)
    return World(formed, TorchLibrary(None, ()), (str(first),) if first else ())


def _another(held: str, asked: str, stack: tuple[str, ...]) -> AlreadyInitialized:
    where = "".join(stack[-1:]).strip()
    finding = Finding(
        code="group.already_initialized",
        severity="warning",
        summary=f"this process holds a world already ({held}), and another was asked for ({asked})",
        advice="Close the first world before forming another, or initialize once.",
        evidence=tuple(Evidence(source="stack", text=line.strip()) for line in stack[-8:]),
    )
    message = f"a world of another plan holds: {held}; asked for now: {asked}"
    if stack:
        message += f"; formed first at {where}"
    return AlreadyInitialized(message, held=held, asked=asked, first_call=stack, finding=finding)


def _terms(plan: InitPlanned) -> tuple[Any, ...]:
    return (
        plan.global_rank, plan.world_size, plan.method, plan.endpoint, plan.backend, plan.timeout_s,
        plan.framework, sorted(plan.sizes.items()), plan.order,
    )  # fmt: skip


def _describe(plan: InitPlanned) -> str:
    axes = "".join(f" {name}={size}" for name, size in plan.sizes.items())
    made = f", {plan.framework}{axes}" if plan.framework else ""
    limit = f", timeout {plan.timeout_s:g} s" if plan.timeout_s else ""
    at = f" at {plan.endpoint}" if plan.endpoint else ""
    return f"rank {plan.global_rank} of {plan.world_size}, {plan.backend}{at}{made}{limit}"


def _activated_agent() -> Agent | None:
    """Turns distwatch on, unless it was switched off: the world then forms without a journal."""
    if read_settings().enabled is False:
        return None
    import torch.distributed  # noqa: F401

    import distwatch.auto  # noqa: F401

    return running_agent()


def _undo_quietly(library: TorchLibrary) -> None:
    # A half-built world must not keep the next attempt from forming; why it failed is under way.
    try:
        library.undo()
    except Exception as error:
        print(f"distwatch: what was built is not undone: {error}", file=sys.stderr)


def _users_stack() -> tuple[str, ...]:
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith(_OURS)]
    return tuple(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)


def _seconds(timeout: timedelta | float | None) -> float | None:
    given = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if given is not None and not given > 0:
        raise PlanInvalid(f"timeout={timeout!r}", advice="Give a positive number of seconds.")
    return given


def _as_timedelta(timeout: timedelta | float | None) -> timedelta | None:
    seconds = _seconds(timeout)
    return None if seconds is None else timedelta(seconds=seconds)
