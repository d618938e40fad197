"""The limit of a body's length. A body is read whole before anything else is done for its request.

Starlette has such a middleware. But it answers in plain text, past the error table, the request's
id and the count of answers. And it hands the body on while it arrives, so that a slow upload would
hold one of the places that generation requests share.
"""

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import shown
from server.api.http.receiving import body_message
from server.errors import BodyTooLargeError, RateLimitError, UnsupportedMediaTypeError

MAX_LONGEST_BODIES = 64
"""All bodies in memory that were not parsed yet are together at most as long as this many of the
longest that is allowed."""

_HELD = "held_body"


class BodyLimitMiddleware:
    """Reads the body, whether its length was announced or it comes in chunks, and passes it on in
    one message.

    Args:
        max_body_size: In bytes.

    Raises:
        UnsupportedMediaTypeError: it is compressed.
        BodyTooLargeError: it is longer. What still comes is dropped by the HTTP server.
        RateLimitError: too many other bodies are in memory.
        ClientDisconnect: the client left in the middle of it.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self._app = app
        self._max_body_size = max_body_size
        self._num_held = 0
        """Bytes in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _check_encoding(scope)
        # Before reading: a client that asks ("Expect: 100-continue") then sends nothing.
        self.check(_announced_length(scope))
        body = scope.setdefault("state", {})[_HELD] = _Body(self)
        try:
            await body.read(receive)
            await self._app(scope, body.receive_after(receive), send)
        finally:
            body.forget()

    def hold(self, num_bytes: int) -> None:
        if self._num_held + num_bytes > MAX_LONGEST_BODIES * self._max_body_size:
            raise RateLimitError("too many bodies are being read; try again later")
        self._num_held += num_bytes

    def release(self, num_bytes: int) -> None:
        self._num_held -= num_bytes

    def check(self, length: int) -> None:
        if length > self._max_body_size:
            raise BodyTooLargeError(f"the body is longer than {self._max_body_size} bytes")


class _Body:
    """One request's body, from its first byte until it was parsed."""

    def __init__(self, limit: BodyLimitMiddleware) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._length = 0

    async def read(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            self._limit.hold(len(part))
            self._parts.append(part)
            self._length += len(part)
            self._limit.check(self._length)
            if not message.get("more_body", False):
                return

    def receive_after(self, receive: Receive) -> Receive:
        """A `receive` that returns the body first."""
        is_taken = False

        async def receive_body_first() -> Message:
            nonlocal is_taken
            if is_taken:
                return await receive()
            is_taken = True
            message = body_message(b"".join(self._parts))
            self._parts.clear()
            return message

        return receive_body_first

    def forget(self) -> None:
        self._parts.clear()
        self._limit.release(self._length)
        self._length = 0


def forget_body(scope: Scope) -> None:
    """Drops the bytes of a request's body once it has been parsed."""
    body: _Body | None = scope.get("state", {}).get(_HELD)
    if body is not None:
        body.forget()


def _check_encoding(scope: Scope) -> None:
    """A compressed body would have to be unpacked to know its length: 4 MB can hold 4 GB."""
    encoding = Headers(scope=scope).get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            f"bodies with content-encoding {shown(encoding)} are not read here; send it as it is"
        )


def _announced_length(scope: Scope) -> int:
    """The length in the headers; 0 without one. What arrives is counted in any case."""
    try:
        return int(Headers(scope=scope).get("content-length", "0"))
    except ValueError:
        return 0
