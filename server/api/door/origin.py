"""Which HTTP request is being served, for whoever makes the engine's requests of it."""

from contextvars import ContextVar

from starlette.datastructures import Headers

from server.engine.types import Origin

_ORIGIN = ContextVar[Origin | None]("origin", default=None)


def set_origin(http_request_id: str, path: str, headers: Headers) -> None:
    """To be called in the HTTP request's own task. The trace's headers are those of W3C Trace
    Context."""
    trace_parent, trace_state = headers.get("traceparent"), headers.get("tracestate")
    _ORIGIN.set(Origin(http_request_id, path, trace_parent, trace_state))


def current_origin() -> Origin | None:
    """None outside of HTTP requests."""
    return _ORIGIN.get()
