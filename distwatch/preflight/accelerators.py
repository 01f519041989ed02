"""Whether a backend can work here, and whether each rank has a GPU. Never imports torch."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from distwatch.agent.initialization.environment import Launched, backend_unavailable
from distwatch.state.advice import NO_GPU, ONE_RANK_PER_GPU
from distwatch.state.bounds import whole_number
from distwatch.state.finding import Finding, Severity

_PLUGINS = {"xla": "torch_xla", "hccl": "torch_npu", "ccl": "oneccl_bindings_for_pytorch"}
NO_GPU_VISIBLE = "no GPU is visible"
_BUILT_IN = ("gloo", "nccl", "mpi", "ucc")


def host_gpus() -> int | None:
    """The GPUs of this host or container; None where they cannot be counted (AMD)."""
    devices = _names("/dev")
    given = [name for name in devices if re.fullmatch(r"nvidia\d+", name)]
    if given:
        return len(given)
    if listed := _names("/proc/driver/nvidia/gpus"):
        return len(listed)
    return None if "kfd" in devices else 0


def visible_gpus(environ: Mapping[str, str]) -> int | None:
    """How many of them a process of that environment sees; None where that is not known."""
    total = host_gpus()
    said = environ.get("CUDA_VISIBLE_DEVICES")
    if said is None or total is None:
        return total
    named = _named(said)
    return (
        min(len(named), total)
        if all(whole_number(name) is not None for name in named)
        else len(named)
    )


def backend_findings(backend: str, launched: Launched, environ: Mapping[str, str]) -> list[Finding]:
    """Findings for the parts of a backend (`gloo`, `nccl`, `cpu:gloo,cuda:nccl`, …) that are missing here."""
    rank = _rank(launched)
    who = "this process" if rank is None else f"rank {rank}"
    names = (part.rpartition(":")[2].strip().lower() for part in backend.split(","))
    return [
        backend_unavailable(
            f"{who} cannot use backend {name!r} here: {lack.reason}",
            lack.fix,
            rank,
            seen=lack.reason,
            source="proc",
            severity=lack.severity,
            confidence=1.0 if lack.severity == "crash" else 0.6,
        )
        for name in names
        if name and (lack := lack_of(name, environ)) is not None
    ]


def gpu_findings(environ: Mapping[str, str], launched: Launched, *, nccl: bool) -> list[Finding]:
    """Findings for GPUs that two ranks would share or that do not exist. `nccl`: the backend needs them."""
    severity: Severity = "crash" if nccl else "warning"
    return [*_double(environ, launched, severity), *_too_few(environ, launched, severity)]


def _double(environ: Mapping[str, str], launched: Launched, severity: Severity) -> list[Finding]:
    said, total = environ.get("CUDA_VISIBLE_DEVICES", ""), host_gpus()
    named = _named(said)
    twice = [name for name, count in Counter(named).items() if count > 1]
    absent = [name for name in named if total and (whole_number(name) or 0) >= total]
    if twice:
        told = f"names GPU {twice[0]} twice"
        advice = "Name each GPU once: NCCL does not work between two ranks on one GPU."
    elif absent:
        told = f"names GPU {absent[0]}, but this host has {total}: CUDA ignores it and all after it"
        advice = "Name GPUs that nvidia-smi lists."
    else:
        return []
    return [_finding(f"CUDA_VISIBLE_DEVICES={said} {told}", advice, launched, severity)]


def _too_few(environ: Mapping[str, str], launched: Launched, severity: Severity) -> list[Finding]:
    visible, local = visible_gpus(environ), launched.local_world_size
    if not visible or local is None or local <= visible:
        return []
    # One visible GPU each is how Slurm and Ray share a host.
    if visible == 1 and environ.get("CUDA_VISIBLE_DEVICES"):
        return []
    be = "is" if visible == 1 else "are"
    what = f"{local} ranks will run on this host, but only {visible} of its GPUs {be} visible"
    return [_finding(what, ONE_RANK_PER_GPU, launched, severity)]


def _finding(what: str, advice: str, launched: Launched, severity: Severity) -> Finding:
    return backend_unavailable(what, advice, _rank(launched), source="proc", severity=severity)


def _rank(launched: Launched) -> int | None:
    return launched.global_rank if launched.method != "alone" else None


class Lack(NamedTuple):
    """Why a backend cannot be used, and what to do."""

    reason: str
    fix: str
    severity: Severity = "crash"


def lack_of(name: str, environ: Mapping[str, str]) -> Lack | None:
    """What one backend lacks; torch's own word where it is loaded, which it never is by this."""
    if importlib.util.find_spec("torch") is None:
        fix = "pip install torch, or activate the job's environment."
        return Lack("torch is not installed in this Python", fix)
    c10d = sys.modules.get("torch.distributed")
    is_available = getattr(c10d, f"is_{name}_available", None)
    if is_available is not None and not is_available():
        fix = "Use another backend (gloo needs nothing), or a build of torch that has it."
        return Lack(f"this build of torch has no {name}", fix)
    if name == "nccl" and visible_gpus(environ) == 0:
        return Lack(NO_GPU_VISIBLE, NO_GPU)
    if name in _BUILT_IN or hasattr(getattr(c10d, "Backend", None), name.upper()):
        return None
    package = _PLUGINS.get(name)
    if package is None:
        fix = "Import the plugin that registers it, or correct the name."
        return Lack(f"torch itself has no backend {name!r}", fix, "warning")
    if importlib.util.find_spec(package) is None:
        fix = f"pip install {package.replace('_', '-')} for this torch, or use backend='gloo'."
        return Lack(f"{package} is not installed", fix)
    return None


def _named(said: str) -> list[str]:
    names: list[str] = []
    for name in (part.strip() for part in said.split(",")):
        # CUDA stops at the first entry that names no GPU.
        if name in ("", "-1", "NoDevFiles"):
            break
        names.append(name)
    return names


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
