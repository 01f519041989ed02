"""What an actor or a placement group requests, and what the cluster's nodes lack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distwatch.state.quantities import bytes_text
from distwatch.state.ray_events import RayGroupSeen, RayNodeSeen

Shape = dict[str, float]


def shape_text(shape: Shape) -> str:
    """`4 CPU, 1 GPU`; `nothing` for an empty one."""
    return ", ".join(_amount(name, shape[name]) for name in sorted(shape)) or "nothing"


def what_lacks(shape: Shape, nodes: Sequence[RayNodeSeen]) -> str:
    """Why no node has taken a request: `no node has more than 1 CPU`, or that all of it is in use."""
    if not nodes:
        return "no node of the cluster is alive"
    fitting = [node for node in nodes if holds(node.total, shape)]
    if not fitting:
        return _no_node(shape, nodes)
    if any(holds(node.free, shape) for node in fitting):
        return "a node has room for it: Ray may still be placing it, or other conditions forbid it"
    taken = {name for name in shape if not any(n.free.get(name, 0) >= shape[name] for n in fitting)}
    told = " and ".join(
        f"{_number(max(n.free.get(name, 0.0) for n in fitting))} {name}" for name in sorted(taken)
    )
    which = "1 node is" if len(fitting) == 1 else f"{len(fitting)} nodes are"
    free = f": the most that is free on one node is {told}" if taken else ""
    return f"{which} large enough but in use{free}; it will fit once others end"


def what_group_lacks(group: RayGroupSeen, nodes: Sequence[RayNodeSeen]) -> str:
    """The same for all bundles of a placement group, under its strategy."""
    if not nodes:
        return "no node of the cluster is alive"
    for bundle in distinct(group.bundles):
        if not any(holds(node.total, bundle) for node in nodes):
            return _no_node(bundle, nodes)
    if group.strategy == "STRICT_PACK":
        together = _sum(group.bundles)
        if not any(holds(node.total, together) for node in nodes):
            return f"STRICT_PACK needs all of it on one node, but {_no_node(together, nodes)}"
    if group.strategy == "STRICT_SPREAD":
        able = sum(any(holds(n.total, b) for b in distinct(group.bundles)) for n in nodes)
        if able < len(group.bundles):
            return (
                f"STRICT_SPREAD needs {len(group.bundles)} nodes, but only {able} of the cluster's "
                f"{len(nodes)} can hold a bundle"
            )
    wanted = _sum(group.bundles)
    total = _sum([node.total for node in nodes])
    if not holds(total, wanted):
        return f"all nodes together have {shape_text(_only(total, wanted))}"
    free = _only(_sum([node.free for node in nodes]), wanted)
    return (
        f"the cluster is large enough but in use: {shape_text(free)} are free in total; "
        "it will fit once others end"
    )


def holds(has: Shape, shape: Shape) -> bool:
    """Whether something with these resources has room for a request."""
    return all(has.get(name, 0.0) >= amount for name, amount in shape.items())


def distinct(bundles: Iterable[Shape]) -> list[Shape]:
    """Each shape once, in order."""
    found: list[Shape] = []
    for bundle in bundles:
        if bundle not in found:
            found.append(bundle)
    return found


def bundles_text(bundles: Sequence[Shape]) -> str:
    """`2 × (1 CPU) + 1 × (1 GPU)`."""
    counted = [(sum(other == one for other in bundles), one) for one in distinct(bundles)]
    return " + ".join(f"{count} × ({shape_text(one)})" for count, one in counted[:4]) + (
        f" + {len(counted) - 4} more shapes" if len(counted) > 4 else ""
    )


def _no_node(shape: Shape, nodes: Sequence[RayNodeSeen]) -> str:
    """Names what no single node has enough of."""
    most = {name: max(node.total.get(name, 0.0) for node in nodes) for name in shape}
    lacking = [name for name in sorted(shape) if most[name] < shape[name]]
    if not lacking:
        return f"no node has {shape_text(shape)} together"
    told = [
        f"no node has more than {_amount(name, most[name])}"
        if most[name]
        else f"no node has any {name}"
        for name in lacking
    ]
    return " and ".join(told)


def _amount(name: str, amount: float) -> str:
    if name in ("memory", "object_store_memory"):
        return f"{bytes_text(int(amount))} of memory"
    return f"{_number(amount)} {name}"


def _number(amount: float) -> str:
    return f"{amount:.4f}".rstrip("0").rstrip(".")


def _sum(shapes: Iterable[Shape]) -> Shape:
    found: Shape = {}
    for shape in shapes:
        for name, amount in shape.items():
            found[name] = found.get(name, 0.0) + amount
    return found


def _only(has: Shape, wanted: Shape) -> Shape:
    return {name: has.get(name, 0.0) for name in wanted}
