"""The lines at the top: verdict, advice, and coverage of the run. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.finding import Finding
from distwatch.state.quantities import count_of
from distwatch.state.rank_sets import format_ranks
from distwatch.tui.cells import dotted, format_clock
from distwatch.tui.picture import Picture
from distwatch.tui.styles import GREEN, MUTED, RED, SEVERITIES, STRONG, YELLOW
from distwatch.tui.visible_text import Text


class ViewerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The viewer's own state, which the header shows beside the run's facts."""

    mode: Literal["live", "paused", "replay"] = "live"
    note: str = ""
    age_s: float | None = None
    """Seconds since the newest event that was read."""
    behind_s: float = 0.0
    """Seconds since the display was frozen."""
    news: int = 0
    """Notable events since then."""
    changed: bool = False
    """The verdict has changed since then."""
    playing: bool = False
    position_s: float = 0.0
    length_s: float = 0.0
    failure: str = ""
    """Why the source gives nothing new; '' while it does."""


def verdict_line(picture: Picture) -> Text:
    """`■ HANG  rank 2 never entered …  · 2 symptoms`."""
    verdict = picture.verdict
    glyph, style = SEVERITIES[verdict.word]
    line = Text.assemble(
        (f"{glyph} {verdict.word.upper()}", style), "  ", (verdict.sentence, STRONG)
    )
    roots = [finding for finding in picture.findings if finding.role == "root"]
    stops = [finding for finding in roots if finding.blocks]
    if (others := len(stops or roots) - 1) > 0:
        line.append(f"  + {count_of(others, 'more root cause')}", YELLOW)
    if stops and (warnings := len(roots) - len(stops)):
        line.append(f"  · {count_of(warnings, 'warning')}", MUTED)
    if picture.symptoms:
        line.append(f"  · {count_of(picture.symptoms, 'symptom')}", MUTED)
    return line


def advice_line(picture: Picture) -> Text:
    """What to do; '' where nothing needs to be done."""
    advice = picture.verdict.advice
    return Text.assemble(("→ ", GREEN), advice) if advice else Text()


def run_line(picture: Picture) -> Text:
    """The run: id, launcher, world, hosts."""
    hosts = sorted({s.host for s in picture.rank_statuses if s.host} or set(picture.state.hosts))
    world = picture.world_size if picture.world_size is not None else "not known yet"
    parts = [Text(picture.run_id or "run", STRONG), Text(f"world {world}", MUTED)]
    if picture.launcher:
        parts.insert(1, Text(picture.launcher, MUTED))
    if len(hosts) == 1:
        parts.append(Text(hosts[0], MUTED))
    elif hosts:
        parts.append(Text(f"{len(hosts)} hosts", MUTED))
    return dotted(parts)


def coverage_line(picture: Picture) -> Text:
    """The coverage: `4/4 ranks observed · 0 events dropped · not observed: …`."""
    total = len(picture.rank_statuses)
    if not total:
        return Text("no ranks observed yet", MUTED)
    whole = picture.observed == total
    parts = [
        Text(f"{picture.observed}/{total} ranks observed", MUTED if whole else YELLOW),
        Text(f"{count_of(picture.dropped, 'event')} dropped", YELLOW if picture.dropped else MUTED),
    ]
    hosts, of_hosts = picture.hosts
    if hosts < of_hosts:
        parts.insert(1, Text(f"{hosts}/{of_hosts} hosts seen", YELLOW))
    if picture.state.unknown_events:
        parts.append(Text(f"{picture.state.unknown_events} of a newer version", YELLOW))
    if picture.not_observed:
        parts.append(Text(f"not observed: {'; '.join(picture.not_observed)}", YELLOW))
    return dotted(parts)


def viewer_line(viewer: ViewerStatus, picture: Picture) -> Text:
    """Live, paused or replay, and the age of what is shown."""
    if viewer.failure:
        return Text(f"! {viewer.failure}", f"bold {RED}")
    clock = format_clock(picture.clock_ns)[:8] if picture.clock_ns else ""
    if viewer.mode == "replay":
        where = f"{viewer.position_s:.1f} of {viewer.length_s:.1f} s"
        word = "▶ PLAYING" if viewer.playing else "REPLAY"
        line = Text.assemble((word, f"bold {YELLOW}"), (f" {clock} · {where}", MUTED))
    elif viewer.mode == "paused":
        line = Text(f"PAUSED {viewer.behind_s:.0f} s behind", f"bold {YELLOW}")
        if viewer.news:
            line.append(f" · {count_of(viewer.news, 'new event')}", YELLOW)
        if viewer.changed:
            line.append(" · the verdict changed", f"bold {RED}")
    else:
        age = f"{viewer.age_s:.0f} s old" if viewer.age_s is not None else "nothing read yet"
        line = Text.assemble(("LIVE", f"bold {GREEN}"), (f" {age}", MUTED))
    return line


def verdict_markdown(picture: Picture) -> str:
    """The verdict for pasting into an issue or a chat."""
    verdict = picture.verdict
    lines = [f"**{verdict.word.upper()}** {verdict.sentence}", ""]
    for finding in picture.shown_findings:
        lines += _finding_markdown(finding, finding is verdict.suspicion)
    total = len(picture.rank_statuses)
    lines.append(
        f"_{picture.run_id}: {picture.observed}/{total} ranks observed, "
        f"{count_of(picture.dropped, 'event')} dropped; distwatch_"
    )
    return "\n".join(lines) + "\n"


def _finding_markdown(finding: Finding, suspected: bool) -> list[str]:
    culprits = format_ranks(finding.culprit_ranks) or "none named"
    waiting = format_ranks(finding.waiting_ranks) or "none"
    lines = [
        f"- `{finding.code}` ({'suspected' if suspected else finding.role}, confidence {finding.confidence:.0%}): "
        f"{finding.summary}",
        f"  - culprit ranks: {culprits}; waiting ranks: {waiting}",
    ]
    lines += [f"  - {e.source}: {' / '.join(e.text.splitlines())}" for e in finding.evidence]
    lines += [f"  - **do**: {finding.advice}"] if finding.advice else []
    return [*lines, ""]
