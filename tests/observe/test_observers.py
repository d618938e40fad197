"""Log lines and traces of requests that ended."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import pytest

from server.config import ServerSettings, load_settings
from server.engine.outputs import SpeculationSummary
from server.engine.types import Origin
from server.errors import ConfigError
from server.observe.logs import JsonFormatter, TextFormatter
from server.observe.metrics import Metrics
from server.observe.observers import Observers
from server.observe.request_log import RequestLog
from server.observe.tracing import RequestTracer
from tests.collector import collector
from tests.doubles import byte_tokenizer
from tests.observe.figures import FINISHED, REQUEST, STEP

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


def test_an_observer_that_fails_keeps_nothing_from_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics come first, and fail; the log has its line, and the failure is told once."""
    monkeypatch.setattr(Metrics, "record", lambda self, step: 1 / 0)  # pyright: ignore[reportUnknownLambdaType]
    observers = Observers(load_settings(ServerSettings), "tiny")
    observers.start_log(load_settings(ServerSettings), byte_tokenizer())
    with caplog.at_level("INFO"):
        for _ in range(3):
            observers.record(replace(STEP, finished=(ENDED,)))
    assert [record.getMessage() for record in caplog.records].count("request") == 3
    (told,) = [record for record in caplog.records if record.exc_info]
    assert "ZeroDivisionError" in caplog.text and told.levelname == "ERROR"


def test_a_collector_gets_spans() -> None:
    with collector() as collected:
        tracer = RequestTracer(collected.url, "tiny", "1")
        tracer.record(replace(STEP, finished=(ENDED,)))
        tracer.close()
    spans = collected.named()
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


@pytest.mark.parametrize(
    ("exceeded", "kind"), [(None, "EngineDeadError"), ("time", "GrammarCostError")]
)
def test_a_span_says_which_error_its_client_was_told(exceeded: str | None, kind: str) -> None:
    ended = replace(ENDED, reason="error", grammar_exceeded=exceeded)
    with collector() as collected:
        tracer = RequestTracer(collected.url, "tiny", "1")
        tracer.record(replace(STEP, finished=(ended,)))
        tracer.close()
    root = collected.named()["text_completion tiny"]
    values = {entry.key: entry.value for entry in root.attributes}
    assert values["error.type"].string_value == kind


def test_traces_are_not_imported_when_off() -> None:
    code = "import sys, server.build; assert 'opentelemetry.sdk' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server.observe.tracing", None)
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_an_endpoint_without_the_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_extra(monkeypatch)
    settings = load_settings(ServerSettings, otlp_endpoint="http://127.0.0.1:4318")
    with pytest.raises(ConfigError, match=r"otlp_endpoint.*glidecape\[otel\]"):
        Observers(settings, "tiny")


def test_an_environments_endpoint_without_the_extra_is_only_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_the_extra(monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    Observers(load_settings(ServerSettings), "tiny").close()
    (record,) = caplog.records
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, but traces need" in record.getMessage()


def test_an_endpoint_is_a_url() -> None:
    settings = load_settings(ServerSettings, otlp_endpoint="127.0.0.1:4318")
    with pytest.raises(ConfigError, match="otlp_endpoint"):
        Observers(settings, "tiny")


@pytest.mark.parametrize(
    ("variable", "value", "warns"),
    [
        ("OTEL_TRACES_EXPORTER", "none", False),
        ("OTEL_SDK_DISABLED", "true", False),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", True),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", True),
    ],
)
def test_the_environment_can_switch_its_traces_off(
    variable: str,
    value: str,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the extra, which an endpoint that counts would be told of."""
    without_the_extra(monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv(variable, value)
    Observers(load_settings(ServerSettings), "tiny").close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warns
    assert all(value in message and "http/protobuf alone" in message for message in messages)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "glidecape"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,team=a"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine", "OTEL_SERVICE_NAME": "own"}, "own"),
    ],
)
def test_traces_have_the_service_s_name(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with collector() as collected:
        tracer = RequestTracer(collected.url, "tiny", "1")
        tracer.record(replace(STEP, finished=(ENDED,)))
        tracer.close()
    assert collected.services == {expected}
