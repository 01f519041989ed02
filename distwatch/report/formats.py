"""A report in each format for people and programs."""

from __future__ import annotations

from distwatch.report.document import Report, to_json
from distwatch.visible_text import visible

CONTENT_TYPES = {
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
"""By format, which is also the file's extension."""


def render(report: Report, output: str) -> bytes:
    """The report as `json`, `md` or one self-contained `html` page; it steers no terminal."""
    return visible(_render(report, output)).encode("utf-8", "replace")


def _render(report: Report, output: str) -> str:
    if output == "json":
        return to_json(report).decode()
    # The page's templates cost start-up time that only this format should pay.
    if output == "html":
        from distwatch.report.html import render_html

        return render_html(report)
    from distwatch.report.markdown import render_markdown

    return render_markdown(report)
