"""Makes a response and keeps it, streamed or whole."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import Parts
from server.api.generation.answer import Started, start
from server.api.generation.job_group import JobGroup, JobProgress, collect_group
from server.api.http.errors import describe
from server.api.http.receiving import unless_disconnected
from server.api.http.sse import TOLD_ELSEWHERE, EventStream, named_event
from server.api.responses.items import kept
from server.api.responses.schema.answer import ResponseError
from server.api.responses.shape import ResponseShape
from server.api.responses.store import KeptResponse, Owner, ResponseStore, Turn
from server.errors import RequestError

_logger = logging.getLogger(__name__)


class Record:
    """A response in the store, from state to state.

    Args:
        store: None if the response is not to be kept.
    """

    def __init__(self, store: ResponseStore | None, owner: Owner, turn: Turn) -> None:
        self._store = store
        self._owner = owner
        self._turn = turn
        self._current: KeptResponse | None = None

    def save(self, shape: ResponseShape) -> None:
        """Keeps the response as it is now."""
        if self._store is None:
            return
        response = shape.response
        outputs = [kept(item) for item in response.output]
        turn = Turn(self._turn.parent, self._turn.inputs, outputs)
        body = response.model_dump_json().encode()
        new = KeptResponse(self._owner, response.id, response.status, body, turn)
        if self._current is None:
            self._store.put(new)
        else:
            self._store.replace(self._current, new)
        self._current = new


async def send_whole(
    http_request: Request, parts: Parts, group: JobGroup, shape: ResponseShape, record: Record
) -> Response:
    """Answers with one JSON document. It is kept once it has ended: its id is unknown before.

    Raises:
        EngineDeadError: the engine died.
        ClientDisconnect: the client left, which ends the generation.
    """
    for piece in await unless_disconnected(http_request, collect_group(parts.engine, group)):
        list(shape.add(piece))  # the events are for streams
    list(shape.finish())
    record.save(shape)
    return Response(shape.response.model_dump_json(), media_type="application/json")


async def send_stream(
    http_request: Request, parts: Parts, group: JobGroup, shape: ResponseShape, record: Record
) -> Response:
    """Answers with server-sent events.

    Raises:
        EngineDeadError: before anything was sent. Later failures become an event.
    """
    started = await start(http_request, parts, group)
    stream = _Stream(started, shape, record)
    return EventStream(stream.events(), stream, parts.info.sse_ping_seconds)


class _Stream:
    """A response on its way to the client."""

    def __init__(self, started: Started[JobProgress], shape: ResponseShape, record: Record) -> None:
        self._started = started
        self._shape = shape
        self._record = record
        self._is_open = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yields the stream. Each state is stored before its event is sent, so that a client that
        sees a response end can go on from it."""
        self._record.save(self._shape)
        self._is_open = True
        for event in self._shape.begin():
            yield named_event(event.type, event)
        try:
            async with aclosing(self._started.pieces()) as pieces:
                async for _, piece in pieces:
                    for event in self._shape.add(piece):
                        yield named_event(event.type, event)
            last = list(self._shape.finish())
        except Exception as error:
            last = [self._shape.fail(_error(error))]
        self._close()
        for event in last:
            yield named_event(event.type, event)

    async def aclose(self) -> None:
        """Ends the stream. If the response is not complete, the client has left."""
        if self._is_open:
            self._shape.cancel()
            self._close()
        await self._started.aclose()

    def _close(self) -> None:
        self._is_open = False
        self._record.save(self._shape)


def _error(error: Exception) -> ResponseError:
    if not isinstance(error, TOLD_ELSEWHERE):
        _logger.error("stream failed", exc_info=error)
    code = "invalid_prompt" if isinstance(error, RequestError) else "server_error"
    return ResponseError(code=code, message=describe(error).body.error.message)
