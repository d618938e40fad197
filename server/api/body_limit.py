"""Bodies: none longer than allowed, and complete before anything else is done for a request.

Starlette has such a middleware, but answers in plain text (past the error table, the request's id
and the count of answers), and hands the body on while it arrives: then a slow upload would hold
one of the places that generation requests share.
"""

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.errors import shown
from server.api.receiving import body_message, replayed
from server.errors import BodyTooLargeError, UnsupportedMediaTypeError


class BodyLimitMiddleware:
    """Reads the body, whether its length was announced or it comes in chunks, and passes it on in
    one message.

    Args:
        max_body_size: In bytes.

    Raises:
        UnsupportedMediaTypeError: it is compressed.
        BodyTooLargeError: it is longer. What still comes is dropped by the HTTP server.
        ClientDisconnect: the client left in the middle of it.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self._app = app
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Before reading: a client that asks ("Expect: 100-continue") then sends nothing.
            _check_encoding(scope)
            self._check(_announced_length(scope))
            body = await self._read(receive)
            receive = replayed([body_message(body)], receive)
        await self._app(scope, receive, send)

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            self._check(length)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _check(self, length: int) -> None:
        if length > self._max_body_size:
            raise BodyTooLargeError(f"the body is longer than {self._max_body_size} bytes")


def _check_encoding(scope: Scope) -> None:
    """A compressed body would have to be unpacked to know its length: 4 MB can hold 4 GB."""
    encoding = Headers(scope=scope).get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            f"bodies with content-encoding {shown(encoding)} are not read here; send it as it is"
        )


def _announced_length(scope: Scope) -> int:
    """0 where there is no such number; what comes is counted anyway."""
    try:
        return int(Headers(scope=scope).get("content-length", "0"))
    except ValueError:
        return 0
