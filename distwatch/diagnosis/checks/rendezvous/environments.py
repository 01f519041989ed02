"""rendezvous.env_missing, backend_unavailable: what a process was not given, or does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.diagnosis.checks.failed_calls import FailedCalls, Told, who_of
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.failures import MISSING_VARIABLE, VARIABLES, Failure
from distwatch.state.advice import NO_GPU, ONE_RANK_PER_GPU, OWN_GPU
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Evidence
from distwatch.state.rank_sets import agree

_LISTED = 8


def _env_missing(case: Case, failed: list[Failure]) -> Told:
    names = _missing_names(failed[0])
    in_ray = any(failure.process.identity.launcher == "ray" for failure in failed)
    whole = len(names) == len(VARIABLES)
    needs = f"init_process_group needs {agree(names, 'it', 'them')}"
    return Told(
        f"{', '.join(names)} {agree(names, 'is', 'are')} not set for {who_of(failed)}: "
        + ("started without a launcher" if whole else needs)
        + (", as a Ray actor" if in_ray else ""),
        _advice(names, in_ray),
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
    return (*(n for n in VARIABLES if n in named), *sorted(named - set(VARIABLES)))


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
        NO_GPU,
    ),
    (
        r"invalid device ordinal",
        "no GPU has that number: this host has more ranks than GPUs, or CUDA_VISIBLE_DEVICES hides some",
        ONE_RANK_PER_GPU,
    ),
    (
        r"duplicate gpu detected",
        "two ranks use one GPU, which NCCL refuses",
        OWN_GPU,
    ),
    (
        r".",
        "torch does not know this backend",
        "Use gloo, nccl, xla or mpi, or import the plugin that registers it before init_process_group.",
    ),
)


def _backend_unavailable(case: Case, failed: list[Failure]) -> Told:
    why, fix = _reason(failed[0].text)
    plan = failed[0].process.planned
    backend = f" {plan.backend!r}" if plan and plan.backend else ""
    summary = f"{who_of(failed)} cannot use backend{backend}: {why}"
    return Told(summary, fix, tuple(_evidence_of_devices(failed)))


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


ENV_MISSING = FailedCalls({"rendezvous.env_missing": _env_missing}, _missing_names)
"""A script relies on the launcher's variables, and they are not set."""
BACKEND_UNAVAILABLE = FailedCalls(
    {"rendezvous.backend_unavailable": _backend_unavailable}, lambda failure: _reason(failure.text)
)
"""The requested backend does not work in that process; each reason has its fix."""
