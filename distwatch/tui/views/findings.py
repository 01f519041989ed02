"""View 6: root causes and their symptoms, with the evidence."""

from __future__ import annotations

from functools import partial

from distwatch.state.finding import Finding
from distwatch.state.rank_sets import format_ranks
from distwatch.tui.cells import fit
from distwatch.tui.picture import Picture
from distwatch.tui.styles import BLUE, FAINT, GREEN, MUTED, SEVERITIES, STRONG
from distwatch.tui.views.line import Line, lines_about
from distwatch.tui.visible_text import Text
from distwatch.views.side_by_side import side_by_side

_COLUMN = 44
_INDENT = "    "


def lines(picture: Picture) -> list[Line]:
    """Each finding with its advice and evidence, in the order of cause."""
    found: list[Line] = []
    for number, finding in enumerate(picture.shown_findings):
        ranks = tuple(sorted({*finding.culprit_ranks, *finding.waiting_ranks})) or None
        rows = range(len(side_by_side(finding.why)))
        draws = [
            *(partial(fit, text) for text in _head_texts(picture, finding)),
            *(partial(_way_row, finding, row) for row in rows),
            *(partial(fit, text) for text in _evidence_texts(finding)),
        ]
        found += lines_about(f"finding:{number}", draws, ranks)
    return found


def _way_row(finding: Finding, row: int, width: int) -> Text:
    """One row of the ways that the ranks took, each in a column of the same width."""
    column = min(_COLUMN, (width - len(_INDENT) - len(" │ ")) // max(1, len(finding.why)))
    return fit(Text(f"{_INDENT}{side_by_side(finding.why, column)[row]}", FAINT), width)


def empty(picture: Picture) -> str:
    """The text where nothing is found or suspected."""
    return f"{picture.verdict.word}: {picture.verdict.sentence}"


def finding_texts(picture: Picture, finding: Finding) -> list[Text]:
    """The finding as lines: summary, ranks, confidence, advice, the ways one below the other, evidence."""
    ways = [line for way in finding.why for line in side_by_side([way])]
    return [
        *_head_texts(picture, finding),
        *(Text(f"{_INDENT}{line}", FAINT) for line in ways),
        *_evidence_texts(finding),
    ]


def _head_texts(picture: Picture, finding: Finding) -> list[Text]:
    suspected = finding is picture.verdict.suspicion
    glyph, style = SEVERITIES["suspected" if suspected else finding.severity]
    symptom = finding.role == "symptom"
    culprits = format_ranks(finding.culprit_ranks) or "none named"
    waiting = format_ranks(finding.waiting_ranks) or "none"
    head = Text.assemble(
        (f"{glyph} {'suspected' if suspected else finding.role} ", MUTED if symptom else style),
        (f"{finding.severity} ", MUTED if symptom else style),
        (finding.code, STRONG), (f"  confidence {finding.confidence:.0%}", MUTED),
    )  # fmt: skip
    texts = [
        head,
        Text(f"    {finding.summary}"),
        Text(f"    culprit ranks: {culprits} · waiting ranks: {waiting}", MUTED),
    ]
    if finding.advice:
        texts.append(Text.assemble(("    → ", GREEN), finding.advice))
    if finding.why:
        texts.append(Text("    where the ranks part:", MUTED))
    return texts


def _evidence_texts(finding: Finding) -> list[Text]:
    texts: list[Text] = []
    for evidence in finding.evidence:
        first, *rest = evidence.text.splitlines() or [""]
        texts.append(Text.assemble((f"    {evidence.source:<16} ", BLUE), first))
        texts += [Text(f"{'':<21}{line}", FAINT) for line in rest]
    return [*texts, Text()]
