"""The request to `distwatch.initialize`, checked before anything begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from distwatch.agent.initialization.environment import Launched, unfit
from distwatch.agent.initialization.plan import COMMUNICATION_VARIABLES, interfaces, versions
from distwatch.agent.initialization.steps import ENVIRONMENT
from distwatch.errors import GIVE_SECONDS, InitFailed, PlanInvalid, did_you_mean
from distwatch.integrations.builders import Axes, Builder, FrameworkBuilder, MeshBuilder
from distwatch.integrations.frameworks import TRIGGERS
from distwatch.integrations.frameworks.framework import framework_of
from distwatch.integrations.registry import site_outside
from distwatch.integrations.torch_devices import default_backend, device_identity
from distwatch.preflight.faults import size_invalid
from distwatch.preflight.plan import Plan, validate
from distwatch.redaction import redact_text
from distwatch.state.events import InitPlanned
from distwatch.state.layouts import sizes_text

FRAMEWORKS = ("mesh", *TRIGGERS)
Sizes = Mapping[str, int | None]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of this rank, and the builder of groups on top of its world."""

    plan: InitPlanned
    builder: Builder | None = None


def plan_world(
    launched: Launched,
    backend: str | None,
    framework: str | None,
    sizes: Sizes,
    axes: Mapping[str, int] | None,
    options: Mapping[str, Any] | None,
    timeout_s: float | None,
) -> Asked:
    """The plan of this rank.

    Raises:
        PlanInvalid: it makes no sense, whatever the other ranks plan.
    """
    _check_framework(framework, sizes, axes, options)
    builder, named, order = _builder_of(
        framework, sizes, axes, options or {}, launched.world_size or 1
    )
    chosen = backend.lower() if backend else default_backend()
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
        order=order,
        options={name: redact_text(repr(value))[:80] for name, value in (options or {}).items()},
        variables={n: os.environ[n] for n in COMMUNICATION_VARIABLES if os.environ.get(n)},
        interfaces=interfaces(),
        versions=versions(),
        site=site_outside("torch"),
    )
    return Asked(plan=plan, builder=builder)


_NAMES = {
    "tensor": "tp tensor_parallel tensor_model_parallel_size tp_size",
    "pipeline": "pp pipeline_parallel pipeline_model_parallel_size pp_size",
    "context": "cp context_parallel context_parallel_size cp_size",
    "expert": "ep expert_parallel expert_model_parallel_size ep_size",
    "data": "dp data_parallel data_parallel_size dp_size",
}
"""What frameworks call the arguments of `initialize`."""


def require_known(given: Mapping[str, Any]) -> None:
    """Arguments that `initialize` does not have.

    Raises:
        PlanInvalid: there are some; with the right name.
    """
    for name, value in given.items():
        ours = next((one for one, others in _NAMES.items() if name in others.split()), None)
        near = did_you_mean(name, _NAMES, f"There are {', '.join(_NAMES)}, axes and options.")
        raise PlanInvalid(
            f"initialize has no argument {name!r}",
            advice=f"Pass {ours}={value!r}." if ours else near,
        )


def require_place(launched: Launched, *, to_compare: bool) -> None:
    """This rank must know its place before sizes can be compared with the world.

    Raises:
        InitFailed: its launcher has not said which rank it is, or of how many.
    """
    unknown = launched.global_rank is None or launched.world_size is None
    finding = unfit(launched) if to_compare and unknown else None
    if finding is not None:
        raise InitFailed(finding.summary, step=ENVIRONMENT, finding=finding)


def seconds_of(timeout: timedelta | float | None) -> float | None:
    """A timeout in seconds.

    Raises:
        PlanInvalid: it is not positive.
    """
    given = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if given is not None and not given > 0:
        raise PlanInvalid(f"timeout={timeout!r}", advice=GIVE_SECONDS)
    return given


def world_terms(plan: InitPlanned) -> tuple[Any, ...]:
    """What two plans must share to belong to one world."""
    return (
        plan.global_rank, plan.world_size, plan.method, plan.endpoint, plan.backend, plan.timeout_s,
    )  # fmt: skip


def framework_terms(plan: InitPlanned) -> tuple[Any, ...]:
    """What two plans must share to request the same groups on top of it."""
    return plan.framework, sorted(plan.sizes.items()), plan.order, sorted(plan.options.items())


def describe(plan: InitPlanned) -> str:
    """A plan in one line."""
    axes = "".join(f" {name}={size}" for name, size in plan.sizes.items())
    made = f", {plan.framework}{axes}" if plan.framework else ""
    limit = f", timeout {plan.timeout_s:g} s" if plan.timeout_s else ""
    at = f" at {plan.endpoint}" if plan.endpoint else ""
    return f"rank {plan.global_rank} of {plan.world_size}, {plan.backend}{at}{made}{limit}"


def _check_framework(
    framework: str | None,
    sizes: Sizes,
    axes: Mapping[str, int] | None,
    options: Mapping[str, Any] | None,
) -> None:
    if framework is not None and framework not in FRAMEWORKS:
        raise PlanInvalid(
            f"there is no framework {framework!r}",
            advice=did_you_mean(framework, FRAMEWORKS, f"There are {', '.join(FRAMEWORKS)}."),
        )
    asked = {name: size for name, size in sizes.items() if size not in (1, None)}
    if framework is None and (asked or axes):
        told = (
            ", ".join(f"{name}={size}" for name, size in asked.items())
            or f"axes={dict(axes or {})}"
        )
        raise PlanInvalid(
            f"{told} without a framework that builds such groups",
            advice="Pass framework='mesh'.",
        )
    if axes is not None and asked:
        raise PlanInvalid(
            "axes and sizes were both given", advice="Give the mesh either its own axes or sizes."
        )
    if axes is not None and framework != "mesh":
        raise PlanInvalid(
            f"{framework} has axes of its own", advice="Give sizes: tensor=, pipeline=, …."
        )
    if options and framework in (None, "mesh"):
        raise PlanInvalid(
            f"options={dict(options)!r} without a framework that takes them",
            advice="They are arguments of a framework's own initializer: name that framework.",
        )


def _builder_of(
    framework: str | None,
    sizes: Sizes,
    axes: Mapping[str, int] | None,
    options: Mapping[str, Any],
    world: int,
) -> tuple[Builder | None, Axes, tuple[str, ...]]:
    """The builder of the groups, their axes with sizes, and the axes from the innermost out."""
    if framework is None:
        return None, (), ()
    if framework != "mesh":
        return _framework_builder(framework, sizes, options, world)
    named = _mesh_axes(sizes, axes, world)
    return MeshBuilder(named), named, tuple(name for name, _ in reversed(named))


def _framework_builder(
    name: str, sizes: Sizes, options: Mapping[str, Any], world: int
) -> tuple[FrameworkBuilder, Axes, tuple[str, ...]]:
    framework = framework_of(name)
    asked = Plan(
        framework=name,
        tensor=_size("tensor", sizes["tensor"]),
        pipeline=_size("pipeline", sizes["pipeline"]),
        context=_size("context", sizes["context"]),
        expert=_size("expert", sizes["expert"]),
        data=sizes["data"],
    )
    plan = framework.planned(asked, options)
    for finding in framework.validate(plan, world):
        if finding.blocks:
            raise PlanInvalid(finding.summary, finding=finding)
    told = tuple(framework.sizes(plan, world).items())
    return FrameworkBuilder(framework, plan, options), told, plan.order


def _mesh_axes(sizes: Sizes, axes: Mapping[str, int] | None, world: int) -> Axes:
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
            raise PlanInvalid(finding.summary, finding=finding)
    data = plan.data_size(world)
    named = (("pp", pipeline), ("dp", data), ("cp", context), ("tp", tensor))
    return tuple(axis for axis in named if axis[1] > 1) or (("dp", world),)


def _check_axes(axes: Mapping[str, int], world: int) -> None:
    product = 1
    for name, size in axes.items():
        product *= _size(name, size)
    if not axes or product != world:
        told = sizes_text(axes, f"{len(axes)} axes")
        why = f"a mesh of {told} has {product} ranks, and the world has {world}"
        finding = size_invalid(why, "Change the sizes, or start another number of ranks.")
        raise PlanInvalid(why, finding=finding)


def _size(name: str, size: object) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise PlanInvalid(f"{name}={size!r} is not a size", advice="Give a positive whole number.")
    return size
