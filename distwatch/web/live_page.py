"""The live pages: the report's own page with a bar above it, and the list of runs."""

from __future__ import annotations

import datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from distwatch.observer.targets.runs import RunSummary
from distwatch.report.document import Report
from distwatch.report.html import page_values, template_engine
from distwatch.report.page_script import part, script_hash
from distwatch.visible_text import visible

WEB = "distwatch.web"
_OWN = frozenset({"run.html.j2", "runs.html.j2", "runs_table.html.j2"})


def run_page(report: Report, at: str) -> str:
    """The page of one run.

    Args:
        at: which version of the live page this is; what is newer comes as events.
    """
    return _render("run.html.j2", {**page_values(report), "at": at})


def runs_page(table: str, at: str) -> str:
    """The page of all runs, around what `runs_table` made."""
    return _render("runs.html.j2", {"table": Markup(table), "at": at})


def runs_table(runs: list[RunSummary], left_out: int) -> str:
    """One row for each run."""
    return visible(
        _engine().get_template("runs_table.html.j2").render(runs=runs, left_out=left_out)
    )


def _render(name: str, values: dict[str, Any]) -> str:
    live = {
        "style": Markup(part("report.css") + part("live.css", WEB)),
        "live_script": Markup(part("live.js", WEB)),
        "live_hash": script_hash("live.js", WEB),
    }
    return visible(_engine().get_template(name).render({**values, **live}))


@cache
def _engine() -> jinja2.Environment:
    reports = template_engine()
    load = jinja2.FunctionLoader(lambda name: part(name, WEB) if name in _OWN else part(name))
    engine = reports.overlay(loader=load)
    engine.filters = {
        **reports.filters,
        "moment": _moment,
        "address": lambda run_id: f"/runs/{quote(run_id, safe='')}",
    }
    return engine


def _moment(wall_ns: int) -> str:
    if not wall_ns:
        return "not observed"
    moment = datetime.datetime.fromtimestamp(wall_ns / 1e9, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")
