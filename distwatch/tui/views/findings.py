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

EMPTY = "nothing wrong found so far"


def lines(picture: Picture) -> list[Line]:
    """Each finding with its advice and evidence, in the order of cause."""
    found: list[Line] = []
    for number, finding in enumerate(picture.findings):
        ranks = tuple(sorted({*finding.culprit_ranks, *finding.waiting_ranks})) or None
        draws = [partial(fit, text) for text in finding_texts(finding)]
        found += lines_about(f"finding:{number}", draws, ranks)
    return found


def finding_texts(finding: Finding) -> list[Text]:
    """The finding as lines: summary, ranks, confidence, advice, evidence."""
    glyph, style = SEVERITIES[finding.severity]
    symptom = finding.role == "symptom"
    culprits = format_ranks(finding.culprit_ranks) or "none named"
    waiting = format_ranks(finding.waiting_ranks) or "none"
    head = Text.assemble(
        (f"{glyph} {finding.role} ", MUTED if symptom else style),
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
    for evidence in finding.evidence:
        first, *rest = evidence.text.splitlines() or [""]
        texts.append(Text.assemble((f"    {evidence.source:<16} ", BLUE), first))
        texts += [Text(f"{'':<21}{line}", FAINT) for line in rest]
    return [*texts, Text()]
