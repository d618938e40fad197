"""Runs the jobs of a request and sends the answer, streamed or whole, in the endpoint's shape."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import Parts, ServingInfo
from server.api.generation.job import Piece
from server.api.generation.job_group import (
    JobGroup,
    JobProgress,
    PromptJobs,
    best_choices,
    run_group,
)
from server.api.generation.schema.common import (
    CompletionTokensDetails,
    PromptTokensDetails,
    SamplingRequest,
    Usage,
)
from server.api.generation.shape import ChoiceT, Envelope, Shape
from server.api.generation.speculation import whole_report
from server.api.http.receiving import unless_disconnected
from server.api.http.sse import DONE, EventStream, TextEvent, event, with_error_event
from server.api.middleware.concurrency import take_places
from server.text.tools.events import ContentDelta

T = TypeVar("T")

FIRST_PIECE_SECONDS = 3.0
"""A stream's status waits for the first token, so that an early failure is a real 500; but not
longer than this, because proxies give up on a server that sends no headers."""

MakeShape = Callable[[int, PromptJobs], Shape[ChoiceT]]
"""(index of a choice, its prompt) → the choice's shape"""


def envelope(group: JobGroup, info: ServingInfo) -> Envelope:
    """The fields that open every document of this group's answer."""
    return Envelope(
        id=group.id,
        created=int(time.time()),
        model=info.model_name,
        system_fingerprint=info.system_fingerprint,
    )


async def send(
    http_request: Request,
    parts: Parts,
    group: JobGroup,
    make_shape: MakeShape[ChoiceT],
    body: SamplingRequest,
) -> Response:
    """Answers as the body asks: streamed or whole.

    Raises:
        EngineDeadError: before anything was sent.
        ClientDisconnect: the client left.
    """
    await take_places(http_request, len(group.jobs))
    shapes = [make_shape(index, prompt) for index, prompt in enumerate(group.choices)]
    if not body.stream:
        return await _send_whole(http_request, parts, group, shapes)
    return await _send_stream(http_request, parts, group, shapes, body)


class Started(Generic[T]):
    """Work whose first piece may already be here; iterate it once.

    Exists so that an answer's status can wait for the first piece, without waiting for ever.
    """

    def __init__(self, pieces: AsyncGenerator[T, None]) -> None:
        self._pieces = pieces
        self._first = asyncio.create_task(self._next())

    async def wait_first(self, timeout_s: float) -> None:
        """Waits for the first piece or for `timeout_s` seconds.

        Raises:
            Exception: it failed within that time.
        """
        await asyncio.wait({self._first}, timeout=timeout_s)
        if self._first.done():
            self._first.result()

    @property
    def first(self) -> T | None:
        """The first piece, if it is here."""
        is_here = self._first.done() and not self._first.cancelled()
        return self._first.result() if is_here and self._first.exception() is None else None

    async def pieces(self) -> AsyncGenerator[T, None]:
        yield await self._first
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        self._first.cancel()
        # Its outcome was seen in `wait_first` or `pieces`; else there is no reader left for it.
        await asyncio.gather(self._first, return_exceptions=True)
        await self._pieces.aclose()

    async def _next(self) -> T:
        return await anext(self._pieces)


async def start(http_request: Request, parts: Parts, group: JobGroup) -> Started[JobProgress]:
    """Runs the jobs of a stream, and waits a while for its first piece.

    Raises:
        EngineDeadError: the engine died within that time.
        ClientDisconnect: the client left.
    """
    started = Started(run_group(parts.engine, group))
    try:
        await unless_disconnected(http_request, started.wait_first(FIRST_PIECE_SECONDS))
    except BaseException:
        await started.aclose()
        raise
    return started


async def _send_whole(
    http_request: Request, parts: Parts, group: JobGroup, shapes: Sequence[Shape[ChoiceT]]
) -> Response:
    """Answers with one JSON document; a client that leaves ends the jobs."""
    pieces = await unless_disconnected(http_request, _all_pieces(parts, group))
    answers = best_choices(group.prompts, pieces)
    choices = [shape.choice(answer) for shape, answer in zip(shapes, answers, strict=True)]
    last = {job: of_job[-1] for job, of_job in pieces.items()}
    report = whole_report(list(pieces.values()))
    answer = shapes[0].whole(choices, _usage(group, last), report)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _send_stream(
    http_request: Request,
    parts: Parts,
    group: JobGroup,
    shapes: Sequence[Shape[ChoiceT]],
    body: SamplingRequest,
) -> Response:
    """Answers with server-sent events.

    Raises:
        EngineDeadError: before anything was sent. Later failures become an event.
    """
    started = await start(http_request, parts, group)
    events = _events(started.pieces(), group, shapes, body)
    return EventStream(with_error_event(events), started, parts.info.sse_ping_seconds)


async def _all_pieces(parts: Parts, group: JobGroup) -> dict[int, list[Piece]]:
    """Collects the pieces of each job, by its number."""
    found: dict[int, list[Piece]] = {number: [] for number in range(len(group.jobs))}
    async with aclosing(run_group(parts.engine, group)) as pieces:
        async for job, piece in pieces:
            found[job].append(piece)
    return found


async def _events(
    pieces: AsyncGenerator[JobProgress, None],
    group: JobGroup,
    shapes: Sequence[Shape[ChoiceT]],
    body: SamplingRequest,
) -> AsyncGenerator[bytes, None]:
    """Yields the events of all choices as they come; what is streamed has one choice per job."""
    for shape in shapes:
        first = shape.first_chunk()
        if first is not None:
            yield event(first)
    writers = [_ChoiceEvents(shape) for shape in shapes]
    last: dict[int, Piece] = {}
    async with aclosing(pieces):
        async for job, piece in pieces:
            last[job] = piece
            so_far = _usage(group, last) if body.continuous_usage else None
            for data in writers[job].events(piece, so_far):
                yield data
    if body.include_usage:
        yield event(shapes[0].usage_chunk(_usage(group, last)))
    yield DONE


class _ChoiceEvents:
    """One choice's pieces as events."""

    def __init__(self, shape: Shape[ChoiceT]) -> None:
        self._chunks: Callable[[Piece, Usage | None], Iterable[BaseModel]] = shape.chunks
        self._prompt_chunk: Callable[[Piece], BaseModel | None] = shape.prompt_chunk
        (example,) = shape.chunks(Piece(TextEvent.MARK, (), None, 0, 0), None)
        self._text_event = TextEvent(example)
        self._is_open = False

    def events(self, piece: Piece, usage: Usage | None) -> Iterable[bytes]:
        """The stream's events for a piece of an answer.

        Args:
            usage: Token counts so far, where each chunk reports them.
        """
        if not self._is_open:
            self._is_open = True
            prompt = self._prompt_chunk(piece)
            if prompt is not None:
                yield event(prompt)
        if usage is None and _is_text_alone(piece):
            yield self._text_event(piece.text)
        else:
            yield from map(event, self._chunks(piece, usage))


def _is_text_alone(piece: Piece) -> bool:
    return bool(
        piece.text
        and not piece.logprobs
        and not piece.sources
        and not piece.token_ids
        and all(isinstance(each, ContentDelta) for each in piece.events or ())
        and piece.step is None
        and piece.finish_reason is None
    )


def _usage(group: JobGroup, last: Mapping[int, Piece]) -> Usage:
    """Each prompt counts once, and as cached what its first job found in the cache.

    Args:
        last: The last piece of each job so far, by its number.
    """
    num_prompt_tokens = sum(len(prompt.token_ids) for prompt in group.prompts)
    num_output_tokens = sum(piece.num_output_tokens for piece in last.values())
    jobs = group.jobs
    firsts = [last[job] for job in last if jobs[job].request.shares_prompt_with is None]
    num_cached = sum(piece.num_cached_tokens for piece in firsts)
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_output_tokens,
        total_tokens=num_prompt_tokens + num_output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(piece.num_thinking_tokens for piece in last.values())
        ),
    )
