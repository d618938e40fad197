"""Log lines and traces of requests that ended."""

import json
import logging
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from server.engine.types import Origin, SpeculationSummary
from server.logs import JsonFormatter, TextFormatter
from server.request_log import RequestLog
from server.tracing import RequestTracer
from tests.test_metrics import FINISHED, REQUEST, STEP

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORIGIN = Origin("http-1", "/v1/completions", f"00-{TRACE}-{SPAN}-01")
ENDED = replace(
    FINISHED,
    request=replace(REQUEST, origin=ORIGIN),
    speculation=SpeculationSummary(num_steps=3, num_drafted=12, num_accepted=4),
)


@pytest.mark.parametrize("with_prompt", [False, True])
def test_a_line_for_a_request(caplog: pytest.LogCaptureFixture, with_prompt: bool) -> None:
    log = RequestLog((lambda ids: f"a {len(ids)}") if with_prompt else None)
    with caplog.at_level("INFO"):
        log.record(replace(STEP, finished=(ENDED,)))
    (record,) = caplog.records
    line = json.loads(JsonFormatter().format(record))
    assert line["id"] == "r" and line["http_request_id"] == "http-1"
    assert (line["prompt_tokens"], line["output_tokens"]) == (5, 7)
    assert (line["drafted_tokens"], line["accepted_tokens"]) == (12, 4)
    assert (line["queue_seconds"], line["decode_seconds"]) == (0.4, 2.2)
    assert line.get("prompt") == ("a 5" if with_prompt else None)
    text = TextFormatter().format(record)
    assert text.startswith("INFO request id=r ") and ('prompt="a 5"' in text) == with_prompt


def test_a_line_stays_one_line() -> None:
    record = logging.LogRecord("n", logging.INFO, "", 0, "m", None, None)
    record.fields = {"prompt": 'a\n"b=c'}
    assert TextFormatter().format(record) == 'INFO m prompt="a\\n\\"b=c"'
    assert "\n" not in JsonFormatter().format(record)


def test_a_collector_gets_spans() -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        tracer = RequestTracer(f"http://127.0.0.1:{server.server_port}", "tiny", "1")
        tracer.record(replace(STEP, finished=(ENDED,)))
        tracer.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    message = ExportTraceServiceRequest.FromString(bodies[0])
    spans = {span.name: span for span in message.resource_spans[0].scope_spans[0].spans}
    root = spans["text_completion tiny"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    values = {entry.key: entry.value for entry in root.attributes}
    assert values["gen_ai.usage.output_tokens"].int_value == 7
    assert values["glidecape.speculation.accepted_tokens"].int_value == 4
    assert all(spans[n].parent_span_id == root.span_id for n in ("queue", "prefill", "decode"))
    decode = spans["decode"]
    assert decode.end_time_unix_nano - decode.start_time_unix_nano == 2_200_000_000
    assert spans["queue"].end_time_unix_nano == spans["prefill"].start_time_unix_nano
    assert root.start_time_unix_nano == spans["queue"].start_time_unix_nano


def test_traces_are_not_imported_when_off() -> None:
    code = "import sys, server.build; assert 'opentelemetry.sdk' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
