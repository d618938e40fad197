"""What happens around every request: its id, and the count of answers.

Plain ASGI. Starlette's BaseHTTPMiddleware would pass each chunk of a stream through a queue.
"""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import STATUS_CLIENT_CLOSED, error_response
from server.metrics import Metrics

_logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
_VALID_ID = re.compile(r"[!-~]{1,128}")


class RequestMiddleware:
    """Gives each HTTP request an id (the client's own, if it sent one), sends it back, counts the
    answer by route and status, and turns an unexpected exception into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status is not None:
                raise
            _logger.exception("request %s failed", request_id)
            await error_response(error)(scope, receive, send_with_id)
        finally:
            self._metrics.count_http(_route(scope), status or STATUS_CLIENT_CLOSED)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    # Anything else could smuggle a line into a log or a header.
    return given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The route's pattern. Never the path itself: strangers could invent as many as they like."""
    route = scope.get("route")
    return getattr(route, "path", "unmatched")
