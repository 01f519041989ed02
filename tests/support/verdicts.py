"""What scenario tests assert about findings."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from distwatch.state.finding import Finding


def assert_verdict(
    findings: Iterable[Finding],
    *,
    code: str | Collection[str],
    culprits: Collection[int],
    root: bool = True,
    mentions: Iterable[str] = (),
) -> Finding:
    """The finding of that code blames exactly `culprits`, and nobody blames anyone else.

    Args:
        code: one code, or several of which any is right.
        root: it also is the root cause, and comes first.
        mentions: words that its summary or evidence must hold.
    """
    findings = list(findings)
    codes = {code} if isinstance(code, str) else set(code)
    told = "\n".join(
        f"  {f.role} {f.severity} {f.code} {f.culprit_ranks}: {f.summary}" for f in findings
    )
    matching = [f for f in findings if f.code in codes and set(f.culprit_ranks) == set(culprits)]
    assert matching, (
        f"no {sorted(codes)} with culprits {sorted(culprits)} among:\n{told or '  nothing'}"
    )
    finding = matching[0]
    if root:
        assert findings[0] is finding, f"{finding.code} is not the first root cause:\n{told}"
        assert finding.role == "root", told
    blamed = {rank for f in findings if f.blocks for rank in f.culprit_ranks}
    assert blamed <= set(culprits), f"victims are blamed: {sorted(blamed - set(culprits))}\n{told}"
    text = text_of(finding)
    for words in mentions:
        assert words in text, f"{words!r} is not in: {text}"
    assert finding.advice, "a finding says what to do"
    assert 0.0 < finding.confidence <= 1.0
    return finding


def assert_healthy(findings: Iterable[Finding]) -> None:
    """Nothing of severity hang or crash."""
    blocking = [f for f in findings if f.blocks]
    assert not blocking, "\n".join(f"{f.code} {f.culprit_ranks}: {f.summary}" for f in blocking)


def text_of(finding: Finding) -> str:
    """Summary and evidence, to look for words in."""
    return " ".join([finding.summary, *(evidence.text for evidence in finding.evidence)])
