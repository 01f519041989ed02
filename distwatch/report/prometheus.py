"""Reports in Prometheus' text exposition format, version 0.0.4. A value that is not known has no sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.report.document import Group, Report
from distwatch.state.rank_sets import format_ranks
from distwatch.state.statuses import LETTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Sample = tuple[dict[str, str], float]


class Metric(msgspec.Struct, frozen=True):
    """One family. A text must not contain a family twice, so all runs' samples are together."""

    name: str
    kind: str
    help: str


_READABLE = Metric("distwatch_run_readable", "gauge", "Whether the run's records could be read.")
_BLOCKED = Metric("distwatch_run_blocked", "gauge", "Whether a hang or a crash was found.")
_FINDINGS = Metric("distwatch_findings", "gauge", "Findings by code, severity and role.")
_RANKS = Metric("distwatch_ranks", "gauge", "Ranks by status.")
_EXPECTED = Metric("distwatch_ranks_expected", "gauge", "The world size that most ranks say.")
_OBSERVED = Metric("distwatch_ranks_observed", "gauge", "Ranks that distwatch sees from inside.")
_HOSTS_SEEN = Metric("distwatch_hosts_seen", "gauge", "Hosts with ranks that an observer sees now.")
_HOSTS = Metric("distwatch_hosts_expected", "gauge", "Hosts with ranks that the run should have.")
_DROPPED = Metric("distwatch_dropped_events_total", "counter", "Events that are known to be lost.")
_HEARTBEAT = Metric(
    "distwatch_rank_heartbeat_age_seconds", "gauge", "Seconds since the last heartbeat."
)
_STILL = Metric(
    "distwatch_rank_still_seconds", "gauge", "Seconds since the rank was last seen to move."
)
_ENQUEUED = Metric(
    "distwatch_collective_enqueued", "gauge", "The last collective that the rank has entered."
)
_COMPLETED = Metric(
    "distwatch_collective_completed", "gauge", "The last collective that the rank has completed."
)
_WAITED = Metric(
    "distwatch_collective_waited_seconds", "gauge", "How long a collective has been in flight."
)
_FAMILIES = (
    _READABLE, _BLOCKED, _FINDINGS, _RANKS, _EXPECTED, _OBSERVED, _HOSTS_SEEN, _HOSTS, _DROPPED,
    _HEARTBEAT, _STILL, _ENQUEUED, _COMPLETED, _WAITED,
)  # fmt: skip


def render_metrics(reports: Iterable[Report], unreadable: Iterable[str] = ()) -> bytes:
    """The metrics of runs; for each run in `unreadable`, only that it is unreadable."""
    samples: dict[Metric, list[_Sample]] = {metric: [] for metric in _FAMILIES}
    for run in unreadable:
        samples[_READABLE].append(({"run": run}, 0))
    for report in reports:
        for metric, labels, value in _samples(report):
            samples[metric].append(({"run": report.run.id, **labels}, value))
    lines: list[str] = []
    for metric, found in samples.items():
        if found:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [
                f"{metric.name}{{{_labels(labels)}}} {float(value)!r}" for labels, value in found
            ]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _samples(report: Report) -> Iterator[tuple[Metric, dict[str, str], float]]:
    coverage = report.coverage
    yield _READABLE, {}, 1
    yield _BLOCKED, {}, any(finding.blocks for finding in report.findings)
    codes = Counter((found.code, found.severity, found.role) for found in report.findings)
    for (code, severity, role), count in codes.items():
        yield _FINDINGS, {"code": code, "severity": severity, "role": role}, count
    states = Counter(rank.state for rank in report.ranks)
    for state in LETTERS:
        yield _RANKS, {"state": state}, states[state]
    if coverage.expected_ranks is not None:
        yield _EXPECTED, {}, coverage.expected_ranks
    yield _OBSERVED, {}, coverage.observed_ranks
    yield _HOSTS_SEEN, {}, coverage.observed_hosts
    yield _HOSTS, {}, coverage.expected_hosts
    yield _DROPPED, {}, coverage.dropped_events
    yield from _rank_samples(report)
    for group in report.groups:
        yield from _group_samples(group)


def _rank_samples(report: Report) -> Iterator[tuple[Metric, dict[str, str], float]]:
    for rank in report.ranks:
        labels = {"global_rank": str(rank.global_rank), "host": rank.host}
        for metric, seconds in ((_HEARTBEAT, rank.heartbeat_s), (_STILL, rank.since_s)):
            if seconds is not None:
                yield metric, labels, seconds


def _group_samples(group: Group) -> Iterator[tuple[Metric, dict[str, str], float]]:
    # Names repeat within a job: name, members and world together identify a group.
    labels = {
        "pg_name": group.pg_name,
        "pg_desc": group.pg_desc,
        "members": format_ranks(group.members),
        "world": group.world,
    }
    for rank, (enqueued, completed) in group.progress.items():
        for metric, number in ((_ENQUEUED, enqueued), (_COMPLETED, completed)):
            if number >= 0:
                yield metric, {**labels, "global_rank": rank}, number
    if group.in_flight:
        yield _WAITED, {**labels, "op": group.op}, group.waited_s


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items() if value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
