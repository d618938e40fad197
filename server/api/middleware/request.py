"""Around every HTTP request: it gets an id, its answer is counted, and its origin is kept for the
engine's requests that are made of it.

Plain ASGI. Starlette's BaseHTTPMiddleware would pass each chunk of a stream through a queue.
"""

import re
import uuid
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.anthropic_errors import expects_anthropic
from server.api.http.errors import STATUS_CLIENT_CLOSED
from server.engine.types import Origin
from server.observe.front_metrics import FrontMetrics

REQUEST_ID_HEADER = "x-request-id"
ANTHROPIC_ID_HEADER = "request-id"
"""Where Anthropic's clients look for the id."""
DROPPED_TOOLS_HEADER = "x-glidecape-dropped-tools"
"""Has the types of the tools that were left out of the request."""
_ORIGIN = ContextVar[Origin | None]("origin", default=None)
_VALID_ID = re.compile(r"[!-~]{1,128}")


class RequestMiddleware:
    """Gives each HTTP request an id (the client's own, if it sent one), sends it back with every
    answer, and counts the answer by route and status.

    Args:
        paths: The routes' paths, to count answers that were given before a route was reached.
    """

    def __init__(self, app: ASGIApp, metrics: FrontMetrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        trace = headers.get("traceparent"), headers.get("tracestate")  # W3C Trace Context
        _ORIGIN.set(Origin(request_id, scope["path"], *trace))
        scope.setdefault("state", {})["request_id"] = request_id
        for_anthropic = expects_anthropic(scope)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if for_anthropic:
                    headers[ANTHROPIC_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._metrics.count_http(self._route(scope), status or STATUS_CLIENT_CLOSED)

    def _route(self, scope: Scope) -> str:
        """The route's pattern. Never just any path: strangers could invent as many as they like."""
        route = scope.get("route")
        if route is not None:
            return getattr(route, "path", "unmatched")
        return scope["path"] if scope["path"] in self._paths else "unmatched"


def current_origin() -> Origin | None:
    """The HTTP request that is being served; None outside of one."""
    return _ORIGIN.get()


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    # Anything else could smuggle a line into a log or a header.
    return given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex
