"""Reports in Prometheus' text exposition format, version 0.0.4. An unknown value has no sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from distwatch.report.document import Group, Report
from distwatch.state.rank_sets import format_ranks
from distwatch.state.statuses import LETTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Sample = tuple[dict[str, str], float]


_FAMILIES = {
    "run_readable": "Whether the run's records could be read.",
    "run_blocked": "Whether a hang or a crash was found.",
    "findings": "Findings by code, severity and role.",
    "incidents_total": "Incidents that the run has had: hangs and crashes, each once.",
    "ranks": "Ranks by status.",
    "ranks_expected": "The world size that most ranks report.",
    "ranks_observed": "Ranks that distwatch sees from inside.",
    "hosts_seen": "Hosts with ranks that an observer sees now.",
    "hosts_expected": "Hosts with ranks that the run should have.",
    "dropped_events_total": "Events that are known to be lost.",
    "rank_heartbeat_age_seconds": "Seconds since the last heartbeat.",
    "rank_still_seconds": "Seconds since the rank was last seen to move.",
    "rank_step": "The training step that the rank is at.",
    "collective_enqueued": "The last collective that the rank has entered.",
    "collective_completed": "The last collective that the rank has completed.",
    "collective_waited_seconds": "How long a collective has been in flight.",
}
"""By name, without the prefix: gauges, and counters where the name ends in `_total`."""


def render_metrics(reports: Iterable[Report], unreadable: Iterable[str] = ()) -> bytes:
    """The metrics of runs; for each run in `unreadable`, only that it is unreadable."""
    # The text must not contain a family twice, so all runs' samples of a family are together.
    samples: dict[str, list[_Sample]] = {family: [] for family in _FAMILIES}
    for run in unreadable:
        samples["run_readable"].append(({"run": run}, 0))
    for report in reports:
        for family, labels, value in _samples(report):
            samples[family].append(({"run": report.run.id, **labels}, value))
    lines: list[str] = []
    for family, found in samples.items():
        if found:
            name, kind = f"distwatch_{family}", "counter" if family.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {_FAMILIES[family]}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{{{_labels(labels)}}} {float(value)!r}" for labels, value in found]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _samples(report: Report) -> Iterator[tuple[str, dict[str, str], float]]:
    coverage = report.coverage
    yield "run_readable", {}, 1
    yield "run_blocked", {}, any(finding.blocks for finding in report.findings)
    codes = Counter((found.code, found.severity, found.role) for found in report.findings)
    for (code, severity, role), count in codes.items():
        yield "findings", {"code": code, "severity": severity, "role": role}, count
    yield "incidents_total", {}, len(report.incidents)
    states = Counter(rank.state for rank in report.ranks)
    for state in LETTERS:
        yield "ranks", {"state": state}, states[state]
    if coverage.expected_ranks is not None:
        yield "ranks_expected", {}, coverage.expected_ranks
    yield "ranks_observed", {}, coverage.observed_ranks
    yield "hosts_seen", {}, coverage.observed_hosts
    yield "hosts_expected", {}, coverage.expected_hosts
    yield "dropped_events_total", {}, coverage.dropped_events
    yield from _rank_samples(report)
    for group in report.groups:
        yield from _group_samples(group)


def _rank_samples(report: Report) -> Iterator[tuple[str, dict[str, str], float]]:
    for rank in report.ranks:
        labels = {"global_rank": str(rank.global_rank), "host": rank.host}
        for family, value in (
            ("rank_heartbeat_age_seconds", rank.heartbeat_s),
            ("rank_still_seconds", rank.since_s),
            ("rank_step", rank.step),
        ):
            if value is not None:
                yield family, labels, value


def _group_samples(group: Group) -> Iterator[tuple[str, dict[str, str], float]]:
    # Names repeat within a job: name, members and world together identify a group.
    labels = {
        "pg_name": group.pg_name,
        "pg_desc": group.pg_desc,
        "members": format_ranks(group.members),
        "world": group.world,
    }
    for rank, (enqueued, completed) in group.progress.items():
        for family, number in (
            ("collective_enqueued", enqueued),
            ("collective_completed", completed),
        ):
            if number >= 0:
                yield family, {**labels, "global_rank": rank}, number
    if group.in_flight:
        yield "collective_waited_seconds", {**labels, "op": group.op}, group.waited_s


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items() if value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
