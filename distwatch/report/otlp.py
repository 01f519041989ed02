"""A run as OTLP: steps and collectives as spans, incidents and the verdict as logs (extra `distwatch[otel]`).

Ids follow from the run and the process, so that the same run may be sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from distwatch import __version__
from distwatch.report.document import Report
from distwatch.report.trace import Span as RunSpan
from distwatch.state.model import Process, RunState

SCOPE = "distwatch"
_SEVERITIES = {
    "crash": SeverityNumber.SEVERITY_NUMBER_FATAL,
    "error": SeverityNumber.SEVERITY_NUMBER_ERROR,
    "hang": SeverityNumber.SEVERITY_NUMBER_ERROR,
    "warning": SeverityNumber.SEVERITY_NUMBER_WARN,
}


def traces_of(state: RunState, spans: Iterable[RunSpan]) -> ExportTraceServiceRequest:
    """The spans, by process."""
    request = ExportTraceServiceRequest()
    held: dict[str, Any] = {}
    for span in spans:
        if span.process not in held:
            of_process = request.resource_spans.add()
            of_process.resource.CopyFrom(_resource(state.run_id, state.processes[span.process]))
            held[span.process] = of_process.scope_spans.add()
            held[span.process].scope.name, held[span.process].scope.version = SCOPE, __version__
        held[span.process].spans.append(_span(state.run_id, span))
    return request


def logs_of(report: Report, now_ns: int) -> ExportLogsServiceRequest:
    """One record for each incident, and one for the verdict where no incident says the same.

    Args:
        now_ns: the wall-clock time of the verdict.
    """
    request = ExportLogsServiceRequest()
    of_run = request.resource_logs.add()
    of_run.resource.CopyFrom(_resource(report.run.id))
    scope = of_run.scope_logs.add()
    scope.scope.name, scope.scope.version = SCOPE, __version__
    for one in report.incidents:
        more = {"incident": one.number, "current": one.current}
        at_ns = (
            int(datetime.fromisoformat(one.at.replace("Z", "+00:00")).timestamp() * 1000) * 10**6
        )
        told = (one.severity, one.code, one.summary, one.culprit_ranks)
        scope.log_records.append(_record(report.run.id, at_ns, *told, more))
    if not any(one.current for one in report.incidents):
        verdict = report.verdict
        told = (verdict.word, verdict.code, verdict.sentence, verdict.culprit_ranks)
        scope.log_records.append(_record(report.run.id, now_ns, *told, {}))
    return request


def _span(run: str, span: RunSpan) -> Span:
    key = f"{span.process}/{span.track}/{span.name}/{span.begin_ns}"
    ended = span.args.get("ended", True)
    failed = "error" in span.args
    made = Span(
        trace_id=_digest(run, 16),
        span_id=_digest(f"{run}/{key}", 8),
        name=span.name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=max(0, span.begin_ns),
        end_time_unix_nano=max(0, span.begin_ns, span.end_ns),
        attributes=_attributes({"track": span.track, **span.args, "ended": ended}),
    )
    if failed or not ended:
        why = str(span.args["error"]) if failed else "it has not returned"
        made.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=why))
    return made


def _record(
    run: str, at_ns: int, severity: str, code: str, text: str, ranks: Iterable[int], more: dict[str, Any]
) -> LogRecord:  # fmt: skip
    return LogRecord(
        time_unix_nano=at_ns,
        observed_time_unix_nano=at_ns,
        severity_number=_SEVERITIES.get(severity, SeverityNumber.SEVERITY_NUMBER_INFO),
        severity_text=severity,
        body=AnyValue(string_value=text),
        trace_id=_digest(run, 16),
        attributes=_attributes({"code": code, "culprit_ranks": list(ranks), **more}),
    )


def _resource(run: str, process: Process | None = None) -> Resource:
    told: dict[str, Any] = {"service.name": SCOPE, "distwatch.run": run}
    if process is not None:
        told |= {"host.name": process.host, "process.pid": process.pid}
        told |= {"service.instance.id": process.key, "distwatch.role": process.role}
        if process.global_rank is not None:
            told["distwatch.global_rank"] = process.global_rank
    return Resource(attributes=[KeyValue(key=k, value=_value(v)) for k, v in told.items()])


def _attributes(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=f"distwatch.{k}", value=_value(v)) for k, v in values.items()]


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_value(one) for one in value]))
    return AnyValue(string_value=str(value))


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()
