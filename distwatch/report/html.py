"""The report as one self-contained HTML file: no network, no script."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from distwatch.report.document import Report, reasons_unobserved, since_text
from distwatch.report.markdown import tree_lines
from distwatch.report.matrix import build_matrix
from distwatch.report.model_text import progress, wait_text
from distwatch.report.timeline import folded
from distwatch.state.layouts import words_of
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import format_ranks, name_ranks
from distwatch.state.statuses import status_of
from distwatch.views import load_text
from distwatch.views.load_groups import group_loads
from distwatch.views.load_timeline import device_bars, module_label, spans_of

LOADS = 256
_FILTERS = {
    "ranks": format_ranks,
    "named": name_ranks,
    "partition": words_of,
    "plain": load_text.plain,
    "outcome": load_text.outcome,
    "spans": spans_of,
    "shown_spans": load_text.shown_spans,
    "span_words": load_text.span_words,
    "since": since_text,
    "seconds": seconds,
    "progress": progress,
    "wait_label": load_text.wait_label,
    "wait_text": wait_text,
    "model_words": load_text.model_words,
    "offload_words": load_text.offload_words,
    "leaked_words": load_text.leaked_words,
    "device_bars": device_bars,
    "module_label": module_label,
    "size": load_text.size_text,
    "gib": lambda count: "–" if count is None else f"{count / 2**30:.1f} GiB",
}


def render_html(report: Report) -> str:
    """The whole report; the template engine escapes every value."""
    source = files("distwatch.report").joinpath("templates/report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(_FILTERS)
    template = environment.from_string(source)
    loads = group_loads(report.models)
    return template.render(
        report=report,
        loads=loads[:LOADS],
        loads_left_out=max(0, len(loads) - LOADS),
        stack_lines=list(tree_lines(report.stacks)),
        matrix=build_matrix(report),
        timeline=folded(report.timeline),
        states={rank.global_rank: rank.state for rank in report.ranks},
        status_of=status_of,
        unobserved=reasons_unobserved(report.coverage),
    )
