"""Whether the plans of a world's ranks agree. The ranks themselves and diagnosis use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from distwatch.state.advice import OWN_GPU
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.state.rank_sets import format_ranks, name_by, ranks_by

Plans = Mapping[int, InitPlanned]
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
_LISTED = 8


class _Term(NamedTuple):
    """One thing that ranks must agree on. `read` gives None where a plan does not say it."""

    name: str
    code: str
    severity: Severity
    read: Callable[[InitPlanned], str | None]
    consequence: str
    advice: str = ""


def _order(plan: InitPlanned) -> str | None:
    return "-".join(plan.order) or None


def _debug_level(plan: InitPlanned) -> str:
    level = plan.variables.get("TORCH_DISTRIBUTED_DEBUG", "OFF").upper()
    return "DETAIL" if level == "DETAIL" else "not DETAIL"


def _torch(plan: InitPlanned) -> str | None:
    return ".".join(plan.versions.get("torch", "").split(".")[:2]) or None


def _said(items: Mapping[str, object], separator: str) -> str:
    return separator.join(f"{name}={value}" for name, value in sorted(items.items())) or "none"


def _layout_term(name: str, advice: str, read: Callable[[InitPlanned], str | None]) -> _Term:
    why = "the ranks would build different process groups"
    return _Term(name, "group.layout_disagrees", "hang", read, why, advice)


_TERMS = (
    _Term(
        "WORLD_SIZE",
        "rendezvous.world_size_disagrees",
        "hang",
        lambda plan: str(plan.world_size) if plan.world_size else None,
        "the ranks wait for different numbers of peers",
    ),
    _Term(
        "backend",
        "rendezvous.config_disagrees",
        "hang",
        lambda plan: plan.backend.lower() or None,
        "ranks with different backends never connect",
        "Pass the same backend to init_process_group on every rank.",
    ),
    _Term(
        "TORCH_DISTRIBUTED_DEBUG",
        "rendezvous.config_disagrees",
        "hang",
        _debug_level,
        "under DETAIL torch builds one more group, which the other ranks never join",
        "Set the same TORCH_DISTRIBUTED_DEBUG on every rank, or on none.",
    ),
    _layout_term(
        "framework",
        "Call distwatch.initialize with the same framework on every rank.",
        lambda plan: (plan.framework or "none") if plan.by == "distwatch" else None,
    ),
    _layout_term(
        "parallel sizes",
        "Give every rank the same tensor, pipeline, context, expert and data sizes.",
        lambda plan: _said(plan.sizes, " ") if plan.by == "distwatch" else None,
    ),
    _layout_term("order of axes", "Give every rank the same order of axes.", _order),
    _layout_term(
        "options of the framework",
        "Give every rank the same options.",
        lambda plan: (
            _said(plan.options, ", ") if plan.by == "distwatch" and plan.framework else None
        ),
    ),
    _Term(
        "timeout",
        "rendezvous.config_disagrees",
        "warning",
        lambda plan: f"{plan.timeout_s:g} s" if plan.timeout_s else None,
        "the ranks with the shorter timeout give up first and look like the cause",
        "Pass the same timeout to init_process_group on every rank.",
    ),
    _Term(
        "torch version",
        "rendezvous.config_disagrees",
        "warning",
        _torch,
        "different versions of torch may not understand each other",
        "Install the same torch on every host.",
    ),
)


def disagreements(plans: Plans, hosts: Mapping[int, str] | None = None) -> list[Finding]:
    """Where the plans of one world's ranks differ; what hangs the job comes first.

    The odd ones out are the culprits: those outside the largest group of ranks that agree; on
    a tie those that differ from the lowest rank, at a lower confidence.

    Args:
        plans: of the ranks that meet at one endpoint, by global rank.
        hosts: their hosts, where known: interface names are compared within one host only.
    """
    found = [finding for term in _TERMS if (finding := _judge(term, plans))]
    return [*_shared_devices(plans), *found, *_interfaces(plans, hosts or {})]


def odd_ones(values: Mapping[int, str]) -> tuple[set[int], Literal["majority", "tie"]]:
    """The ranks whose value is not the common one, and whether a majority decided that."""
    counts = Counter(values.values())
    most = max(counts.values())
    leading = [value for value, count in counts.items() if count == most]
    common = values[min(values)] if values[min(values)] in leading else leading[0]
    decided: Literal["majority", "tie"] = "majority" if len(leading) == 1 else "tie"
    return {rank for rank, value in values.items() if value != common}, decided


def layouts_differ(layouts: Mapping[int, Mapping[str, tuple[int, ...]]]) -> Finding | None:
    """The axis along which ranks hold different groups than their peers; None where all agree.

    Args:
        layouts: by global rank, its group along each axis, members in the order of the axis.
    """
    for axis in dict.fromkeys(axis for layout in layouts.values() for axis in layout):
        for rank, layout in sorted(layouts.items()):
            members = layout.get(axis, ())
            held = {peer: _members(layouts[peer].get(axis)) for peer in members if peer in layouts}
            held[rank] = _members(members)
            if len(set(held.values())) > 1:
                summary = f"the ranks hold different {axis} groups: {'; '.join(name_by(held, ' has ', ' have '))}"
                return _disagreement("group.layout_disagrees", axis, held, summary)
    return None


def _members(members: tuple[int, ...] | None) -> str:
    return "-".join(map(str, members)) if members else "no group"


def _disagreement(
    code: str,
    name: str,
    values: Mapping[int, str],
    summary: str,
    advice: str = "",
    severity: Severity = "hang",
) -> Finding:
    odd, decided = odd_ones(values)
    return Finding(
        code=code,
        severity=severity,
        culprit_ranks=tuple(sorted(odd)),
        waiting_ranks=tuple(sorted(set(values) - odd)) if severity == "hang" else (),
        summary=summary,
        advice=advice,
        evidence=tuple(
            Evidence("journal", f"rank {rank}: {name} {value}", rank)
            for rank, value in list(values.items())[:_LISTED]
        ),
        confidence=0.95 if decided == "majority" else 0.6,
    )


def _judge(term: _Term, plans: Plans, where: str = "") -> Finding | None:
    # Usually all agree, and there may be very many ranks.
    if len({value for plan in plans.values() if (value := term.read(plan)) is not None}) < 2:
        return None
    read = {rank: term.read(plan) for rank, plan in sorted(plans.items())}
    values = {rank: value for rank, value in read.items() if value is not None}
    listed = "; ".join(name_by(values, " has ", " have "))
    summary = f"{term.name} differs{where}: {listed}; {term.consequence}"
    if term.name.endswith("s"):
        summary = f"{term.name} differ{where}: {listed}; {term.consequence}"
    return _disagreement(term.code, term.name, values, summary, term.advice, term.severity)


def _shared_devices(plans: Plans) -> Iterable[Finding]:
    """A UUID names one GPU in the world: two ranks on it cannot both talk NCCL."""
    devices = dict(sorted((rank, plan.device) for rank, plan in plans.items() if plan.device))
    for device, ranks in ranks_by(devices).items():
        if len(ranks) > 1:
            yield Finding(
                code="rendezvous.backend_unavailable",
                severity="crash",
                culprit_ranks=tuple(ranks),
                summary=f"ranks {format_ranks(ranks)} would share one GPU ({device}), which NCCL refuses",
                advice=OWN_GPU,
                evidence=tuple(
                    Evidence("journal", f"rank {rank}: GPU {device}", rank)
                    for rank in ranks[:_LISTED]
                ),
            )


def _interfaces(plans: Plans, hosts: Mapping[int, str]) -> Iterable[Finding]:
    if len({tuple(map(p.variables.get, _INTERFACE_VARIABLES)) for p in plans.values()}) < 2:
        return
    by_host: dict[str, dict[int, InitPlanned]] = {host: {} for host in hosts.values()}
    for rank, plan in plans.items():
        if (host := hosts.get(rank)) is not None:
            by_host[host][rank] = plan
    for host, here in sorted(by_host.items()):
        for name in _INTERFACE_VARIABLES:
            term = _Term(
                name,
                "rendezvous.config_disagrees",
                "warning",
                lambda plan, name=name: plan.variables.get(name, "unset"),  # type: ignore[misc]
                "ranks of one host talk over different networks",
                f"Set the same {name} for all ranks of a host.",
            )
            if finding := _judge(term, here, f" on {host}"):
                yield finding
