"""Writes a report of the current picture."""

from __future__ import annotations

import os
from itertools import chain, count

from distwatch.tui.picture import Picture


def render_reports(picture: Picture) -> dict[str, bytes]:
    """Extension → content: Markdown, JSON and one self-contained HTML page."""
    # The report costs start-up time that only an export should pay.
    from distwatch.report.document import build_report
    from distwatch.report.formats import CONTENT_TYPES, render

    report = build_report(picture.state, list(picture.findings), picture.run_id)
    return {extension: render(report, extension) for extension in CONTENT_TYPES}


def write_reports(reports: dict[str, bytes], folder: str, run_id: str) -> list[str]:
    """Writes them side by side under an unused name; returns their paths.

    Raises:
        OSError: the folder is not writable.
    """
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in run_id).strip(".") or "run"
    stems = chain([safe], (f"{safe}-{number}" for number in count(2)))
    for stem in stems:
        paths = [os.path.join(folder, f"distwatch-{stem}.{extension}") for extension in reports]
        if not any(map(os.path.exists, paths)):
            break
    for path, content in zip(paths, reports.values(), strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return paths
