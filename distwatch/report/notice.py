"""What people are told about an incident: a few lines that page well, and a report without stacks."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from distwatch.diagnosis.verdict.causes import UNCERTAIN
from distwatch.redaction import redact_text
from distwatch.state.finding import Finding
from distwatch.state.rank_sets import name_ranks
from distwatch.visible_text import visible_line

Phase = Literal["new", "recovered", "ended", "replaced", "test"]
BODY_MOST = 1 << 20
"""Bytes of a report that is sent to an address; a longer one loses its longest lists."""
SUMMARY_MOST = 600
HOSTS_NAMED = 4
_OVER = {
    "recovered": "the run moves again",
    "ended": "the run has ended",
    "replaced": "another incident has taken its place",
}
_LISTS = ("timeline", "groups", "ranks", "models", "devices", "layouts")


class _Run(msgspec.Struct):
    id: str


class _Rank(msgspec.Struct):
    global_rank: int
    host: str = ""
    step: int | None = None


class _Report(msgspec.Struct):
    """What of report.json a notice needs."""

    run: _Run
    findings: list[Finding] = []
    ranks: list[_Rank] = []


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One message about one incident."""

    phase: Phase
    run: str
    incident: int = 0
    severity: str = ""
    code: str = ""
    summary: str = ""
    advice: str = ""
    confidence: float = 1.0
    culprit_ranks: tuple[int, ...] = ()
    waiting_ranks: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    """Of the culprits."""
    step: int | None = None
    """The culprits' training step, where it is known and the same."""
    place: str = ""
    """`host:folder` of the incident."""

    @property
    def title(self) -> str:
        """One line: what, where, and who."""
        if self.phase == "test":
            return f"distwatch: test message from {self.run}"
        if self.phase != "new":
            return f"distwatch: {self.run}: incident {self.incident} is over: {_OVER[self.phase]}"
        who = f" by {name_ranks(self.culprit_ranks)}" if self.culprit_ranks else ""
        return f"distwatch: {self.severity} in {self.run}{who}: {self.code}"

    @property
    def text(self) -> str:
        """The title, the verdict, where, what to do, and where the report lies."""
        lines = [self.title, self.summary, self._whereabouts()]
        if self.phase == "new":
            unsure = self.confidence < UNCERTAIN
            lines.append("not certain: look before you act" if unsure else "")
            lines.append(f"do: {self.advice}" if self.advice else "")
        if self.place:
            lines.append(f"report: {self.place}/report.md (distwatch report {self.run})")
        return "\n".join(filter(None, lines))

    def _whereabouts(self) -> str:
        ranks = name_ranks(self.culprit_ranks) if self.culprit_ranks else ""
        parts = [f"{ranks} on {_hosts(self.hosts)}" if ranks and self.hosts else ranks]
        if self.phase == "new":
            parts.append(f"step {self.step}" if self.step is not None else "")
            waiting = len(self.waiting_ranks)
            parts.append(f"{waiting} {'ranks wait' if waiting > 1 else 'rank waits'}" if waiting else "")  # fmt: skip
        return " · ".join(filter(None, parts))


def notice_of(report: bytes, incident: int, place: str, phase: Phase = "new") -> Notice:
    """The notice about an incident's report.json.

    Raises:
        msgspec.DecodeError: it is not a report.
    """
    read = msgspec.json.decode(report, type=_Report)
    root = next((f for f in read.findings if f.role == "root"), None)
    if root is None:
        return Notice(phase=phase, run=_line(read.run.id), incident=incident, place=place)
    at = [rank for rank in read.ranks if rank.global_rank in set(root.culprit_ranks)]
    steps = {rank.step for rank in at}
    return Notice(
        phase=phase,
        run=_line(read.run.id),
        incident=incident,
        severity=root.severity,
        code=root.code,
        summary=_line(root.summary),
        advice=_line(root.advice),
        confidence=root.confidence,
        culprit_ranks=root.culprit_ranks,
        waiting_ranks=root.waiting_ranks,
        hosts=tuple(sorted({_line(rank.host) for rank in at if rank.host})),
        step=steps.pop() if len(steps) == 1 else None,
        place=place,
    )


def body_of(report: bytes, notice: Notice) -> bytes:
    """report.json for another machine: no stacks, no exceptions, no source, and no more than BODY_MOST.

    Its `text` is what Slack, Mattermost and others show; `notice` says what the message is about.
    """
    document: dict[str, Any] = msgspec.json.decode(report) if report else {}
    document.pop("stacks", None)
    suspicion = (document.get("verdict") or {}).get("suspicion")
    for finding in (*document.get("findings", ()), suspicion):
        if finding:
            finding["evidence"] = [e for e in finding["evidence"] if e.get("source") != "stack"]
            for way in finding.get("why", ()):
                way |= {"source": "", "lines": []}
    for rank in document.get("ranks", ()):
        rank.pop("exception", None)
    told = msgspec.structs.asdict(notice)
    document |= {"text": notice.text, "notice": {**told, "title": notice.title}, "stacks": []}
    for name in _LISTS:
        if len(body := msgspec.json.encode(document)) <= BODY_MOST:
            return body
        document[name] = []
    return msgspec.json.encode(document)


def _line(text: str) -> str:
    return visible_line(redact_text(text, SUMMARY_MOST))


def _hosts(hosts: tuple[str, ...]) -> str:
    more = f" and {len(hosts) - HOSTS_NAMED} more" if len(hosts) > HOSTS_NAMED else ""
    return ", ".join(hosts[:HOSTS_NAMED]) + more
