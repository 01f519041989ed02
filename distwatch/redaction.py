"""Keeps secrets out of everything that is written: by an allow-list, and by their shape in free text.

It runs in the job, even while a rank dies, so its time is bounded for any text: a long text is cut
first, and no pattern looks twice at the same characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

HIDDEN = "[redacted]"
LONGEST = 16 * 1024
"""Characters of a text that are kept; of a longer text, both ends."""
_MARGIN = 1024
"""Characters that are examined beyond a cut, since half a secret has no recognizable shape."""
_WORDS_OF_CUT = 48

_ALLOWED = re.compile(
    r"^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|NODE_RANK|MASTER_ADDR|MASTER_PORT"
    r"|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS|DISTWATCH(?!_(?:TOKEN|NOTIFY|DRAIN)$)\w*|TORCHELASTIC_\w+|TORCH_(DISTRIBUTED|NCCL|FR|GLOO|CPP)_\w+"
    r"|NCCL_\w+|GLOO_\w+|SLURM_(JOB_ID|STEP_ID|PROCID|LOCALID|NODEID|NTASKS|NTASKS_PER_NODE|RESTART_COUNT)"
    r"|OMPI_COMM_WORLD_\w+|PMI_(RANK|SIZE)|PMIX_RANK|PET_\w+)$"
)


def _any_case(pattern: str) -> str:
    """The pattern with both cases of each letter: with re.I the engine tries every position."""
    return re.sub(r"[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", pattern)


# Nothing precedes a name: a pattern that begins with `[\w-]*` reads a long word once for each of
# its letters. `(?=(…))\1` never backtracks, so a mismatch costs only one pass.
_NAME = (
    _any_case(
        "(?:token(?!is|iz|s)|secret|passw|passphrase|pwd|credential|auth(?!or(?!is|iz))|cookie"
        "|(?:api|access|account|private)_?-?key|access_?-?sign)"
    )
    + r"(?=(?P<rest>[\w-]{0,40}))(?P=rest)"
)
_KEY = re.compile(
    rf"(?:{_NAME}|[_-]{_any_case('pass')})"
    r"(?:(?P<sign>\\{0,3}[\"']?[ \t]{0,8}(?:={1,3}(?=[ \t]{0,8}[bBrRuU]?[\"'])|=(?!=)|:)>?[ \t]{0,8})|\s{1,8})"
    rf"|{_any_case('(?:bearer|basic)')}\s{{1,8}}"
)
_QUOTED = re.compile(
    r"[bBrRuU]{0,2}\\{0,3}(?:\"[^\"\\\n]*(?:\\.[^\"\\\n]*)*\"?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?)"
)
_BARE = re.compile(r"[^\s,;&]+")
_CODE = re.compile(r"[A-Za-z_]\w{0,40}(?:\.[A-Za-z_]\w{0,40}){1,8}[(\[]")
"""`next_token = torch.argmax(…)`: a line of source, whose tokens are a model's."""
_HEADER = re.compile(
    rf"({_any_case('(?:authorization|cookie)')}\\{{0,3}}[\"']?\s{{0,8}}:\s{{0,8}})"
    rf"(?:{_QUOTED.pattern}|[^\"'\n]+)"
)
_FLAG = re.compile(rf"--?[\w-]{{0,60}}?(?:{_NAME}|{_any_case('pass|key')})\Z")
_FLAGGED = re.compile(
    r"(?<![\w-])(--?[A-Za-z][\w-]{0,60})([\"']?\s{0,4}[=,]\s{0,4}|\s{1,8})(?![\"']?-)"
    rf"(?:{_QUOTED.pattern}|{_BARE.pattern})"
)
_URL = re.compile(r"://[^\s\"'<>]+")
_QUERY = re.compile(r"\?(?<=[\w/.~%-]\?)[\w.~%-]+=[^\s\"'<>()]*")
"""The query of a URL, or of its path alone: it may be the URL's signature."""
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|[sr]k_(?:live|test)_\w{10,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|xox[abeprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{16,}"
    r"|hooks\.slack\.com/[\w/-]+|(?<!-)eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"
    r"|(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{40,}\b)"
)
_KEY_BEGIN, _KEY_END = "-----BEGIN ", "-----END "
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
    re.S,
)


def redact_text(text: str, most: int = LONGEST) -> str:
    """Free text (a message, a traceback, an argument) with what looks secret replaced.

    Args:
        most: of a text with more characters than this, and no more than LONGEST, both ends are kept,
            with the number of characters between them.
    """
    most = min(most, LONGEST)
    if len(text) <= most:
        return _redacted(text)
    half = max(0, most - _WORDS_OF_CUT) // 2
    if len(text) <= 2 * (half + _MARGIN):
        head = tail = _redacted(text)
        if len(head) <= most:
            return head
    else:
        # The examined margin is never shown, however short the rest has become.
        head = _redacted(text[: half + _MARGIN])[:-_MARGIN]
        tail_from = len(text) - half
        place = _outside_key(text, tail_from - _MARGIN)
        tail = _redacted(text[place:])[max(0, tail_from - place) :]
    left_out = f" … {len(text) - 2 * half} characters left out … "
    return f"{head[:half]}{left_out}{tail[len(tail) - min(half, len(tail)) :]}"


def _redacted(text: str) -> str:
    if _KEY_BEGIN in text:
        text = _KEY_BLOCK.sub(HIDDEN, text)
    if "://" in text:
        text = _URL.sub(_hide_user, text)
    if "?" in text:
        text = _QUERY.sub(f"?{HIDDEN}", text)
    text = _SHAPES.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\g<1>{HIDDEN}", text)
    if "-" in text:
        text = _FLAGGED.sub(_hide_flagged, text)
    return _hide_assigned(text)


def _outside_key(text: str, place: int) -> int:
    """That place, or the end of the private key around it, whose later lines have no shape."""
    key = text.rfind(_KEY_BEGIN, max(0, place - LONGEST), place)
    if key < 0 or text.find(_KEY_END, key, place) >= 0:
        return place
    end = text.find(_KEY_END, place)
    return end if end >= 0 else len(text)


def _hide_user(url: re.Match[str]) -> str:
    """`://user:password@host`: whatever a password contains, the host begins after the last @."""
    _, at, rest = url[0].rpartition("@")
    authority = url[0][3:].partition("/")[0]
    return f"://{HIDDEN}@{rest}" if at and (":" in authority or "@" in authority) else url[0]


def _hide_flagged(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{HIDDEN}" if _FLAG.match(match[1]) else match[0]


def _hide_assigned(text: str) -> str:
    """Hides the value in `name=value`, `'name': 'value'`, and `name value` if it looks random."""
    keys = list(_KEY.finditer(text))
    parts: list[str] = []
    done = 0
    for key, following in zip(keys, [*keys, None][1:], strict=True):
        if key.end() < done:
            continue
        # `auth: {password: …}`: the value may begin with the next name.
        end = following.start() if following else len(text)
        value = _QUOTED.match(text, key.end()) or _BARE.match(text, key.end(), end)
        # "auth failed", "token of rank 3": words after a space are prose unless they look random.
        if value is None or not (key["sign"] or _is_random(value[0])):
            continue
        if key[0][:5].lower() == "token" and _CODE.match(value[0]):
            continue
        parts += (text[done : key.end()], HIDDEN)
        done = value.end()
    return "".join((*parts, text[done:]))


def _is_random(value: str) -> bool:
    return len(value) >= 16 and any(c.isdigit() for c in value)


def redact_command(argv: Iterable[str]) -> tuple[str, ...]:
    """A command line; the value after a secret-looking option is replaced, too."""
    out: list[str] = []
    hide_next = False
    for argument in argv:
        out.append(HIDDEN if hide_next and not argument.startswith("-") else redact_text(argument))
        hide_next = _FLAG.match(argument) is not None
    return tuple(out)


def allowed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that may be written: names of an allow-list, with values still redacted."""
    return {
        name: redact_text(value) for name, value in sorted(environ.items()) if _ALLOWED.match(name)
    }
