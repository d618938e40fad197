"""Sends a message, streamed or whole."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import Parts
from server.api.generation.answer import Started, start
from server.api.generation.job import Piece
from server.api.generation.job_group import JobGroup, JobProgress, collect_group
from server.api.http.anthropic_errors import anthropic_error
from server.api.http.errors import describe
from server.api.http.receiving import unless_disconnected
from server.api.http.sse import TOLD_ELSEWHERE, EventStream, named_event
from server.api.messages.schema.events import Ping
from server.api.messages.shape import MessageShape

_logger = logging.getLogger(__name__)


async def send_whole(
    http_request: Request, parts: Parts, group: JobGroup, shape: MessageShape
) -> Response:
    """Answers with one JSON document.

    Raises:
        EngineDeadError: the engine died.
        ClientDisconnect: the client left, which ends the generation.
    """
    pieces = await unless_disconnected(http_request, collect_group(parts.engine, group))
    for piece in pieces:
        list(shape.add(piece))  # the events are for streams
    list(shape.finish(pieces[-1]))
    answer = shape.message(pieces[-1])
    return Response(answer.model_dump_json(), media_type="application/json")


async def send_stream(
    http_request: Request, parts: Parts, group: JobGroup, shape: MessageShape
) -> Response:
    """Answers with server-sent events.

    Raises:
        EngineDeadError: before anything was sent. Later failures become an event.
    """
    started = await start(http_request, parts, group)
    events = _with_error_event(_events(started, shape), http_request.state.request_id)
    return EventStream(events, started, parts.info.sse_ping_seconds, ping=_frame(Ping()))


async def _events(
    started: Started[JobProgress], shape: MessageShape
) -> AsyncGenerator[bytes, None]:
    first = started.first
    for event in shape.begin(None if first is None else first.progress):
        yield _frame(event)
    last: Piece | None = None
    async with aclosing(started.pieces()) as pieces:
        async for _, last in pieces:
            for event in shape.add(last):
                yield _frame(event)
    if last is not None:
        for event in shape.finish(last):
            yield _frame(event)


async def _with_error_event(
    events: AsyncGenerator[bytes, None], request_id: str
) -> AsyncGenerator[bytes, None]:
    """Ends a stream that fails with an error as its last event: the status has long been sent."""
    try:
        async with aclosing(events):
            async for data in events:
                yield data
    except Exception as error:
        if not isinstance(error, TOLD_ELSEWHERE):
            _logger.exception("stream failed")
        answer = describe(error)
        yield _frame(anthropic_error(answer.status, answer.body.error.message, request_id))


def _frame(event: BaseModel) -> bytes:
    return named_event(getattr(event, "type"), event)  # noqa: B009  # each event has one
