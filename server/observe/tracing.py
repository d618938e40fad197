"""OpenTelemetry: a span for each generation that ended, with children for its time in the queue,
in the prompt and in decoding. Attributes are those of the GenAI semantic conventions, and
`glidecape.*`.

Imported only where traces are on: it needs the extra `otel`.
"""

import time

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from server.engine.outputs import FinishedRequest, StepStats
from server.engine.types import Origin

_TEXT_COMPLETION_PATH = "/v1/completions"


class RequestTracer:
    """Sends spans to a collector, in a thread of its own, over OTLP (HTTP, protobuf).

    Args:
        endpoint: The collector's, such as http://127.0.0.1:4318; None leaves it to OpenTelemetry's
            own environment variables.
    """

    def __init__(self, endpoint: str | None, model_name: str, version: str) -> None:
        self._model_name = model_name
        # OTEL_SERVICE_NAME, and service.name in OTEL_RESOURCE_ATTRIBUTES.
        name = OTELResourceDetector().detect().attributes.get(SERVICE_NAME, "glidecape")
        resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        traces = endpoint and f"{endpoint.rstrip('/')}/v1/traces"
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=traces)))
        self._tracer = self._provider.get_tracer("glidecape", version)

    def record(self, step: StepStats) -> None:
        """Traces what ended in a step; in the engine's thread."""
        for request in step.finished:
            self._trace(request, time.time_ns())

    def close(self) -> None:
        """Sends what has not been sent yet; takes seconds where the collector is away."""
        self._provider.shutdown()

    def _trace(self, ended: FinishedRequest, end: int) -> None:
        """Makes the spans of one generation.

        Args:
            end: In nanoseconds of Unix time; the engine's own clock knows no time of day.
        """
        origin = ended.request.origin
        is_text = origin is not None and origin.path == _TEXT_COMPLETION_PATH
        operation = "text_completion" if is_text else "chat"
        start = end - _nanoseconds(ended.e2e_seconds)
        span = self._tracer.start_span(
            f"{operation} {self._model_name}",
            _parent(origin),
            SpanKind.SERVER,
            {"gen_ai.operation.name": operation, **self._attributes(ended)},
            start_time=start,
        )
        if ended.reason == "error":
            kind, what = _error(ended)
            span.set_status(StatusCode.ERROR, what)
            span.set_attribute("error.type", kind)
        self._trace_parts(ended, set_span_in_context(span), start)
        span.end(end)

    def _trace_parts(self, ended: FinishedRequest, parent: Context, start: int) -> None:
        """Makes a span for each phase. A phase that the request did not reach has none."""
        parts = {
            "queue": ended.queue_seconds,
            "prefill": ended.prefill_seconds,
            "decode": ended.decode_seconds,
        }
        for name, seconds in parts.items():
            end = start + _nanoseconds(seconds)
            if seconds > 0:
                self._tracer.start_span(name, parent, start_time=start).end(end)
            start = end

    def _attributes(self, ended: FinishedRequest) -> dict[str, AttributeValue]:
        params, origin = ended.request.params, ended.request.origin
        attributes: dict[str, AttributeValue] = {
            "gen_ai.provider.name": "glidecape",
            "gen_ai.request.model": self._model_name,
            "gen_ai.response.model": self._model_name,
            "gen_ai.response.id": ended.request.request_id,
            "gen_ai.response.finish_reasons": (ended.reason,),
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.top_k": params.top_k,
            "gen_ai.request.frequency_penalty": params.frequency_penalty,
            "gen_ai.request.presence_penalty": params.presence_penalty,
            "gen_ai.request.seed": params.seed,
            "gen_ai.usage.input_tokens": ended.num_prompt_tokens,
            "gen_ai.usage.output_tokens": ended.num_output_tokens,
            "gen_ai.usage.cache_read.input_tokens": ended.num_cached_tokens,
            "glidecape.speculation.policy": ended.request.speculation.policy,
        }
        if origin is not None:
            attributes["glidecape.http_request_id"] = origin.http_request_id
        summary = ended.speculation
        if summary is not None:
            attributes |= {
                "glidecape.speculation.steps": summary.num_steps,
                "glidecape.speculation.drafted_tokens": summary.num_drafted,
                "glidecape.speculation.accepted_tokens": summary.num_accepted,
                "glidecape.speculation.draft_seconds": summary.draft_seconds,
                "glidecape.speculation.verify_seconds": summary.verify_seconds,
            }
        return attributes


def _parent(origin: Origin | None) -> Context:
    """The client's span; an empty context, and so a new trace, where there is none or a bad one."""
    headers: dict[str, str] = {}
    if origin is not None and origin.trace_parent is not None:
        headers["traceparent"] = origin.trace_parent
        if origin.trace_state is not None:
            headers["tracestate"] = origin.trace_state
    return TraceContextTextMapPropagator().extract(headers, Context())


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _error(ended: FinishedRequest) -> tuple[str, str]:
    """Name and text of the exception that the client got."""
    if ended.grammar_exceeded is not None:
        return "GrammarCostError", f"its grammar took too much: {ended.grammar_exceeded}"
    return "EngineDeadError", "the engine stopped"
