"""`distwatch export -o otlp`, received over HTTP by a small receiver on the official opentelemetry-proto."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from distwatch.state import events as ev
from tests.cli.runs import distwatch, save
from tests.diagnosis.recorded import hung_job, judged

MESSAGES = {"/v1/traces": ExportTraceServiceRequest, "/v1/logs": ExportLogsServiceRequest}


class Receiver:
    """Decodes what a collector would get; anything else is answered as a collector does."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any, dict[str, str]]] = []
        self.answer = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/x-protobuf"
                message = MESSAGES[self.path].FromString(body)
                receiver.got.append((self.path, message, dict(self.headers)))
                self.send_response(receiver.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def of(self, path: str) -> list[Any]:
        return [message for where, message, _ in self.got if where == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


def test_steps_collectives_and_incidents_arrive(root: Path, receiver: Receiver) -> None:
    job = hung_job()
    job.see(31.0, ev.FindingsJudged(host="node1", findings=tuple(judged(job)), incident=1))
    save(job, root, "llama")
    done = distwatch("export", "llama", "-o", "otlp", "--endpoint", receiver.url, root=root)
    assert done.returncode == 3, done.stderr
    assert "1 log record sent" in done.stderr
    (traces,) = receiver.of("/v1/traces")
    by_rank = {
        attributes(one.resource)["distwatch.global_rank"]: one.scope_spans[0].spans
        for one in traces.resource_spans
    }
    assert set(by_rank) == {0, 1, 2, 3}
    waiting = {span.name: span for span in by_rank[0]}["all_reduce #5"]
    assert waiting.status.message == "it has not returned"
    assert attributes(waiting)["distwatch.ended"] is False
    assert waiting.end_time_unix_nano - waiting.start_time_unix_nano == 21 * 10**9
    assert "all_reduce #5" not in {span.name for span in by_rank[2]}
    spans = [span for held in by_rank.values() for span in held]
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    (logs,) = receiver.of("/v1/logs")
    (record,) = logs.resource_logs[0].scope_logs[0].log_records
    told = attributes(record)
    assert (record.severity_text, told["distwatch.code"]) == ("hang", "collective.rank_missing")
    assert [value.int_value for value in told["distwatch.culprit_ranks"].values] == [2]
    assert "never entered" in record.body.string_value
    assert record.trace_id == spans[0].trace_id


def test_the_same_run_has_the_same_ids(
    hung: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url + "/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,x=y")
    for _ in range(2):
        assert distwatch("export", "hung", "-o", "otlp", root=hung).returncode == 3
    first, second = receiver.of("/v1/traces")
    assert first == second
    assert receiver.got[0][2]["Api-Key"] == "a b"


def test_a_collector_that_does_not_take_it(hung: Path, receiver: Receiver) -> None:
    receiver.answer = 503
    done = distwatch("export", "hung", "-o", "otlp", "--endpoint", receiver.url, root=hung)
    assert (done.returncode, "it answered 503" in done.stderr) == (1, True)
    done = distwatch("export", "hung", "-o", "otlp", root=hung)
    assert (done.returncode, "--endpoint" in done.stderr) == (2, True)
