"""Sends a run to an OTLP collector over HTTP, for `distwatch export -o otlp`."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit

from distwatch import __version__
from distwatch.cli.export import trace_of
from distwatch.cli.terminal import echo
from distwatch.errors import DistwatchError, UsageError
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.responses.sender import NoRedirect
from distwatch.observer.targets.target import report_on
from distwatch.report.document import Report
from distwatch.runfolder import RunFolder
from distwatch.state.quantities import count_of
from distwatch.visible_text import visible_line

WITHIN_S = 30.0


def send(folder: RunFolder, endpoint: str | None) -> Report:
    """Sends a run's traces and logs, and says how many; returns its report.

    Raises:
        UsageError: there is no endpoint, or the extra is not installed.
        DistwatchError: the collector did not take them.
    """
    base = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise UsageError(
            "otlp needs a collector's http:// or https:// address",
            advice="--endpoint http://127.0.0.1:4318, or OTEL_EXPORTER_OTLP_ENDPOINT.",
        )
    try:
        from distwatch.report.otlp import logs_of, traces_of
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("opentelemetry", "google")):
            raise
        raise UsageError(
            "the opentelemetry-proto package is not installed",
            advice="pip install 'distwatch[otel]'",
        ) from None
    state = load_state(folder)
    report = report_on(state)
    traces = traces_of(state, trace_of(folder, state).spans())
    logs = logs_of(report, time.time_ns())
    _post(f"{base.rstrip('/')}/v1/traces", traces.SerializeToString())
    _post(f"{base.rstrip('/')}/v1/logs", logs.SerializeToString())
    spans = sum(len(scope.spans) for one in traces.resource_spans for scope in one.scope_spans)
    records = sum(len(scope.log_records) for one in logs.resource_logs for scope in one.scope_logs)
    sent = f"{count_of(spans, 'span')} and {count_of(records, 'log record')}"
    echo(f"distwatch: {sent} sent", err=True)
    return report


def _post(url: str, body: bytes) -> None:
    headers = {
        "Content-Type": "application/x-protobuf",
        "User-Agent": f"distwatch/{__version__}",
        **_given_headers(),
    }
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=WITHIN_S):
            return
    except urllib.error.HTTPError as error:
        why = f"it answered {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        why = str(getattr(error, "reason", error))
    raise DistwatchError(f"the collector did not take it: {visible_line(why)[:300]}")


def _given_headers() -> dict[str, str]:
    """OTEL_EXPORTER_OTLP_HEADERS: `name=value,…`, with values as in a URL."""
    pairs = os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")
    split = (pair.partition("=") for pair in pairs if "=" in pair)
    return {name.strip(): unquote(value.strip()) for name, _, value in split}
