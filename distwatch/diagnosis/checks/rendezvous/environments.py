"""rendezvous.env_missing, backend_unavailable: what a process was not given, or does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.failures import MISSING_VARIABLE, VARIABLES, Failure
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.state.rank_sets import agree, name_ranks

_LISTED = 8


def severity_of(case: Case, failed: list[Failure], waiting: tuple[int, ...]) -> Severity:
    """How bad failed calls are: they ended their process, keep others waiting, or were caught."""
    if any(failure.uncaught or failure.process.ended_ns is not None for failure in failed):
        return "crash"
    # In a Ray actor every exception is caught, but the task failed with it.
    if any(failure.process.identity.launcher == "ray" for failure in failed):
        return "crash"
    return "hang" if waiting else "warning"


def ranks_of(failed: Iterable[Failure]) -> tuple[int, ...]:
    """The ranks that failed, where they know their rank."""
    return tuple(sorted({f.global_rank for f in failed if f.global_rank is not None}))


def who_of(failed: list[Failure]) -> str:
    """`ranks 0-3`, or the processes where no rank is known."""
    if ranks := ranks_of(failed):
        return name_ranks(ranks)
    if len(failed) == 1:
        process = failed[0].process
        return f"the process with pid {process.pid} on {process.host}"
    return f"{len(failed)} processes"


class EnvMissing:
    """A script relies on the launcher's variables, and they are not set."""

    def find(self, case: Case) -> Iterable[Finding]:
        failed = [f for f in case.failures if f.code == "rendezvous.env_missing"]
        by_names: dict[tuple[str, ...], list[Failure]] = {}
        for failure in failed:
            by_names.setdefault(_missing_names(failure), []).append(failure)
        for names, ours in sorted(by_names.items()):
            yield self._finding(case, names, ours)

    def _finding(self, case: Case, names: tuple[str, ...], failed: list[Failure]) -> Finding:
        culprits = ranks_of(failed)
        waiting = case.waiting_for(culprits) if culprits else tuple(case.waiting)
        in_ray = any(failure.process.identity.launcher == "ray" for failure in failed)
        whole = len(names) == len(VARIABLES)
        return Finding(
            code="rendezvous.env_missing",
            severity=severity_of(case, failed, waiting),
            culprit_ranks=culprits,
            waiting_ranks=waiting,
            summary=f"{', '.join(names)} {agree(names, 'is', 'are')} not set for {who_of(failed)}: "
            + (
                "started without a launcher"
                if whole
                else f"init_process_group needs {agree(names, 'it', 'them')}"
            )
            + (", as a Ray actor" if in_ray else ""),
            advice=_advice(names, in_ray),
            evidence=tuple(failure.evidence() for failure in failed[:_LISTED]),
        )


def _advice(names: tuple[str, ...], in_ray: bool) -> str:
    it = agree(names, "it", "them")
    if in_ray:
        given = ", ".join(f'"{name}": …' for name in names)
        return (
            f"Ray does not set {it}. Pass {it} to each actor: "
            f'.options(runtime_env={{"env_vars": {{{given}}}}}), or set {it} in its __init__ before torch is used.'
        )
    return (
        f"Start the script with torchrun --nproc-per-node=N script.py, which sets {it}, "
        f"or set {', '.join(names)} yourself for every process."
    )


def _missing_names(failure: Failure) -> tuple[str, ...]:
    """All variables that are missing; torch names only the first."""
    found = MISSING_VARIABLE.search(failure.text)
    named = {name for name in (found.groups() if found else ()) if name}
    plan, identity = failure.process.planned, failure.process.identity
    if plan is not None and plan.method == "env":
        named |= {name for name, absent in _absent_by(plan).items() if absent}
        # The plan has a whole endpoint or none.
        said = {"MASTER_ADDR": identity.master_addr, "MASTER_PORT": identity.master_port}
        named -= {name for name, value in said.items() if value is not None}
    elif plan is None and identity.launcher in ("unknown", "ray", "accelerate"):
        said = {"RANK": identity.global_rank, "WORLD_SIZE": identity.world_size}
        named |= {name for name, value in said.items() if value is None}
    known = [name for name in VARIABLES if name in named]
    return tuple(known + sorted(named - set(known)))


def _absent_by(plan: InitPlanned) -> dict[str, bool]:
    return {
        "RANK": plan.global_rank is None,
        "WORLD_SIZE": plan.world_size is None,
        "MASTER_ADDR": not plan.endpoint,
        "MASTER_PORT": not plan.endpoint,
    }


_LACKS: tuple[tuple[str, str, str], ...] = (
    # words, the reason, the fix
    (
        r"xla",
        "the xla backend exists only once torch_xla is imported, and it is not imported",
        "Install the torch_xla for this torch and import torch_xla.distributed.xla_backend before "
        "init_process_group (Neuron: torch-neuronx), or use backend='gloo'.",
    ),
    (
        r"doesn't have (\w+) built in",
        "this build of torch has no {0}",
        "Install a build of torch that has it (NCCL: a CUDA build), or use backend='gloo'.",
    ),
    (
        r"only supported with gpus, no gpus found|no (?:nvidia|cuda) gpus are available"
        r"|not compiled with cuda enabled",
        "nccl needs a GPU, and torch sees none in this process",
        "Check nvidia-smi and CUDA_VISIBLE_DEVICES (containers: --gpus all), or use backend='gloo'.",
    ),
    (
        r"invalid device ordinal",
        "no GPU has that number: this host has more ranks than GPUs, or CUDA_VISIBLE_DEVICES hides some",
        "Start at most one rank per GPU (torchrun --nproc-per-node), and select it by LOCAL_RANK, not RANK.",
    ),
    (
        r"duplicate gpu detected",
        "two ranks use one GPU, which NCCL refuses",
        "Give each rank a GPU of its own: torch.cuda.set_device(LOCAL_RANK) before init_process_group.",
    ),
    (
        r".",
        "torch does not know this backend",
        "Use gloo, nccl, xla or mpi, or import the plugin that registers it before init_process_group.",
    ),
)


class BackendUnavailable:
    """The requested backend does not work in that process; each reason has its fix."""

    def find(self, case: Case) -> Iterable[Finding]:
        by_reason: dict[tuple[str, str], list[Failure]] = {}
        for failure in case.failures:
            if failure.code == "rendezvous.backend_unavailable":
                by_reason.setdefault(_reason(failure.text), []).append(failure)
        for (why, fix), failed in sorted(by_reason.items()):
            culprits = ranks_of(failed)
            waiting = case.waiting_for(culprits) if culprits else tuple(case.waiting)
            plan = failed[0].process.planned
            backend = f" {plan.backend!r}" if plan and plan.backend else ""
            yield Finding(
                code="rendezvous.backend_unavailable",
                severity=severity_of(case, failed, waiting),
                culprit_ranks=culprits,
                waiting_ranks=waiting,
                summary=f"{who_of(failed)} cannot use backend{backend}: {why}",
                advice=fix,
                evidence=(
                    *(failure.evidence() for failure in failed[:_LISTED]),
                    *_evidence_of_devices(failed),
                ),
            )


def _reason(text: str) -> tuple[str, str]:
    for words, why, fix in _LACKS:
        if found := re.search(words, text, re.I):
            return why.format(*found.groups()), fix
    raise AssertionError("the last pattern matches every text")


def _evidence_of_devices(failed: list[Failure]) -> Iterable[Evidence]:
    """Ranks that said which GPU they will use: a shared one is visible at once."""
    for failure in failed[:_LISTED]:
        plan = failure.process.planned
        if plan is not None and plan.device:
            text = f"rank {failure.global_rank} will use GPU {plan.device}"
            yield Evidence("journal", text, failure.global_rank)
