"""A parallel layout and its arithmetic: what divides, which sizes would work. Pure.

Sizes follow Megatron-core: tensor × pipeline × context divides the world and what is left are
data replicas; the expert layers cut the same world by expert tensor × expert × pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from math import isqrt, lcm, prod

import msgspec

from distwatch.preflight.faults import Fault, finding_of
from distwatch.preflight.model_fit import Model, model_faults
from distwatch.state.finding import Finding

ORDER = ("tp", "cp", "ep", "dp", "pp")
"""Megatron-core's default: ranks next to each other share a tensor group."""
AXES = {
    "tp": "tensor", "sp": "ulysses", "cp": "context", "ep": "expert", "dp": "data", "pp": "pipeline",
}  # fmt: skip
ENGINES = ("vllm", "sglang")
_NEAREST = 4


class Plan(Model, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be launched. None: not said.

    Attributes:
        ulysses: ranks that share one sequence by exchanging heads (Ulysses), beside `context`.
        expert_tensor: tensor size of the expert layers; None: that of the others.
        data: replicas that were asked for; None: whatever is left. For an engine (vllm, sglang)
            the data size of one instance, of which the world then holds several.
        order: axes (tp, cp, ep, dp, pp) from the one whose ranks lie closest together.
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
        """How many are to be started, as far as the plan says."""
        if self.world_size is not None:
            return self.world_size
        if self.nodes is None or self.ranks_per_node is None:
            return None
        return self.nodes * self.ranks_per_node

    @property
    def is_engine(self) -> bool:
        """Whether the world is cut into instances of an inference engine."""
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
        """The replicas of a world that divides."""
        return world_size // prod(self.replica.values())

    def experts_data_size(self, world_size: int) -> int:
        """The replicas of the expert layers."""
        return world_size // prod(self.experts_replica.values())


def validate(plan: Plan, world_size: int | None = None) -> list[Finding]:
    """What is wrong with a plan, what cannot run first; empty where it is sound.

    Args:
        world_size: of the world that holds already; by default what the plan says.
    """
    world = plan.ranks if world_size is None else world_size
    faults = _faults(plan, world)
    if world is not None and any(fault.severity == "crash" for fault in faults):
        advice = sizes_that_work(plan, world)
        faults = [f.with_sizes(advice) if f.axes else f for f in faults]
    findings = [finding_of(fault) for fault in faults]
    return sorted(findings, key=lambda finding: not finding.blocks)


def sizes_that_work(plan: Plan, world_size: int) -> dict[str, tuple[int, ...]]:
    """By axis, the nearest sizes with which nothing stands against the plan, the others as they are.

    `world` are numbers of ranks. An axis for which there are none is left out.
    """
    found = {}
    for axis in ("tensor", "pipeline", "context", "ulysses", "expert", "expert_tensor"):
        asked = getattr(plan, axis)
        if asked is None or asked < 1:
            continue
        sizes = [n for n in _divisors(world_size) if n != asked and _works(plan, world_size, axis, n)]
        found[axis] = tuple(sorted(_nearest(sizes, asked)))
    replica = lcm(*(max(1, prod(sizes.values())) for sizes in _replicas(plan)))
    if plan.data is not None and plan.data > 0:
        replica = lcm(replica, plan.data)
    below = world_size // replica * replica
    worlds = [n for n in (below, below + replica) if n != world_size]
    if plan.data is not None and not plan.is_engine:
        worlds = [plan.data * prod(plan.replica.values())]
    found["world"] = tuple(n for n in worlds if n > 0 and not _blocked(plan, n))
    return {axis: sizes for axis, sizes in found.items() if sizes}


def _replicas(plan: Plan) -> list[dict[str, int]]:
    return [plan.replica] if plan.is_engine else [plan.replica, plan.experts_replica]


def _works(plan: Plan, world: int, axis: str, size: int) -> bool:
    return not _blocked(msgspec.structs.replace(plan, **{axis: size}), world)


def _blocked(plan: Plan, world: int) -> bool:
    # A world of another size than was said is what is asked about here.
    free = msgspec.structs.replace(plan, world_size=None, nodes=None)
    return any(fault.severity in ("crash", "hang") for fault in _faults(free, world))


def _faults(plan: Plan, world: int | None) -> list[Fault]:
    senseless = _no_sizes(plan, world)
    if senseless:
        return senseless
    faults = [*_ranks_disagree(plan), *_order_faults(plan, world)]
    if world is not None:
        faults += _undivided(plan, world) or _data_faults(plan, world)
    else:
        faults.append(_world_unknown(plan))
    return [*faults, *_pipeline_faults(plan), *_spanning(plan, world), *model_faults(plan, _cuts(plan))]


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
        Fault(f"{name}={size} is no size", "Give a positive whole number.")
        for name, size in named.items()
        if size is not None and size < 1
    ]


def _ranks_disagree(plan: Plan) -> list[Fault]:
    if plan.world_size is None or plan.nodes is None or plan.ranks_per_node is None:
        return []
    started = plan.nodes * plan.ranks_per_node
    if started == plan.world_size:
        return []
    few = started < plan.world_size
    what = (
        f"{plan.nodes} nodes × {plan.ranks_per_node} ranks are {started}, and the world is to have "
        f"{plan.world_size}: "
        + ("it waits for ranks that nobody starts" if few else "the last ranks are out of range")
    )
    return [
        Fault(
            what,
            "Make nodes × ranks per node the world size.",
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
            faults.append(Fault(what, axes=tuple(n.replace(" ", "_") for n in sizes)))
    # Without experts both say the same; the first one says it in the user's words.
    return faults[:1] if plan.expert == 1 and plan.expert_tensor is None else faults


def _data_faults(plan: Plan, world: int) -> list[Fault]:
    left = plan.data_size(world)
    if plan.is_engine:
        instance = plan.tensor * (plan.data or 1)
        if plan.data is not None and left % plan.data:
            told = _product({**plan.replica, "data": plan.data})
            return [Fault(f"a world of {world} holds no whole number of instances of {told}", axes=tuple(plan.replica))]  # fmt: skip
        if instance % plan.expert:
            what = f"expert {plan.expert} does not divide tensor {plan.tensor} × data {plan.data or 1} = {instance}"
            return [Fault(what, axes=("expert", "tensor"))]
        return []
    if plan.data is not None and plan.data != left:
        told = _product({**plan.replica, "data": plan.data})
        what = f"{told} ranks, and the world has {world}: data {left} is what is left for it"
        return [Fault(what, axes=tuple(plan.replica))]
    return []


def _order_faults(plan: Plan, world: int | None) -> list[Fault]:
    asked = {"tp": plan.tensor, "cp": plan.context, "ep": plan.expert, "pp": plan.pipeline}
    unknown = [name for name in plan.order if name not in ORDER]
    twice = sorted({name for name in plan.order if plan.order.count(name) > 1})
    left_out = [name for name, size in asked.items() if size > 1 and name not in plan.order]
    told = "-".join(plan.order)
    advice = f"Write each axis once: {'-'.join(ORDER)}."
    if unknown or twice:
        wrong = f"{unknown[0]!r}, which is no axis" if unknown else f"{twice[0]} twice"
        return [Fault(f"the order {told} has {wrong}", advice)]
    if left_out:
        return [Fault(f"the order {told} leaves out {', '.join(left_out)}, which has a size", advice)]
    if world is None or plan.is_engine or plan.pipeline == 1 or plan.order[-1] == "pp":
        return []
    if world % prod(plan.replica.values()) or world % prod(plan.experts_replica.values()):
        return []
    dense, experts = plan.data_size(world), plan.experts_data_size(world)
    if dense != experts or pipeline_stride(plan, world) != pipeline_stride(plan, world, experts=True):
        what = (
            f"the order {told} gives the expert layers other pipeline groups than the rest "
            f"(data {dense}, expert data {experts})"
        )
        return [Fault(what, "Put pp last in the order.", axes=("context", "expert"))]
    return []


def pipeline_stride(plan: Plan, world: int, *, experts: bool = False) -> int:
    """The distance between two stages of one pipeline."""
    sizes = sizes_in_order(plan, world, experts=experts)
    return prod(size for _, size in takewhile(lambda axis: axis[0] != "pp", sizes))


def sizes_in_order(
    plan: Plan, world: int, *, experts: bool = False
) -> tuple[tuple[str, int], ...]:
    """The axes that cut the world, from the one whose ranks lie closest together."""
    if experts:
        tensor = plan.experts_replica["expert tensor"]
        sizes = {"tp": tensor, "ep": plan.expert, "dp": plan.experts_data_size(world), "pp": plan.pipeline}  # fmt: skip
    elif plan.is_engine:
        instances = plan.data_size(world)
        return (("tp", plan.tensor), ("sp", plan.ulysses), ("cp", plan.context), ("pp", plan.pipeline), ("dp", instances))  # fmt: skip
    else:
        sizes = {"tp": plan.tensor, "cp": plan.context, "dp": plan.data_size(world), "pp": plan.pipeline}  # fmt: skip
    # Axes that the order leaves out have one rank, or are data: they come last, as in Megatron.
    names = [*(name for name in plan.order if name in sizes), *(n for n in sizes if n not in plan.order)]
    ordered = [(name, sizes[name]) for name in names]
    if plan.ulysses > 1 and not experts:
        ordered.insert(names.index("tp") + 1, ("sp", plan.ulysses))
    return tuple(ordered)


def _pipeline_faults(plan: Plan) -> list[Fault]:
    if plan.virtual_pipeline is None or plan.virtual_pipeline == 1 or plan.pipeline > 1:
        return []
    what = f"virtual pipeline {plan.virtual_pipeline} needs a pipeline of at least 2 stages"
    return [Fault(what, "Drop the virtual pipeline, or set a pipeline size.")]


def _spanning(plan: Plan, world: int | None) -> list[Fault]:
    """Tensor groups across hosts work, and their network is an order of magnitude slower."""
    per_node = plan.ranks_per_node
    if per_node is None or world is None or world <= per_node or plan.order[:1] != ("tp",):
        return []
    if plan.tensor == 1 or per_node % plan.tensor == 0:
        return []
    what = f"tensor groups of {plan.tensor} span hosts of {per_node} ranks each"
    return [
        Fault(
            what,
            "Choose a tensor size that divides the ranks per node, and cut further by pipeline.",
            severity="warning",
        )
    ]


def _world_unknown(plan: Plan) -> Fault:
    fitting = lcm(*(prod(sizes.values()) for sizes in _replicas(plan)), plan.data or 1)
    what = "how many ranks there will be is not known, so whether the sizes divide them was not checked"
    return Fault(
        what,
        f"Say world_size, or nodes and ranks_per_node; it must be a multiple of {fitting}.",
        severity="info",
    )


def _product(sizes: Mapping[str, int]) -> str:
    told = " × ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "1"
    return f"{told} = {prod(sizes.values())}" if " × " in told else told


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _nearest(sizes: list[int], asked: int) -> list[int]:
    return sorted(sizes, key=lambda size: (abs(size - asked), size))[:_NEAREST]
