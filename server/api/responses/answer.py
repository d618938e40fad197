"""Makes a response and keeps it, streamed or whole."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import Parts
from server.api.generation.answer import Started, start
from server.api.generation.job_group import JobGroup, JobProgress, collect_group
from server.api.http.errors import describe
from server.api.http.long_work import LongWork
from server.api.http.receiving import unless_disconnected
from server.api.http.sse import TOLD_ELSEWHERE, EventStream, named_event
from server.api.responses.items import kept
from server.api.responses.schema.answer import ResponseError, ResponseObject
from server.api.responses.schema.events import Event
from server.api.responses.shape import ResponseShape
from server.api.responses.store import KeptResponse, Owner, ResponseStore, Turn
from server.errors import RequestError

_logger = logging.getLogger(__name__)


class Record:
    """A response in the store, from state to state.

    Args:
        store: None if the response is not to be kept.
    """

    def __init__(
        self, store: ResponseStore | None, owner: Owner, turn: Turn, long_work: LongWork
    ) -> None:
        self._store = store
        self._owner = owner
        self._turn = turn
        self._long_work = long_work
        self._current: KeptResponse | None = None

    async def save(self, shape: ResponseShape) -> bytes:
        """Keeps the response as it is now, and returns its JSON. It is kept once this returns, and
        not if it is cancelled."""
        write = partial(self._written, shape.response)
        new = await self._long_work.run(shape.is_long, write)
        if self._store is None:
            return new.body
        # Back in the event loop, whose the store is.
        if self._current is None:
            self._store.put(new)
        else:
            self._store.replace(self._current, new)
        self._current = new
        return new.body

    def _written(self, response: ResponseObject) -> KeptResponse:
        body = response.model_dump_json().encode()
        turn = self._turn
        if self._store is not None:
            outputs = [kept(item) for item in response.output]
            turn = Turn(turn.parent, turn.inputs, outputs)
        return KeptResponse(self._owner, response.id, response.status, body, turn)


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
    return Response(await record.save(shape), media_type="application/json")


async def send_stream(
    http_request: Request, parts: Parts, group: JobGroup, shape: ResponseShape, record: Record
) -> Response:
    """Answers with server-sent events.

    Raises:
        EngineDeadError: before anything was sent. Later failures become an event.
    """
    started = await start(http_request, parts, group)
    stream = _Stream(started, shape, record, parts.long_work)
    return EventStream(stream.events(), stream, parts.info.sse_ping_seconds)


class _Stream:
    """A response on its way to the client."""

    def __init__(
        self,
        started: Started[JobProgress],
        shape: ResponseShape,
        record: Record,
        long_work: LongWork,
    ) -> None:
        self._started = started
        self._shape = shape
        self._record = record
        self._long_work = long_work
        self._is_open = False
        """Whether a state is kept that is not the last one."""
        self._has_ended = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yields the stream. Each state is stored before its event is sent, so that a client that
        sees a response end can go on from it."""
        await self._record.save(self._shape)
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
        self._has_ended = True
        await self._close()
        for event in last:
            yield await self._framed(event)

    async def aclose(self) -> None:
        """Ends the stream. If the response is not complete, the client has left."""
        try:
            await self._started.aclose()
        finally:
            # Also where it left while its last state was on the way to the store.
            if self._is_open:
                if not self._has_ended:
                    self._shape.cancel()
                await self._close()

    async def _close(self) -> None:
        await self._record.save(self._shape)
        self._is_open = False

    async def _framed(self, event: Event) -> bytes:
        """An event that has all of the output so far."""
        frame = partial(named_event, event.type, event)
        return await self._long_work.run(self._shape.is_long, frame)


def _error(error: Exception) -> ResponseError:
    if not isinstance(error, TOLD_ELSEWHERE):
        _logger.error("stream failed", exc_info=error)
    code = "invalid_prompt" if isinstance(error, RequestError) else "server_error"
    return ResponseError(code=code, message=describe(error).body.error.message)
