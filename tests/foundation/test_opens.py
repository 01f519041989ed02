"""Every place in distwatch that opens a file itself, and why it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import distwatch

PACKAGE = Path(distwatch.__file__).parent
PROC = "a file of /proc or /dev, which the kernel made"
OWN = "a file of our own package"
NEW = "makes a new file, with O_EXCL"
MADE = "a file in a folder that it has just made for itself"
MAY_OPEN = {
    "foreign_files.py": "the one place",
    "runfolder.py": PROC,
    "socket_path.py": "a folder, for the socket in it",
    "agent/core.py": PROC,
    "agent/journal.py": NEW,
    "agent/limits.py": PROC,
    "agent/observer_start.py": PROC,
    "agent/ptrace.py": PROC,
    "agent/ring_budget.py": "a folder that it has made for itself, to lock",
    "cli/__main__.py": PROC,
    "cli/demo.py": MADE,
    "cli/options.py": "a device or pipe that a person named to write to",
    "cli/run.py": PROC,
    "demo/job.py": MADE,
    "dumps/plain_pickle.py": PROC,
    "injection/bootstrap.py": "the answer, in the file of the request",
    "injection/refusal.py": PROC,
    "injection/traced_thread.py": PROC,
    "integrations/load_waits.py": PROC,
    "integrations/ray.py": PROC,
    "observer/cluster/host_keeper.py": PROC,
    "probes/kernel_log.py": PROC,
    "probes/process.py": PROC,
    "probes/procfs.py": PROC,
    "probes/ray_cluster.py": OWN,
    "probes/table.py": PROC,
    "report/page_script.py": OWN,
    "tui/export.py": NEW,
}
FILE_METHODS = ("read_text", "read_bytes", "write_text", "write_bytes")


def opens(tree: ast.AST) -> Iterator[int]:
    """Lines that open a file by its path, other than through `foreign_files`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open":
            yield node.lineno
        if not isinstance(called, ast.Attribute):
            continue
        of_os = isinstance(called.value, ast.Name) and called.value.id in ("os", "io", "linecache")
        if of_os and called.attr in ("open", "getline", "getlines", "mkfifo"):
            yield node.lineno
        if called.attr in FILE_METHODS:
            yield node.lineno


def test_files_are_opened_in_one_place() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if lines := list(opens(ast.parse(path.read_text("utf-8")))):
            found[str(path.relative_to(PACKAGE))] = lines
    news = {name: lines for name, lines in found.items() if name not in MAY_OPEN}
    assert not news, "open these through distwatch.foreign_files, or say here why not"
    assert set(MAY_OPEN) == set(found), "these open nothing any more"


def test_the_search_finds_what_it_is_for() -> None:
    source = "open(p)\nos.open(p, 0)\nPath(p).read_text()\nlinecache.getline(f, 1)\nself.open()\n"
    assert list(opens(ast.parse(source))) == [1, 2, 3, 4]
