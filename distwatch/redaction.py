"""Keeps secrets out of everything that is written: by allow-list, and by shape where text is free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_ALLOWED = re.compile(
    r"^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|NODE_RANK|MASTER_ADDR|MASTER_PORT"
    r"|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS|DISTWATCH\w*|TORCHELASTIC_\w+|TORCH_(DISTRIBUTED|NCCL|FR|GLOO|CPP)_\w+"
    r"|NCCL_\w+|GLOO_\w+|SLURM_(JOB_ID|STEP_ID|PROCID|LOCALID|NODEID|NTASKS|NTASKS_PER_NODE|RESTART_COUNT)"
    r"|OMPI_COMM_WORLD_\w+|PMI_(RANK|SIZE)|PMIX_RANK|PET_\w+)$"
)
_SECRET_NAME = (
    r"[\w-]*(?:token|secret|passw(?:or)?d|passwd|api[_-]?key|access[_-]?key|credential|auth"
    r"|private[_-]?key|cookie)[\w-]*"
)
_ASSIGNED = re.compile(rf"(?i)\b({_SECRET_NAME})(\s*[=:]\s*|\s+)(\"[^\"]*\"|'[^']*'|[^\s,;&]+)")
_FLAG = re.compile(rf"(?i)^--?{_SECRET_NAME}$")
_URL_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@")
_SHAPES = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{40,})\b"
)
_QUERY = re.compile(r"(?<=[\w/.~%-])\?[\w.~%-]+=[^\s\"'<>()]*")
"""Of a URL, or of its path alone: it may be what signs it."""
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.S
)
HIDDEN = "[redacted]"


def redact_text(text: str) -> str:
    """Free text (a message, a traceback line, an argument) with what looks secret replaced."""
    text = _KEY_BLOCK.sub(HIDDEN, text)
    text = _URL_USER.sub(rf"\1{HIDDEN}@", text)
    text = _QUERY.sub(f"?{HIDDEN}", text)
    text = _SHAPES.sub(HIDDEN, text)
    return _ASSIGNED.sub(_hide_assigned, text)


def _hide_assigned(match: re.Match[str]) -> str:
    name, separator, value = match.groups()
    # "auth failed", "token of rank 3": words after a space are prose unless they look random.
    if not separator.strip() and not (len(value) >= 16 and any(c.isdigit() for c in value)):
        return match.group(0)
    return f"{name}{separator}{HIDDEN}"


def redact_command(argv: Iterable[str]) -> tuple[str, ...]:
    """A command line; the value after a secret-looking option goes, too."""
    out: list[str] = []
    hide_next = False
    for argument in argv:
        out.append(HIDDEN if hide_next and not argument.startswith("-") else redact_text(argument))
        hide_next = _FLAG.match(argument) is not None
    return tuple(out)


def allowed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that may be written out: names of an allow-list, values still redacted."""
    return {
        name: redact_text(value) for name, value in sorted(environ.items()) if _ALLOWED.match(name)
    }
