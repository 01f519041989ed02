"""Fails where a file or a function has more lines than CONTRIBUTING.md allows.

Every line counts, but for a function's docstring: what its caller has to know is never too long.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

FILE_LINES = 400
FUNCTION_LINES = 40
Function = ast.FunctionDef | ast.AsyncFunctionDef
PATTERNS = ["distwatch/*.py", "tests/*.py", "benchmarks/*.py", "tools/*.py"]


def main() -> int:
    """Checks every file that git tracks; the exit code says whether anything is too long."""
    listed = ["git", "ls-files", "--deduplicate", "--", *PATTERNS]
    paths = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.splitlines()
    too_long = [complaint for path in paths for complaint in complaints_about(path)]
    print("\n".join(too_long) or f"{len(paths)} files are short, and so are their functions")
    return bool(too_long)


def complaints_about(path: str) -> Iterator[str]:
    """What is too long there, as `path:line: what`."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if (count := len(text.splitlines())) > FILE_LINES:
        yield f"{path}:1: the file has {count} lines, {FILE_LINES} are allowed"
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, Function) and (count := lines_of(node)) > FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {count} lines, {FUNCTION_LINES} are allowed"


def lines_of(function: Function) -> int:
    """From its `def` to its end, less the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    return span(function) - (span(first) if documented else 0)


def span(node: ast.stmt) -> int:
    """How many lines it covers."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


if __name__ == "__main__":
    sys.exit(main())
