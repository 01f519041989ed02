"""The fenced blocks of README.md, CONTRIBUTING.md and docs/: what is shown there, and how it is run.

Each block names its language. A comment on the line before it says how it is run where it is not
run as it stands: `<!-- run: 4 ranks -->`, `<!-- run: in tests/x.py -->`, `<!-- not run: the reason -->`.

What a page shows as output holds if its lines come in that order; `…` stands for any text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_DOCS = sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *_DOCS)
_FENCE = re.compile(
    r"(?:^<!-- (?P<how>not run|run): (?P<words>.*) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `how` is empty, `run` or `not run`, and `words` what the comment says."""

    page: str
    line: int
    language: str
    how: str
    words: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is run as it stands, or as its comment says."""
        return self.how != "not run"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """All of them, page by page."""
    found = []
    for page in PAGES:
        text = (REPOSITORY / page).read_text()
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            said = {name: value or "" for name, value in match.groupdict().items()}
            found.append(Block(page=page, line=line, **said))
    return found


def blocks_for(test: str) -> list[Block]:
    """Those that this file of tests runs."""
    return [block for block in blocks() if block.runs and block.words == f"in {test}"]


def assert_shown(block: str, output: str) -> None:
    """Fails where a line of a page's block does not come in the output, in its place."""
    left = output.splitlines()
    for line in block.splitlines():
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))) + r"\s*")
        while left and not pattern.fullmatch(left[0]):
            left.pop(0)
        assert left, f"{line!r} does not come, or not there, in:\n{output}"
        left.pop(0)


def shell(command: str, folder: Path) -> tuple[int, str]:
    """The exit code and all output of what is typed in that folder, with this environment's tools."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "DISTWATCH_DIR": str(folder / "runs")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout
