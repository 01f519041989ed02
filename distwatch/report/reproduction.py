"""A small gloo script whose ranks part as those of a run did, for an issue: calls only, no model and no data."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.diagnosis.facts.sequences import Entry, history_of
from distwatch.errors import DistwatchError
from distwatch.redaction import redact_text
from distwatch.state.finding import Finding
from distwatch.state.rank_sets import name_ranks

_CODES = frozenset(
    f"collective.{name}"
    for name in ("rank_missing", "op_mismatch", "count_uneven", "shape_mismatch", "dtype_mismatch")
)
_LONGEST = 64
_MOST_RANKS = 64
_DTYPES = frozenset(("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8"))
_CALLS = {
    "all_reduce": "dist.all_reduce({tensor})",
    "broadcast": "dist.broadcast({tensor}, 0)",
    "reduce": "dist.reduce({tensor}, 0)",
    "barrier": "dist.barrier()",
    "all_gather": "dist.all_gather([{tensor} for _ in range(dist.get_world_size())], {tensor})",
}
_TEMPLATE = '''\
"""{title}

Made by `distwatch repro {run}`. Run it with
    torchrun --nproc-per-node={world} repro.py
or, to get the verdict,
    distwatch run --deadlines collective=10 -- torchrun --nproc-per-node={world} repro.py
"""

import time

import torch
import torch.distributed as dist


{functions}


CALLS = {{
{calls}
}}
"""What each rank calls, in this order."""
ELSEWHERE = {elsewhere}
"""Ranks that then do something else."""

dist.init_process_group("gloo")
for call in CALLS[dist.get_rank()]:
    call()
while dist.get_rank() in ELSEWHERE:
    time.sleep(1)
'''


class NotReproducible(DistwatchError):
    """The verdict is not about calls, or its calls are not all known."""


def reproduce(case: Case, finding: Finding, run_id: str) -> str:
    """The script for a finding.

    Raises:
        NotReproducible: no script can show it.
    """
    if finding.code not in _CODES:
        raise NotReproducible(
            f"{finding.code} is not about calls that do not fit",
            advice="Only such verdicts can be shown by a script of calls; attach the report instead.",
        )
    view = next((v for v in case.groups if _is_of(v, finding)), None)
    if view is None:
        raise NotReproducible(
            f"no call of the group of {finding.code} was recorded",
            advice="Run the job with `distwatch run -- …`: then its ranks' calls are.",
        )
    if len(view.members) > _MOST_RANKS:
        raise NotReproducible(
            f"the group of {finding.code} has more than {_MOST_RANKS} ranks",
            advice="Make the same verdict happen with fewer ranks.",
        )
    histories = _aligned(case, view)
    names: dict[tuple[str, str, int, str], str] = {}
    lines = [
        f"    {number}: [{', '.join(_named(names, entry) for entry in entries)}],"
        for number, entries in enumerate(histories)
    ]
    missing = finding.culprit_ranks if finding.code == "collective.rank_missing" else ()
    elsewhere = [number for number, rank in enumerate(view.members) if rank in missing]
    return _TEMPLATE.format(
        title=_plain(f"{finding.code}: {name_ranks(finding.culprit_ranks)} of {view.title}"),
        run=_plain(run_id),
        world=len(view.members),
        functions="\n\n\n".join(_function(key, name) for key, name in names.items()),
        calls="\n".join(lines),
        elsewhere=elsewhere,
    )


def _is_of(view: GroupView, finding: Finding) -> bool:
    ranks = {*finding.culprit_ranks, *finding.waiting_ranks}
    return view.pg_name == finding.pg_name and ranks <= set(view.members)


def _aligned(case: Case, view: GroupView) -> list[list[Entry]]:
    """Each member's calls, from the first number that is known of all that made any."""
    known = {rank: history_of(case, view, rank) for rank in view.members if rank in case.job.ranks}
    oldest = [_oldest_of_run(entries) for entries in known.values() if entries]
    if len(known) < len(view.members) or not oldest:
        raise NotReproducible(
            f"the calls of {view.title} are not known of all its ranks",
            advice="Run the job with `distwatch run -- …`, so that the calls of all ranks are recorded.",
        )
    newest = max(max(entries) for entries in known.values() if entries)
    since = max(max(oldest), newest - _LONGEST)
    return [
        [entry for seq, entry in sorted(entries.items()) if seq >= since]
        for entries in known.values()
    ]


def _oldest_of_run(entries: dict[int, Entry]) -> int:
    """The first number from which on none is missing."""
    number = max(entries)
    while number - 1 in entries:
        number -= 1
    return number


def _named(names: dict[tuple[str, str, int, str], str], entry: Entry) -> str:
    """The function for a call: one for each call site, so that the sites part as they did."""
    if entry.op not in _CALLS:
        raise NotReproducible(
            f"{entry.op} #{entry.seq} cannot be made again from its size alone",
            advice=f"Only calls of {', '.join(_CALLS)} can be written as a script.",
        )
    site = f"{entry.site.file.rpartition('/')[2]}:{entry.site.line}" if entry.site else ""
    key = (entry.op, entry.dtype, max(entry.numel, 1), site)
    return names.setdefault(key, f"{entry.op}_{len(names) + 1}")


def _function(key: tuple[str, str, int, str], name: str) -> str:
    op, dtype, numel, site = key
    kind = dtype if dtype in _DTYPES else "float32"
    tensor = f"torch.ones({numel}, dtype=torch.{kind})"
    at = f'    """As in {_plain(site)}."""\n' if site else ""
    return f"def {name}():\n{at}    {_CALLS[op].format(tensor=tensor)}"


def _plain(text: str) -> str:
    """Text from a run that can do nothing inside a docstring."""
    told: Iterable[str] = (c for c in redact_text(text) if c.isprintable() and c not in '"\\{}')
    return "".join(told)[:200]
