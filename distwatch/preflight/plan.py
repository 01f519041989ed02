"""A parallel layout and its arithmetic: what divides, which sizes would work. Pure.

Sizes follow Megatron-core: tensor × pipeline × context divides the world, and the quotient is the
number of data replicas; the expert layers divide the same world by expert tensor × expert × pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from math import isqrt, lcm, prod

import msgspec

from distwatch.preflight.faults import Fault, finding_of
from distwatch.preflight.model_fit import Model, model_faults
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.finding import Finding
from distwatch.state.rank_sets import agree

ORDER = ("tp", "cp", "ep", "dp", "pp")
"""Megatron-core's default: ranks next to each other share a tensor group."""
AXES = {
    "tp": "tensor", "sp": "ulysses", "cp": "context", "ep": "expert", "dp": "data", "pp": "pipeline",
}  # fmt: skip
ENGINES = ("vllm", "sglang")
_NEAREST = 4


class Plan(Model, frozen=True, kw_only=True, omit_defaults=True):
    """What will be launched. None: not stated.

    Attributes:
        ulysses: ranks that share one sequence by exchanging heads (Ulysses), in addition to `context`.
        expert_tensor: tensor size of the expert layers; None: that of the others.
        data: the requested number of replicas; None: what the world allows. For an engine (vllm, sglang)
            the data size of one instance; the world holds several instances.
        order: axes (tp, cp, ep, dp, pp) from the one whose ranks are closest together.
        timeout_s: of torch's collectives.
    """

    backend: str = ""
    framework: str = ""
    world_size: int | None = None
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    expert_tensor: int | None = None
    virtual_pipeline: int | None = None
    ulysses: int = 1
    data: int | None = None
    order: tuple[str, ...] = ORDER
    deadlines: dict[str, float] = {}
    timeout_s: float | None = None
    nodes: int | None = None
    ranks_per_node: int | None = None

    @property
    def ranks(self) -> int | None:
        """How many ranks will start, as far as the plan says."""
        if self.world_size is not None:
            return self.world_size
        if self.nodes is None or self.ranks_per_node is None:
            return None
        return self.nodes * self.ranks_per_node

    @property
    def is_engine(self) -> bool:
        """Whether the world consists of instances of an inference engine."""
        return self.framework in ENGINES

    @property
    def replica(self) -> dict[str, int]:
        """The axes that one copy of the model is spread over, by name."""
        return {
            "tensor": self.tensor,
            "pipeline": self.pipeline,
            "context": self.context,
            "ulysses": self.ulysses,
        }

    @property
    def experts_replica(self) -> dict[str, int]:
        """The same for the expert layers."""
        tensor = self.tensor if self.expert_tensor is None else self.expert_tensor
        return {"expert tensor": tensor, "expert": self.expert, "pipeline": self.pipeline}

    def data_size(self, world_size: int) -> int:
        """The number of replicas in a world that the sizes divide."""
        return world_size // prod(self.replica.values())

    def experts_data_size(self, world_size: int) -> int:
        """The replicas of the expert layers."""
        return world_size // prod(self.experts_replica.values())


def validate(plan: Plan, world_size: int | None = None) -> list[Finding]:
    """Findings about a plan, the ones that stop it first; empty where it is sound.

    Args:
        world_size: of the world that exists already; default: what the plan says.
    """
    world = plan.ranks if world_size is None else world_size
    faults = _faults(plan, world)
    findings = [finding_of(fault, sizes_that_work(plan, world, fault.kind)) for fault in faults]
    return sorted(findings, key=lambda finding: not finding.blocks)


def sizes_that_work(plan: Plan, world: int | None, kind: str) -> dict[str, tuple[int, ...]]:
    """By axis, the nearest sizes that fix a fault and cause no other; the other sizes stay as they are.

    The axis `world` is the number of ranks. An axis without such sizes is left out.
    """
    faults = _faults(plan, world)
    before = {fault.kind: fault for fault in faults}
    if world is None or kind not in before or not before[kind].axes:
        return {}
    blocking = {fault.kind for fault in faults if fault.blocks}
    found = {}
    for axis in before[kind].axes:
        asked = plan.tensor if axis == "expert_tensor" and not plan.expert_tensor else None
        asked = asked or getattr(plan, axis) or 1
        sizes = _divisors(world) if axis != "data" else [plan.data_size(world) or 1]
        changed = ((n, msgspec.structs.replace(plan, **{axis: n})) for n in sizes if n != asked)
        working = [n for n, other in changed if _ends(other, world, kind, blocking)]
        found[axis] = _nearest(working, asked)
    # The question here is which other number of ranks would work.
    free = msgspec.structs.replace(plan, world_size=None, nodes=None)
    found["world"] = tuple(
        n for n in _worlds_near(plan, world) if n != world and _ends(free, n, kind, blocking)
    )
    return {axis: sizes for axis, sizes in found.items() if sizes}


def _ends(plan: Plan, world: int, kind: str, before: set[str]) -> bool:
    left = {fault.kind for fault in _faults(plan, world) if fault.blocks}
    return kind not in left and left <= before


def _worlds_near(plan: Plan, world: int) -> tuple[int, ...]:
    if plan.data is not None and not plan.is_engine:
        return (plan.data * prod(plan.replica.values()),)
    step = _step(plan)
    below = world // step * step
    return tuple(n for n in (below, below + step) if n > 0)


def _step(plan: Plan) -> int:
    """Every number of ranks that works is a multiple of this."""
    return lcm(*(prod(sizes.values()) for sizes in _replicas(plan)), plan.data or 1)


def _replicas(plan: Plan) -> list[dict[str, int]]:
    return [plan.replica] if plan.is_engine else [plan.replica, plan.experts_replica]


def _faults(plan: Plan, world: int | None) -> list[Fault]:
    senseless = _no_sizes(plan, world)
    if senseless:
        return senseless
    faults = [*_ranks_disagree(plan), *_order_faults(plan, world)]
    if world is not None:
        faults += _undivided(plan, world) or _data_faults(plan, world)
    else:
        faults.append(_world_unknown(plan))
    return [
        *faults,
        *_pipeline_faults(plan),
        *_spanning(plan, world),
        *model_faults(_as_cut(plan), _cuts(plan), plan.framework),
    ]


def _as_cut(plan: Plan) -> Plan:
    # Engines spread layers that do not divide over their stages.
    return msgspec.structs.replace(plan, uneven_pipeline=True) if plan.is_engine else plan


def _cuts(plan: Plan) -> dict[str, int]:
    return {**plan.replica, "expert": plan.expert, "virtual pipeline": plan.virtual_pipeline or 1}


def _no_sizes(plan: Plan, world: int | None) -> list[Fault]:
    named: Mapping[str, int | None] = {
        "world_size": world, "tensor": plan.tensor, "pipeline": plan.pipeline, "context": plan.context,
        "expert": plan.expert, "expert_tensor": plan.expert_tensor, "data": plan.data,
        "virtual_pipeline": plan.virtual_pipeline, "ulysses": plan.ulysses, "nodes": plan.nodes,
        "ranks_per_node": plan.ranks_per_node,
    }  # fmt: skip
    return [
        Fault(
            f"no size: {name}",
            f"{name}={size} is not a size",
            f"Give a whole number from 1 to {MOST_RANKS}.",
        )
        for name, size in named.items()
        if size is not None and not 1 <= size <= MOST_RANKS
    ]


def _ranks_disagree(plan: Plan) -> list[Fault]:
    if plan.world_size is None or plan.nodes is None or plan.ranks_per_node is None:
        return []
    started = plan.nodes * plan.ranks_per_node
    if started == plan.world_size:
        return []
    few = started < plan.world_size
    what = (
        f"{plan.nodes} nodes × {plan.ranks_per_node} ranks per node = {started}, but world_size is "
        f"{plan.world_size}: "
        + (
            "the job would wait for ranks that nobody starts"
            if few
            else "the last ranks are out of range"
        )
    )
    return [
        Fault(
            "ranks",
            what,
            "Make nodes × ranks per node equal to world_size.",
            severity="hang" if few else "crash",
            code="rendezvous.world_size_disagrees",
        )
    ]


def _undivided(plan: Plan, world: int) -> list[Fault]:
    faults = []
    for sizes in _replicas(plan):
        replica = prod(sizes.values())
        if world % replica:
            told = _product(sizes)
            what = f"a world of {world} cannot be divided by {told}"
            axes = tuple(name.replace(" ", "_") for name in sizes)
            faults.append(Fault("-".join(axes), what, axes=axes))
    # Without experts both messages say the same; the first one uses the user's words.
    return faults[:1] if plan.expert == 1 and plan.expert_tensor is None else faults


def _data_faults(plan: Plan, world: int) -> list[Fault]:
    left = plan.data_size(world)
    if plan.is_engine:
        instance = plan.tensor * (plan.data or 1)
        if plan.data is not None and left % plan.data:
            told = _product({**plan.replica, "data": plan.data})
            what = f"a world of {world} cannot be divided into instances of {told}"
            return [Fault("instances", what, axes=(*plan.replica, "data"))]
        if instance % plan.expert:
            what = f"expert {plan.expert} does not divide tensor {plan.tensor} × data {plan.data or 1} = {instance}"
            return [Fault("engine experts", what, axes=("expert", "tensor"))]
        return []
    if plan.data is not None and plan.data != left:
        told = _product({**plan.replica, "data": plan.data})
        what = f"{told} ranks, but the world has {world}, which makes data {left}"
        return [Fault("data", what, axes=("data", *plan.replica))]
    return []


def _order_faults(plan: Plan, world: int | None) -> list[Fault]:
    asked = {"tp": plan.tensor, "cp": plan.context, "ep": plan.expert, "pp": plan.pipeline}
    unknown = [name for name in plan.order if name not in ORDER]
    twice = sorted({name for name in plan.order if plan.order.count(name) > 1})
    left_out = [name for name, size in asked.items() if size > 1 and name not in plan.order]
    told = "-".join(plan.order)
    advice = f"Write each axis once: {'-'.join(ORDER)}."
    if unknown or twice:
        wrong = f"{unknown[0]!r}, which is not an axis" if unknown else f"{twice[0]} twice"
        return [Fault("order", f"the order {told} has {wrong}", advice)]
    if left_out:
        return [
            Fault(
                "order",
                f"the order {told} leaves out {', '.join(left_out)}, but the plan sets "
                f"{agree(left_out, 'its size', 'their sizes')}",
                advice,
            )
        ]
    if world is None or plan.framework not in ("", "megatron"):
        return []
    if plan.pipeline == 1 or plan.order[-1] == "pp":
        return []
    if world % prod(plan.replica.values()) or world % prod(plan.experts_replica.values()):
        return []
    dense, experts = plan.data_size(world), plan.experts_data_size(world)
    if dense != experts or pipeline_stride(plan, world) != pipeline_stride(
        plan, world, experts=True
    ):
        what = (
            f"the order {told} gives the expert layers other pipeline groups than the other layers "
            f"(data {dense}, expert data {experts})"
        )
        return [Fault("order", what, "Put pp last in the order.")]
    return []


def pipeline_stride(plan: Plan, world: int, *, experts: bool = False) -> int:
    """The distance between two stages of one pipeline."""
    sizes = sizes_in_order(plan, world, experts=experts)
    return prod(size for _, size in takewhile(lambda axis: axis[0] != "pp", sizes))


def sizes_in_order(plan: Plan, world: int, *, experts: bool = False) -> tuple[tuple[str, int], ...]:
    """The axes that divide the world, from the one whose ranks are closest together."""
    if experts:
        tensor, replicas = plan.experts_replica["expert tensor"], plan.experts_data_size(world)
        sizes = {"tp": tensor, "ep": plan.expert, "dp": replicas, "pp": plan.pipeline}
    else:
        replicas = plan.data_size(world)
        sizes = {"tp": plan.tensor, "cp": plan.context, "dp": replicas, "pp": plan.pipeline}
    order = ("tp", "cp", "pp", "dp") if plan.is_engine else plan.order
    # Axes that the order leaves out have one rank, or are data: they come last, as in Megatron.
    names = [*(name for name in order if name in sizes), *(n for n in sizes if n not in order)]
    ordered = [(name, sizes[name]) for name in names]
    if plan.ulysses > 1 and not experts:
        ordered.insert(names.index("tp") + 1, ("sp", plan.ulysses))
    return tuple(ordered)


def _pipeline_faults(plan: Plan) -> list[Fault]:
    if plan.virtual_pipeline is None or plan.virtual_pipeline == 1 or plan.pipeline > 1:
        return []
    what = f"virtual pipeline {plan.virtual_pipeline} needs a pipeline of at least 2 stages"
    return [Fault("virtual pipeline", what, "Drop the virtual pipeline, or set a pipeline size.")]


def _spanning(plan: Plan, world: int | None) -> list[Fault]:
    """Tensor groups may span hosts, but the network there is an order of magnitude slower."""
    per_node = plan.ranks_per_node
    if per_node is None or world is None or world <= per_node or plan.order[:1] != ("tp",):
        return []
    if plan.tensor == 1 or per_node % plan.tensor == 0:
        return []
    what = f"tensor groups of {plan.tensor} span hosts of {per_node} ranks each"
    return [
        Fault(
            "hosts",
            what,
            "Choose a tensor size that divides the ranks per node, and use pipeline across hosts.",
            severity="warning",
        )
    ]


def _world_unknown(plan: Plan) -> Fault:
    what = "the number of ranks is not known, so the sizes were not checked against it"
    return Fault(
        "world unknown",
        what,
        f"Set world_size, or nodes and ranks_per_node; it must be a multiple of {_step(plan)}.",
        severity="info",
    )


def _product(sizes: Mapping[str, int]) -> str:
    told = " × ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "1"
    return f"{told} = {prod(sizes.values())}" if " × " in told else told


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _nearest(sizes: list[int], asked: int) -> tuple[int, ...]:
    return tuple(sorted(sorted(sizes, key=lambda size: abs(size - asked))[:_NEAREST]))
