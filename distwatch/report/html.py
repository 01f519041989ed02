"""The report as one self-contained HTML file: no network, no script."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from distwatch.report.document import Report
from distwatch.report.markdown import tree_lines
from distwatch.report.matrix import build_matrix
from distwatch.state.rank_sets import format_ranks


def render_html(report: Report) -> str:
    """The whole report; every value is escaped by the template engine."""
    source = files("distwatch.report").joinpath("templates/report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["ranks"] = format_ranks
    environment.filters["gib"] = lambda count: "–" if count is None else f"{count / 2**30:.1f} GiB"
    template = environment.from_string(source)
    return template.render(
        report=report,
        stack_lines=list(tree_lines(report.stacks)),
        matrix=build_matrix(report),
    )
