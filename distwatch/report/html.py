"""The report as one self-contained HTML file, without network; its script only filters and searches."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from distwatch.diagnosis.facts.rank_status import RankStatus
from distwatch.report.document import Report, hosts_text, reasons_unobserved, since_text
from distwatch.report.matrix import build_matrix
from distwatch.report.model_text import progress, wait_text
from distwatch.report.page_script import part, script_hash
from distwatch.report.pictures import Stretch
from distwatch.report.stack_page import tree_parts
from distwatch.report.timeline import folded
from distwatch.report.wait_layout import place_boxes
from distwatch.state.layouts import words_of
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import format_ranks, name_ranks
from distwatch.state.statuses import status_of
from distwatch.views import load_text
from distwatch.views.activity_strip import MOVING, WORK
from distwatch.views.load_groups import group_loads
from distwatch.views.load_timeline import device_bars, module_label, spans_of
from distwatch.views.rank_map import RankMap, map_ranks
from distwatch.views.side_by_side import side_by_side
from distwatch.visible_text import shorten

LOADS = 256
_FILTERS = {
    "tree_parts": tree_parts,
    "place_boxes": place_boxes,
    "band_class": lambda stretch: _band_class(stretch),
    "blamed_alone": lambda ranks, culprits: _blamed_alone(ranks, culprits),
    "shorten": shorten,
    "ranks": format_ranks,
    "named": name_ranks,
    "partition": words_of,
    "plain": load_text.plain,
    "outcome": load_text.outcome,
    "spans": spans_of,
    "shown_spans": load_text.shown_spans,
    "span_words": load_text.span_words,
    "hosts": hosts_text,
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
    "side_by_side": side_by_side,
    "size": load_text.size_text,
    "gib": lambda count: "–" if count is None else f"{count / 2**30:.1f} GiB",
}


PARTS = (
    "title", "verdict", "pictures", "findings", "ranks", "earlier", "ray", "groups", "layouts", "models", "machines",
    "stacks", "timeline", "unknown",
)  # fmt: skip
"""The parts of the page, each a block of its template. A live page replaces them one by one."""


def render_html(report: Report) -> str:
    """The whole report; the template engine escapes every value."""
    return template_engine().get_template("report.html.j2").render(page_values(report))


def render_parts(report: Report) -> dict[str, str]:
    """The same page's parts by name, for a page that is open already."""
    template = template_engine().get_template("report.html.j2")
    context = template.new_context(page_values(report))
    return {name: "".join(template.blocks[name](context)).strip() for name in PARTS}


@cache
def template_engine() -> jinja2.Environment:
    """The engine for all pages: whatever is built on the report's page extends its template."""
    engine = jinja2.Environment(
        loader=jinja2.FunctionLoader(part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters.update(_FILTERS)
    return engine


def page_values(report: Report) -> dict[str, Any]:
    """What the template of the page is filled with."""
    loads = group_loads(report.models)
    verdict = report.verdict
    return {
        "style": Markup(part("report.css")),
        "script": Markup(part("report.js")),
        "script_hash": script_hash("report.js"),
        "report": report,
        "verdict": verdict,
        "culprits": verdict.culprit_ranks,
        "found": ([verdict.suspicion] if verdict.suspicion else []) + report.findings,
        "map": _map(report),
        "loads": loads[:LOADS],
        "loads_left_out": max(0, len(loads) - LOADS),
        "matrix": build_matrix(report),
        "earlier": [one for one in report.incidents if not one.current],
        "timeline": folded(report.timeline),
        "states": {rank.global_rank: rank.state for rank in report.ranks},
        "status_of": status_of,
        "unobserved": reasons_unobserved(report.coverage),
    }


def _map(report: Report) -> RankMap:
    statuses = [
        RankStatus(global_rank=rank.global_rank, host=rank.host, word=rank.state)
        for rank in report.ranks
    ]
    return map_ranks(statuses, frozenset(report.verdict.culprit_ranks))


def _band_class(stretch: Stretch) -> str:
    return "work" if stretch.kind in (WORK, MOVING) else stretch.kind.tone


def _blamed_alone(ranks: Collection[int], culprits: Collection[int]) -> bool:
    return len(ranks) <= len(culprits) and not set(ranks).isdisjoint(culprits)
