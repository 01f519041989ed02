"""The report as Markdown for an issue or a chat, within their size limit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized

import msgspec

from distwatch.report.document import Report, hosts_text, reasons_unobserved, since_text
from distwatch.report.matrix import Matrix, build_matrix
from distwatch.report.model_text import load_lines
from distwatch.report.picture_text import strips_text, waits_text
from distwatch.report.timeline import folded
from distwatch.state.finding import Finding
from distwatch.state.layouts import words_of
from distwatch.state.rank_sets import format_ranks, name_ranks
from distwatch.state.statuses import status_of
from distwatch.views.layout_grid import LayoutGrid
from distwatch.views.load_groups import group_loads
from distwatch.views.side_by_side import side_by_side
from distwatch.views.stack_tree import StackNode
from distwatch.visible_text import shorten

LIMIT = 65_000
_GRID_ROWS = 64
_OPEN_RANKS = 32
_EVENT = 240
_FUNCTION = 160
"""Characters of a function's name in a tree: a C++ template's may have thousands."""
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>|#])")
MARKS = {
    "hang": "🔴 hang",
    "crash": "💥 crash",
    "error": "❌ error",
    "warning": "🟡 warning",
    "info": "ℹ️ info",
    "slow": "🟡 slow",
    "suspected": "🟠 suspected",
    "idle": "🟢 idle",
    "watching": "⏳ watching",
    "starting": "⏳ starting",
    "healthy": "🟢 healthy",
    "ended": "⚪ ended",
}


def render_markdown(report: Report) -> str:
    """The whole report in fewer than LIMIT characters; every cut is marked."""
    shares = {"timeline": 100, "stacks": 2000, "ranks": 2000, "models": 32, "evidence": 40}
    matrix = build_matrix(report)
    while True:
        text = "\n".join(_render(report, matrix, shares)) + "\n"
        if len(text) < LIMIT:
            return text
        # The verdict is never cut: long parts are, the timeline first.
        if all(share <= 4 for share in shares.values()):
            return text[: LIMIT - 40].rsplit("\n", 1)[0] + "\n\n… cut here …\n"
        shares = {name: max(4, share // 2) for name, share in shares.items()}


def escape(text: str) -> str:
    """Text without any effect: no markup, no mention, one line."""
    flat = " ".join(text.split())
    return _ACTIVE.sub(r"\\\1", flat).replace("@", "@\u200b")


def code(text: str) -> str:
    """A code span that the text's own backticks cannot end."""
    return f"`{' '.join(text.split()).replace('`', 'ˋ')}`"


def fence(lines: Iterable[str]) -> list[str]:
    """A code block that nothing inside can close."""
    return ["```text", *(line.replace("```", "ˋˋˋ") for line in lines), "```"]


def _render(report: Report, matrix: Matrix, shares: dict[str, int]) -> Iterable[str]:
    yield from _verdict(report)
    yield from _section("Incidents before this", _incidents(report))
    yield from _pictures(report)
    suspicion = report.verdict.suspicion
    for finding in (*filter(None, (suspicion,)), *report.findings):
        role = "suspected" if finding is suspicion else finding.role
        yield from _finding(finding, role, report.verdict.sentence, shares["evidence"])
    progress = "Ranks in groups: the collective that each is in, or its last one"
    yield from _ranks_section(report, shares["ranks"])
    ray = _ray(report, shares["ranks"])
    yield from _section("Ray: what waits, was restarted, failed or died", ray)
    yield from _section("Processes beside the ranks", _processes(report, shares["ranks"]))
    yield from _section(progress, _matrix(matrix))
    yield from _section("Groups", _groups(report, shares["ranks"]))
    yield from _layouts(report, shares["ranks"])
    yield from _section("Models", _models(report, shares["models"]))
    stacks = _stacks(report, shares["stacks"])
    yield from _folded("Merged stacks of the main threads", stacks)
    yield from _folded("Timeline", _timeline(report, shares["timeline"]))
    yield from _section("What is not known", _unknown(report))


def _verdict(report: Report) -> Iterable[str]:
    run, seen = report.run, report.coverage
    verdict = report.verdict
    yield f"## {MARKS[verdict.word]}: {escape(verdict.sentence)}"
    yield ""
    if verdict.advice:
        yield f"**What to do:** {escape(verdict.advice)}"
    else:
        yield "The end of this report lists what distwatch could not observe."
    yield ""
    expected = seen.expected_ranks if seen.expected_ranks is not None else "an unknown number of"
    hosts = hosts_text(run)
    if seen.observed_hosts < seen.expected_hosts:
        hosts += f" ({seen.observed_hosts} of {seen.expected_hosts} hosts seen)"
    yield (
        f"run {code(run.id)} · {escape(run.launcher)} · world size {run.world_size or 'unknown'} · "
        f"{escape(hosts)} · started {run.started or 'not observed'} · "
        f"{seen.observed_ranks} of {expected} ranks observed"
    )
    yield ""
    if run.versions:
        yield escape(" · ".join(f"{name} {version}" for name, version in run.versions.items()))
        yield ""


def _incidents(report: Report) -> Iterable[str]:
    for one in report.incidents:
        if not one.current:
            attempt = f", attempt {one.attempt + 1}" if one.attempt is not None else ""
            ended = "".join(f"; rank {rank} was {how}" for rank, how in one.ended.items())
            yield (
                f"- incident {one.number} ({one.at[11:19]}Z{attempt}): "
                f"{one.severity}: {escape(one.summary)}{escape(ended)}"
            )


def _pictures(report: Report) -> Iterable[str]:
    """What a reader sees before the evidence: who waits for whom, and since when."""
    if report.pictures is msgspec.UNSET:
        return
    waits, strips = list(waits_text(report.pictures.waits)), list(strips_text(report.pictures))
    if waits or strips:
        yield from (*fence([*waits, *([""] if waits and strips else []), *strips]), "")


def _finding(finding: Finding, role: str, headline: str, most: int) -> Iterable[str]:
    culprits = f", culprit {name_ranks(finding.culprit_ranks)}" if finding.culprit_ranks else ""
    waiting = f", waiting: {format_ranks(finding.waiting_ranks)}" if finding.waiting_ranks else ""
    yield f"### {code(finding.code)} ({role}{culprits}{waiting}, confidence {finding.confidence:.0%})"
    yield ""
    if finding.summary not in headline:
        yield escape(finding.summary)
        yield ""
    if finding.why:
        yield from ("Where the ranks part:", "", *fence(side_by_side(finding.why)), "")
    for evidence in finding.evidence[:most]:
        rank = "" if evidence.global_rank is None else f"rank {evidence.global_rank}, "
        lines = evidence.text.splitlines() or [""]
        if lines[0].startswith("rank"):
            rank = ""  # it says whose it is
        yield f"- {rank}{escape(evidence.source)}: {escape(lines[0]) if len(lines) == 1 else ''}"
        if len(lines) > 1:
            yield from (f"  {line}" for line in fence(lines))
    if len(finding.evidence) > most:
        yield f"- … {len(finding.evidence) - most} more"
    yield ""


def _section(title: str, lines: Iterable[str]) -> Iterable[str]:
    """A titled part; nothing where it would be empty."""
    if body := list(lines):
        yield from (f"### {title}", "", *body, "")


def _folded(title: str, lines: list[str]) -> Iterable[str]:
    """A code block that the reader opens."""
    if lines:
        yield from (f"<details><summary>{title}</summary>", "", *fence(lines), "", "</details>", "")


def _more(rows: Sized, most: int, what: str) -> Iterable[str]:
    if len(rows) > most:
        yield f"\n… {len(rows) - most} more{what} …"


def _ranks_section(report: Report, most: int) -> Iterable[str]:
    """The table of ranks; of many, one that the reader opens."""
    rows = list(_ranks(report, most))
    if len(report.ranks) <= _OPEN_RANKS:
        yield from _section("Ranks", rows)
    else:
        title = f"Ranks ({len(report.ranks)})"
        yield from (f"<details><summary>{title}</summary>", "", *rows, "", "</details>", "")


def _ranks(report: Report, most: int) -> Iterable[str]:
    if not report.ranks:
        return
    actors = any(rank.actor for rank in report.ranks)
    yield f"| rank | host | pid | state | doing | where | since |{' actor |' if actors else ''}"
    yield f"|---:|---|---:|---|---|---|---:|{'---|' if actors else ''}"
    for rank in report.ranks[:most]:
        yield (
            f"| {rank.global_rank} | {escape(rank.host)} | {rank.pid or ''} | {rank.state} | "
            f"{escape(rank.doing)} | {escape(rank.where)} | {since_text(rank)} |"
            + (f" {escape(rank.actor)} |" if actors else "")
        )
    yield from _more(report.ranks, most, " ranks")


def _ray(report: Report, most: int) -> Iterable[str]:
    if not report.ray:
        return
    yield "| | name | rank | state | |"
    yield "|---|---|---:|---|---|"
    for row in report.ray[:most]:
        rank = "" if row.global_rank is None else row.global_rank
        yield f"| {row.kind} | {escape(row.name)} | {rank} | {escape(row.state)} | {escape(row.text)} |"
    yield from _more(report.ray, most, "")


def _processes(report: Report, most: int) -> Iterable[str]:
    if not report.processes:
        return
    yield "| | host | pid | parent | state | doing | where | command |"
    yield "|---|---|---:|---:|---|---|---|---|"
    for row in report.processes[:most]:
        doing = "; ".join(filter(None, (row.doing, row.exception)))
        texts = " | ".join(map(escape, (row.state, doing, row.where, row.command)))
        yield f"| {row.role} | {escape(row.host)} | {row.pid} | {row.ppid} | {texts} |"
    yield from _more(report.processes, most, " processes")


def _matrix(matrix: Matrix) -> Iterable[str]:
    if not matrix.columns or not matrix.rows:
        return
    yield f"| ranks | {' | '.join(escape(title) for title in matrix.columns)} |"
    yield f"|---|{'---|' * len(matrix.columns)}"
    for row in matrix.rows:
        mark = " ◀" if row.culprit else ""
        cells = (
            f"{escape(cell.text)} {f'**{cell.word}**' if cell.word else ''}" for cell in row.cells
        )
        yield f"| {row.ranks}{mark} | {' | '.join(cell.rstrip() for cell in cells)} |"
    left = [(matrix.rows_left_out, "rows"), (matrix.columns_left_out, "groups")]
    if told := ", ".join(f"{count} more {what}" for count, what in left if count):
        yield f"\n… {told} …"


def _groups(report: Report, most: int) -> Iterable[str]:
    if not report.groups:
        return
    yield "| group | members | in flight | who is in | who is missing |"
    yield "|---|---|---|---|---|"
    for group in report.groups[:most]:
        flight = f"{group.op or 'collective'} #{group.collective_seq}" if group.in_flight else "–"
        yield (
            f"| {escape(group.pg_desc or group.pg_name)} ({escape(group.pg_name)}, {escape(group.backend)})"
            f"{escape(f', axis {group.axis}') if group.axis else ''} | "
            f"{format_ranks(group.members)} | {escape(flight)} | {format_ranks(group.entered)} | "
            f"{format_ranks(group.missing)} |"
        )


def _layouts(report: Report, most: int) -> Iterable[str]:
    letters = {rank.global_rank: status_of(rank.state).letter for rank in report.ranks}
    for grid in report.layouts:
        title = f"Layout: {escape(grid.name)}, {escape(grid.shape)}"
        yield from _section(title, fence(_grid(grid, letters, min(most, _GRID_ROWS))))


def _grid(grid: LayoutGrid, letters: Mapping[int, str], most: int) -> Iterable[str]:
    """`dp 0 · pp 1   2 w  3 F`, below the column names; several ranks in one place, an error, in one cell."""
    texts = [
        ["/".join(f"{rank} {letters.get(rank, '.')}" for rank in cell) or "–" for cell in row.cells]
        for row in grid.rows
    ]
    places = [row.place for row in grid.rows]
    first = max(map(len, places), default=0)
    widths = [
        max(len(text) for text in (title, *(row[number] for row in texts)))
        for number, title in enumerate(grid.columns)
    ]
    if any(grid.columns):
        yield _grid_line("", grid.columns, first, widths)
    for place, row in list(zip(places, texts, strict=True))[:most]:
        yield _grid_line(place, row, first, widths)
    if len(texts) > most:
        yield f"… {len(texts) - most} more rows …"
    yield ""
    for axis, partition in grid.axes.items():
        yield f"{axis:<{max(first, 4)}}  {words_of(partition)}"


def _grid_line(place: str, cells: Iterable[str], first: int, widths: list[int]) -> str:
    told = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{place:<{first}}  {told}".rstrip()


def _models(report: Report, most: int) -> Iterable[str]:
    if groups := group_loads(report.models):
        yield from fence(line for group in groups[:most] for line in (*load_lines(group), ""))
        yield from _more(groups, most, " loads")


def _stacks(report: Report, most: int) -> list[str]:
    lines = list(tree_lines(report.stacks))
    more = [f"… {len(lines) - most} more frames …"] if len(lines) > most else []
    return [*lines[:most], *more]


def tree_lines(nodes: list[StackNode], depth: int = 0) -> Iterable[str]:
    """The tree as indented text; a rank set is shown where the stacks split."""
    for node in nodes:
        indent = "  " * depth
        yield f"{indent}{_frame(node)}  [{format_ranks(node.global_ranks)}]"
        current, level = node, depth
        # A chain without forks is one level: thirty frames must still fit a screen.
        while len(current.children) == 1 and current.children[0].global_ranks == node.global_ranks:
            current = current.children[0]
            yield f"{'  ' * level}· {_frame(current)}"
        yield from tree_lines(current.children, depth + 1)


def _frame(node: StackNode) -> str:
    return f"{shorten(node.function, _FUNCTION)} ({node.place})"


def _timeline(report: Report, most: int) -> list[str]:
    happenings = folded(report.timeline)
    shown = happenings[-most:]
    cut = len(happenings) - len(shown)
    lines = [f"… {cut} earlier …"] if cut else []
    told = (f"{one.time}  {one.who:<10} {one.kind}: {one.text}" for one in shown)
    return [*lines, *(shorten(line, _EVENT) for line in told)]


def _unknown(report: Report) -> Iterable[str]:
    seen = report.coverage
    for ranks, why in reasons_unobserved(seen).items():
        yield f"- {ranks}: {escape(why)}"
    for what, why in seen.not_observed.items():
        yield f"- {escape(what)}: {escape(why)}"
    if seen.dropped_events:
        yield f"- {seen.dropped_events} events were dropped before an observer read them"
    if not report.stacks:
        yield "- stacks: none were taken"
    if not (seen.unobserved or seen.not_observed or seen.dropped_events or not report.stacks):
        yield "- distwatch could observe everything that it looks for"
