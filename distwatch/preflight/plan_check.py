"""A layout of a plan against its own arithmetic and against this machine."""

from __future__ import annotations

import os

import msgspec

from distwatch.agent.initialization.environment import Launched, backend_unavailable
from distwatch.preflight.accelerators import NO_GPU_VISIBLE, backend_findings, host_gpus
from distwatch.preflight.plan import Plan, validate
from distwatch.preflight.rank_groups import Axis, axes_of
from distwatch.preflight.training_and_rollout import fit_together
from distwatch.preflight.values import Section
from distwatch.state.advice import ONE_RANK_PER_GPU
from distwatch.state.finding import Finding
from distwatch.state.identity import identify
from distwatch.state.rank_sets import agree
from distwatch.state.steps import COLLECTIVE

OPTIONS = ("tensor", "pipeline", "context", "expert", "data")
"""Sizes that `distwatch check` takes as options."""
_ALONE = Launched(method="alone")


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one layout. `axes` is empty where the sizes do not divide the world."""

    section: Section
    axes: tuple[Axis, ...] = ()
    findings: list[Finding]


def examine_section(section: Section) -> CheckResult:
    """Checks one layout of a file."""
    plan = section.plan
    if section.undecided:
        return CheckResult(section=section, findings=[_undecided(section), *_machine(plan)])
    arithmetic = validate(plan)
    divides = not any(finding.blocks for finding in arithmetic)
    axes = axes_of(plan, plan.ranks) if divides and plan.ranks else ()
    found = _ordered([*arithmetic, *_machine(plan), *_timeouts(plan)])
    return CheckResult(section=section, axes=axes, findings=found)


def examine_sections(sections: list[Section]) -> list[CheckResult]:
    """Checks the layouts of a file, and whether training and rollout fit together."""
    results = [examine_section(section) for section in sections]
    between = fit_together(sections)
    return [
        msgspec.structs.replace(
            one, findings=_ordered([*one.findings, *between.get(one.section.name, ())])
        )
        for one in results
    ]


def _ordered(findings: list[Finding]) -> list[Finding]:
    return sorted((one.before_launch() for one in findings), key=lambda one: not one.blocks)


def _undecided(section: Section) -> Finding:
    options = [f"--{axis} N" for axis in section.undecided if axis in OPTIONS]
    return Finding(
        code="group.size_invalid",
        severity="info",
        summary=f"the file alone does not give {', '.join(section.undecided)}, so this layout was not checked",
        advice=f"Pass {agree(options, 'it as an option', 'them as options')}: {' '.join(options)}."
        if len(options) == len(section.undecided)
        else "Write the number into the file.",
    )


def _machine(plan: Plan) -> list[Finding]:
    """What this host lacks."""
    found = backend_findings(plan.backend, _ALONE, os.environ) if plan.backend else []
    gpus, local = host_gpus(), plan.ranks_per_node
    if local is None and plan.nodes in (None, 1):
        local = plan.ranks
    if "nccl" in plan.backend and gpus and local and local > gpus:
        what = f"{local} ranks will run on each host, but this one has {gpus} GPU{'s' if gpus > 1 else ''}"
        found.append(backend_unavailable(what, ONE_RANK_PER_GPU, source="proc"))
    several = (plan.nodes or 1) > 1 or (local or 0) < (plan.ranks or 0)
    return [_perhaps_elsewhere(one) if several or _lacks_only_gpus(one) else one for one in found]


def _lacks_only_gpus(finding: Finding) -> bool:
    """Whether this host has no GPU, and no launcher has started us on it: jobs may only be submitted here."""
    no_gpu = any(one.text == NO_GPU_VISIBLE for one in finding.evidence) and host_gpus() == 0
    return no_gpu and identify(os.environ).launcher == "unknown"


def _perhaps_elsewhere(finding: Finding) -> Finding:
    """A plan may be checked on a host that runs no rank."""
    advice = f"{finding.advice} Ignore this where this host runs no rank."
    return msgspec.structs.replace(finding, severity="warning", confidence=0.6, advice=advice)


def _timeouts(plan: Plan) -> list[Finding]:
    deadline = plan.deadlines.get(COLLECTIVE.name, COLLECTIVE.deadline_s)
    if plan.timeout_s is None or plan.timeout_s > deadline:
        return []
    return [
        Finding(
            code="rendezvous.config_disagrees",
            severity="info",
            summary=f"torch's timeout ends collectives after {plan.timeout_s:g} s, before distwatch reports "
            f"them ({deadline:g} s)",
            advice=f"Set DISTWATCH_DEADLINES=collective={max(1, plan.timeout_s / 2):g}, or a longer timeout.",
        )
    ]
