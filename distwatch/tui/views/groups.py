"""View 2: process groups, the collective in flight, and which ranks are in it or missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distwatch.diagnosis.facts.group_views import GroupView
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import format_ranks
from distwatch.tui.cells import fit, format_age
from distwatch.tui.picture import Picture
from distwatch.tui.styles import FAINT, GREEN, MUTED, RED, STRONG, YELLOW
from distwatch.tui.views.line import Line, lines_about
from distwatch.tui.visible_text import Text

EMPTY = "no process groups seen yet: no rank has completed init_process_group"


def group_key(group: GroupView) -> str:
    """Names repeat across a job: name and members together identify a group."""
    return f"group:{group.pg_name}:{format_ranks(group.members)}"


def find_group(picture: Picture, key: str) -> GroupView | None:
    return next((group for group in picture.groups if group_key(group) == key), None)


def lines(picture: Picture) -> list[Line]:
    """Three lines for each group: the group, the collective in flight, and each member's progress."""
    found: list[Line] = []
    for group in picture.groups:
        parts = (_title, flight, _progress) if group.members else (_title, flight)
        draws = [partial(_fitted, part, group) for part in parts]
        names = (group.pg_name, group.pg_desc)
        found += lines_about(group_key(group), draws, group.members, names)
    return found


def _fitted(part: Callable[[GroupView], Text], group: GroupView, width: int) -> Text:
    return fit(part(group), width)


def _title(group: GroupView) -> Text:
    timeout = f" · timeout {format_age(group.timeout_s)}" if group.timeout_s else ""
    members = f"{count_of(len(group.members), 'member')} {format_ranks(group.members)}"
    return Text.assemble(
        (group.title, STRONG), (f"  {group.backend or 'backend not known'}", MUTED),
        (f" · {members}{timeout}", MUTED),
    )  # fmt: skip


def flight(group: GroupView) -> Text:
    """The collective in flight, or the newest one."""
    if group.seq < 0:
        return Text("    no collective seen in it yet", FAINT)
    operation = f"{group.op or 'collective'} #{group.seq}"
    if not group.in_flight:
        return Text.assemble(
            "    ", ("✓ ", GREEN), operation, (" was the newest; none in flight", MUTED)
        )
    style = RED if group.overdue else YELLOW
    waited = f" in flight for {format_age(group.waited_s)}"
    line = Text.assemble(
        "    ", ("■ " if group.overdue else "… ", style), (operation, style), waited
    )
    line.append(f"  in: {format_ranks(group.entered) or 'none'}")
    line.append(
        f"  missing: {format_ranks(group.missing) or 'none'}", style if group.missing else MUTED
    )
    return line


def _progress(group: GroupView) -> Text:
    """`entered #5: 0-1,3 · #4: 2 · not observed: 7`: members with equal progress share an entry."""
    by_seq: dict[int, list[int]] = {}
    for rank, progress in group.progress.items():
        by_seq.setdefault(progress.enqueued, []).append(rank)
    parts = [
        f"#{seq}: {format_ranks(ranks)}" if seq >= 0 else f"none: {format_ranks(ranks)}"
        for seq, ranks in sorted(by_seq.items(), reverse=True)
    ]
    unseen = [rank for rank in group.members if rank not in group.progress]
    parts += [f"not observed: {format_ranks(unseen)}"] if unseen else []
    return Text(f"    entered  {' · '.join(parts)}", MUTED)
