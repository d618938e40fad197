"""Framing of streamed answers as server-sent events."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from pydantic import BaseModel
from pydantic_core import to_json
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from server.api.http.errors import describe
from server.errors import EngineDeadError, RequestError, ShuttingDownError

_logger = logging.getLogger(__name__)

TOLD_ELSEWHERE = (EngineDeadError, ShuttingDownError, RequestError)
"""Ends of the whole server, which are logged once, and not by each request; and what the client
asked for, which is no fault of the server."""

DONE = b"data: [DONE]\n\n"


_LINE_ENDS = {"\u2028": b"\\u2028", "\u2029": b"\\u2029", "\x85": b"\\u0085"}


def one_line(data: bytes) -> bytes:
    """JSON with those characters escaped at which some clients' readers of lines would cut it."""
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for character, escaped in _LINE_ENDS.items():
            data = data.replace(character.encode(), escaped)
    return data


def named_event(name: str, model: BaseModel) -> bytes:
    """One event with a name, as Anthropic's and the Responses API's have it."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), one_line(model.model_dump_json().encode()))


def event(model: BaseModel) -> bytes:
    """One event; fields that were not set are left out."""
    return b"data: " + one_line(model.model_dump_json(exclude_unset=True).encode()) + b"\n\n"


class TextEvent:
    """Events of which only one text differs: everything around it is serialised once. A token's
    event then costs a sixth of building and dumping its model.

    Args:
        example: The model with `MARK` in the text's place.
    """

    MARK = "0b9e7f0d-text-goes-here"

    def __init__(self, example: BaseModel) -> None:
        self._before, self._after = event(example).split(to_json(self.MARK))

    def __call__(self, text: str) -> bytes:
        return self._before + one_line(to_json(text)) + self._after


async def with_error_event(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Ends a stream that fails with OpenAI's error body: the status has long been sent. After it
    comes what ends every stream, for clients that wait for that."""
    try:
        async with aclosing(events):
            async for data in events:
                yield data
    except Exception as error:
        if not isinstance(error, TOLD_ELSEWHERE):
            _logger.exception("stream failed")
        yield event(describe(error).body)
        yield DONE


class Closable(Protocol):
    async def aclose(self) -> None: ...


class EventStream(EventSourceResponse):
    """Sends ready-made events, with comments in between when nothing happens for a while.

    Args:
        events: Encoded events.
        source: Closed when the response ends, however it ends: closing frees the request's
            memory, and `events` may never have been started to do it.
        ping: An event that is sent instead of a comment.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: Closable,
        ping_seconds: float,
        ping: bytes | None = None,
    ) -> None:
        super().__init__(events, ping=ping_seconds, sep="\n")
        if ping is not None:
            # Its type says that a message is an object; bytes are sent as they are, like events.
            self.ping_message_factory = lambda: ping
        del self.headers["connection"]  # the HTTP server's to say
        self._source = source

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # No time limit is set here, and anyio's scope for one costs as much as the JSON of a token.
        await send(message)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()
