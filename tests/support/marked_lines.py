"""The lines of a job at which its ranks part, as its scripts mark them: `# < WAY WAY: TOPIC`."""

from __future__ import annotations

import re

from tests.support.ranks import JOBS

_MARK = re.compile(r"# < ([\w ]+): ([\w ]+)$")


def marked_lines(script: str, way: str) -> dict[tuple[str, int], str]:
    """By file name and line, the topics of what decides there; empty where the ranks' code does not part."""
    found: dict[tuple[str, int], str] = {}
    for path in (JOBS / f"{script}.py", *sorted(JOBS.glob(f"{script}_*.py"))):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            mark = _MARK.search(line)
            if mark and way in mark[1].split():
                found[path.name, number] = mark[2]
    return found


def marked_places(script: str, way: str) -> tuple[str, ...]:
    """The same as a summary names them: `train.py:11`."""
    return tuple(f"{file}:{line}" for file, line in marked_lines(script, way))
