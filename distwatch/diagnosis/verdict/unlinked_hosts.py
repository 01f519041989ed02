"""Hosts of a run that are not seen now: no rank there is blamed for what it may not be doing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.processes.actor_ends import ended_by_rays_word
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.host_links import root_above, unseen_hosts
from distwatch.diagnosis.facts.job import Job
from distwatch.state.codes import family_of
from distwatch.state.finding import Evidence, Finding
from distwatch.state.rank_sets import name_ranks

UNSEEN_CONFIDENCE = 0.3


def discount_unlinked(case: Case, found: Iterable[Finding]) -> list[Finding]:
    """The findings, without blame for ranks that no observer sees from here."""
    hidden, elsewhere, findings = _out_of_sight(case), _elsewhere(case), list(found)
    if not hidden and not elsewhere:
        return findings
    findings = [
        # A rank that came to the store is known, whatever host it is on.
        _as_far_as_seen(f, hidden if family_of(f.code).by_store else {**elsewhere, **hidden})
        for f in findings
    ]
    if not any(finding.blocks and finding.role == "root" for finding in findings):
        findings = _with_a_root(findings, hidden)
    return findings


def _out_of_sight(case: Case) -> dict[int, str]:
    """Ranks whose place is not known now, and why."""
    job, state = case.job, case.state
    lost = unseen_hosts(state)
    gone = ended_by_rays_word(case)
    hidden = {
        rank: f"{process.host} was {lost[process.host].text}"
        for rank, process in job.ranks.items()
        if process.host in lost and process.ended_ns is None and rank not in gone
    }
    # In the folder of a leaf, or of a rack's root: whatever it has not seen may be on another host.
    if job.world and (root := root_above(state)):
        for rank in set(range(job.world)) - job.ranks.keys():
            hidden[rank] = f"only the observer at {root} sees other hosts"
    return hidden


def _elsewhere(case: Case) -> dict[int, str]:
    """Ranks on hosts from which no observer ever reported: it is not known which of them hangs."""
    job = case.job
    unseen = set(range(job.world or 0)) - job.ranks.keys()
    if len(unseen) < 2 or _are_all_hosts(job):
        return {}
    why = "no observer on their hosts is linked to this one (`distwatch up` links them)"
    return dict.fromkeys(unseen, why)


def _are_all_hosts(job: Job) -> bool:
    """Whether the seen hosts hold the whole world: each says how many ranks it should have."""
    given = {p.host: p.identity.local_world_size for p in job.ranks.values()}
    return sum(size or 0 for size in given.values()) >= (job.world or 0)


def _with_a_root(findings: list[Finding], hidden: dict[int, str]) -> list[Finding]:
    """Where nobody sees the cause of a hang, its first symptom becomes the root."""
    first = next((finding for finding in findings if finding.blocks), None)
    if first is None:
        return findings
    silent = [rank for rank in hidden if rank not in first.waiting_ranks]
    root = _doubtful(msgspec.structs.replace(first, role="root"), silent, hidden)
    return [root, *(finding for finding in findings if finding is not first)]


def _as_far_as_seen(finding: Finding, hidden: dict[int, str]) -> Finding:
    waiting = set(finding.waiting_ranks)
    if finding.severity == "crash" and waiting and waiting <= hidden.keys():
        # Ranks may have left, in good order, what they were in when they were last seen.
        finding = msgspec.structs.replace(finding, severity="warning")
        return _doubtful(finding, sorted(waiting), hidden)
    out = [rank for rank in finding.culprit_ranks if rank in hidden]
    return _doubtful(finding, out, hidden) if finding.blocks else finding


def _doubtful(finding: Finding, out: list[int], hidden: dict[int, str]) -> Finding:
    if not out:
        return finding
    ranks = name_ranks(out)
    told = f"{ranks} cannot be seen now: {hidden[out[0]]}"
    return msgspec.structs.replace(
        finding,
        culprit_ranks=tuple(rank for rank in finding.culprit_ranks if rank not in hidden),
        confidence=min(finding.confidence, UNSEEN_CONFIDENCE),
        summary=f"{finding.summary}; but {told}",
        evidence=(*finding.evidence, Evidence("journal", told)),
    )
