"""Everything about one line's subject, as text that wraps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.state import events as ev
from distwatch.state.host import Host
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import format_ranks, name_by
from distwatch.tui.cells import format_clock
from distwatch.tui.picture import Picture
from distwatch.tui.styles import FAINT, MUTED, STRONG, YELLOW
from distwatch.tui.views.devices import host_lines
from distwatch.tui.views.events import find_entry
from distwatch.tui.views.findings import finding_texts
from distwatch.tui.views.groups import find_group, flight
from distwatch.tui.views.layout import axis_detail, layout_detail
from distwatch.tui.views.line import join_lines, section, subject_of
from distwatch.tui.views.load_detail import load_detail
from distwatch.tui.views.process_detail import process_detail, rank_detail, thread_lines
from distwatch.tui.views.stacks import find_node
from distwatch.tui.visible_text import Text
from distwatch.views.event_text import event_kind, event_text
from distwatch.views.ray_rows import ray_rows

_EACH = 64


def detail(picture: Picture, key: str) -> Text:
    """The detail that Enter opens for a line; a sentence where its subject is gone."""
    subject = subject_of(key)
    teller = _TELLERS.get(subject.partition(":")[0])
    text = teller(picture, subject) if teller else None
    return text or Text("this is no longer in the run's state; Esc goes back", MUTED)


def _rank(picture: Picture, key: str) -> Text | None:
    return rank_detail(picture, int(key.partition(":")[2]))


def _process(picture: Picture, key: str) -> Text | None:
    process = picture.state.processes.get(key.partition(":")[2])
    return process_detail(picture, process) if process else None


def _group(picture: Picture, key: str) -> Text | None:
    group = find_group(picture, key)
    if group is None:
        return None
    return join_lines(
        [Text(group.title, STRONG), flight(group), Text(), *_member_lines(picture, group)]
    )


def _member_lines(picture: Picture, group: GroupView) -> Iterable[Text]:
    """A row for each member; of more than _EACH, those with equal rows share one."""
    yield Text(f"{'RANK':>6}  {'ENTERED':>8}  {'COMPLETED':>9}  {'P2P':>5}  STATE", FAINT)
    missing = set(group.missing) if group.in_flight else set()
    alike: dict[tuple[tuple[str, bool], int | None], list[int]] = {}
    for rank in group.members:
        row = (_member_text(picture, group, rank), rank in missing)
        alike.setdefault((row, rank if len(group.members) <= _EACH else None), []).append(rank)
    for (row, _), ranks in alike.items():
        text, is_missing = row
        mark = "  ← missing" if is_missing else ""
        yield Text(f"{format_ranks(ranks):>6}  {text}{mark}", YELLOW if is_missing else "")


def _member_text(picture: Picture, group: GroupView, rank: int) -> str:
    status, progress = picture.status(rank), group.progress.get(rank)
    word = f"{status.word} · {status.where or status.doing}" if status else "unobserved"
    if progress is None:
        return f"{'not observed':>26}  {word}"
    shown = (progress.enqueued, progress.completed, progress.p2p)
    entered, completed, p2p = (f"#{n}" if n >= 0 else "none" for n in shown)
    return f"{entered:>8}  {completed:>9}  {p2p:>5}  {word}"


def _stack(picture: Picture, key: str) -> Text | None:
    node = find_node(picture, key)
    if node is None:
        return None
    title = Text.assemble((node.function, STRONG), f"  {node.file}:{node.line}")
    here = set(node.global_ranks)
    told = name_by(
        {
            s.global_rank: f"{s.word} · {s.doing} · {s.where}"
            for s in picture.rank_statuses
            if s.global_rank in here
        }
    )
    return join_lines(
        [title, Text(f"ranks {format_ranks(node.global_ranks)}", MUTED), *map(Text, told)]
    )


def _event(picture: Picture, key: str) -> Text | None:
    entry = find_entry(picture, key)
    if entry is None:
        return None
    kind, text = event_kind(entry.event), event_text(entry.event)
    when = f"{format_clock(picture.wall_ns(entry))} · {entry.process} · record {entry.seq}"
    head = [Text(kind, STRONG), Text(text), Text(when, MUTED), Text()]
    if isinstance(entry.event, ev.StackTaken):
        threads = entry.event.threads
        return join_lines([*head, *(line for one in threads for line in thread_lines(one))])
    fields = getattr(entry.event, "__struct_fields__", ())
    told = [
        Text.assemble((f"{name:<20} ", MUTED), str(value))
        for name in fields
        if (value := getattr(entry.event, name)) not in (None, "", (), {})
    ]
    return join_lines([*head, *told])


def _finding(picture: Picture, key: str) -> Text | None:
    number = int(key.partition(":")[2])
    if number >= len(picture.shown_findings):
        return None
    return join_lines(finding_texts(picture, picture.shown_findings[number]))


def _host(picture: Picture, key: str) -> Text | None:
    host = picture.state.hosts.get(key.partition(":")[2])
    return join_lines([*host_lines(host), *_observer_lines(host)]) if host else None


def _ray(picture: Picture, key: str) -> Text | None:
    row = next((r for r in ray_rows(picture.state) if r.id == key.partition(":")[2]), None)
    if row is None:
        return None
    head = Text.assemble((f"{row.kind} {row.name}", STRONG), (f"  {row.state}", YELLOW))
    return join_lines([head, Text(row.text), Text(f"id {row.id}", MUTED)])


def _observer_lines(host: Host) -> Iterable[Text]:
    told = [f"pid {o.pid}, distwatch {o.distwatch_version or '?'}" for o in host.observers.values()]
    yield from section("observers", [Text(line) for line in told] or [Text("none seen", MUTED)])
    clock = format_clock(host.now_ns + host.wall_offset_ns)
    yield Text(
        f"  newest event at {clock}; {count_of(len(host.not_observed), 'thing')} not observed",
        MUTED,
    )


_TELLERS: dict[str, Callable[[Picture, str], Text | None]] = {
    "rank": _rank,
    "axis": axis_detail,
    "layout": layout_detail,
    "process": _process,
    "group": _group,
    "stack": _stack,
    "event": _event,
    "finding": _finding,
    "host": _host,
    "load": load_detail,
    "ray": _ray,
}
