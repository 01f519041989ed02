"""Writes docs/findings.md, the page of all codes, from the table in `distwatch/state/codes/`.

`python tools/findings_page.py > docs/findings.md` after a change; `--check` says whether that was done.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from distwatch.state.codes import CODES, FAMILIES, Code, Family, family_of
from distwatch.state.rank_sets import inflect
from distwatch.state.steps import KINDS
from tools.finding_samples import SAMPLES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "findings.md"
SOURCE = ROOT / "distwatch"
_ROWS = SOURCE / "state" / "codes"
_CODE = re.compile(rf"({'|'.join(FAMILIES)})\.[a-z0-9]+(_[a-z0-9]+)*")
_HEAD = """\
# All findings

Made by `tools/findings_page.py` from the table in `distwatch/state/codes/`: do not edit it by hand.

A finding has a severity: `crash` (a process has ended), `hang` (the job cannot go on), `warning` or
`info`. The first one is the root cause; what it explains follows as its symptom. How a verdict comes
about is told in [diagnosis.md](diagnosis.md).

**How sure** is the finding's `confidence`: how far the evidence decides. Below 50 % nobody should act
on it alone. A rank on a host that cannot be seen any more is not blamed, and its finding has at most 30 %.
"""


def page() -> Iterator[str]:
    """The lines of the page."""
    found = found_codes()
    yield _HEAD
    for family in FAMILIES.values():
        yield from _family(family, [c for c in CODES if family_of(c.name) is family], found)
    yield "\n## The order of causes"
    yield "An earlier code explains a later one about the same ranks, or about those that wait for them."
    yield ""
    for code in CODES:
        yield f"1. [{code.name}](#{_anchor(code.name)})"


def _family(family: Family, codes: Iterable[Code], found: frozenset[str]) -> Iterator[str]:
    yield f"\n## {family.title}: `{family.name}.*`"
    for kind in (kind for kind in KINDS if kind.family == family.name):
        yield (
            f"Waits here have the deadline `{kind.name}`: {kind.deadline_s:g} s unless "
            "`DISTWATCH_DEADLINES` says otherwise, or torch's own timeout is shorter."
        )
    for code in codes:
        yield from _code(code, code.name in found)


def _code(code: Code, is_found: bool) -> Iterator[str]:
    yield f"\n### {code.name}"
    yield code.meaning
    sample = SAMPLES.get(code.name)
    if sample is None or not is_found:
        yield ""
        yield "No check finds it yet."
        return
    sure = f"{sample.low} %" if sample.low == sample.high else f"{sample.low} to {sample.high} %"
    yield f"\n> {re.sub('[{}]', '', sample.summary)}"
    yield f"\n- What to do: {inflect(code.advice, [0])}"
    yield f"- How sure: {sure}; {sample.why}."


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return heading.replace(".", "")


@cache
def found_codes() -> frozenset[str]:
    """The codes that the source names outside the table: somebody finds them."""
    patterns = [code_pattern(text) for text, _ in named_codes()]
    found = (c.name for c in CODES if any(p.fullmatch(c.name) for p in patterns))
    return frozenset(found)


def code_pattern(text: str) -> re.Pattern[str]:
    """What codes a string stands for; `*` is what an f-string fills in."""
    return re.compile(re.escape(text).replace(r"\*", r"\w+"))


def named_codes() -> Iterator[tuple[str, str]]:
    """Every string of the source that looks like a code, with its place; {…} of f-strings is *."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path.is_relative_to(_ROWS):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = _text_of(node)
            if text and _CODE.fullmatch(text.replace("*", "x")):
                yield text, f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "*" for p in node.values)
        return "".join(map(str, parts))
    return ""


def main(arguments: list[str]) -> int:
    """Writes the page to stdout; with `--check` only says whether the kept one is current."""
    text = "\n".join(page()) + "\n"
    if arguments != ["--check"]:
        sys.stdout.write(text)
        return 0
    if PAGE.read_text("utf-8") == text:
        return 0
    print("docs/findings.md is not current: python tools/findings_page.py > docs/findings.md")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
