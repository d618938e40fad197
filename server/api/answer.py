"""Runs a job and sends its answer, streamed or whole, in the endpoint's shape."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import Parts, ServingInfo
from server.api.generation import Job, Progress, Started, run_job, unless_disconnected
from server.api.schemas.common import PromptTokensDetails, SamplingRequest, Usage
from server.api.shapes.base import Head, Shape
from server.api.sse import DONE, EventStream, TextEvent, event, with_error_event

FIRST_PIECE_SECONDS = 3.0
"""A stream's status waits for the first token, so that an early failure is a real 500; but not
longer than this, because proxies give up on a server that sends no headers."""


def head(job: Job, info: ServingInfo) -> Head:
    """The fields that open every document of this job's answer."""
    return Head(
        id=job.request.request_id,
        created=int(time.time()),
        model=info.model_name,
        system_fingerprint=info.system_fingerprint,
    )


async def send(
    http_request: Request, parts: Parts, job: Job, shape: Shape, body: SamplingRequest
) -> Response:
    """Answers as the body asks: streamed or whole.

    Raises:
        EngineDeadError: before anything was sent.
    """
    if not body.stream:
        return await _send_whole(http_request, parts, job, shape)
    return await _send_stream(http_request, parts, job, shape, include_usage=body.include_usage)


async def _send_whole(http_request: Request, parts: Parts, job: Job, shape: Shape) -> Response:
    """Answers with one JSON document; a client that leaves ends the request."""
    pieces = await unless_disconnected(http_request, _all_pieces(parts, job))
    answer = shape.whole(pieces, _usage(job, pieces[-1]))
    return Response(answer.model_dump_json(), media_type="application/json")


async def _send_stream(
    http_request: Request, parts: Parts, job: Job, shape: Shape, *, include_usage: bool
) -> Response:
    """Answers with server-sent events.

    Raises:
        EngineDeadError: before anything was sent. Later failures become an event.
    """
    started = Started(run_job(parts.engine, job))
    try:
        await unless_disconnected(http_request, started.wait_first(FIRST_PIECE_SECONDS))
    except BaseException:
        await started.aclose()
        raise
    events = _events(started.pieces(), job, shape, include_usage)
    return EventStream(with_error_event(events), started, parts.info.sse_ping_seconds)


async def _all_pieces(parts: Parts, job: Job) -> list[Progress]:
    async with aclosing(run_job(parts.engine, job)) as pieces:
        return [piece async for piece in pieces]


async def _events(
    pieces: AsyncGenerator[Progress, None], job: Job, shape: Shape, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    first = shape.first_chunk()
    if first is not None:
        yield event(first)
    (example,) = shape.chunks(Progress(TextEvent.MARK, (), None, 0, 0))
    text_event = TextEvent(example)
    async with aclosing(pieces):
        async for piece in pieces:
            if _is_text_alone(piece):
                yield text_event(piece.text)
                continue
            for chunk in shape.chunks(piece):
                yield event(chunk)
            if include_usage and piece.finish_reason is not None:
                yield event(shape.usage_chunk(_usage(job, piece)))
    yield DONE


def _is_text_alone(piece: Progress) -> bool:
    return bool(
        piece.text
        and not piece.logprobs
        and not piece.sources
        and not piece.events
        and piece.finish_reason is None
    )


def _usage(job: Job, last: Progress) -> Usage:
    num_prompt_tokens = len(job.request.prompt_token_ids)
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=last.num_output_tokens,
        total_tokens=num_prompt_tokens + last.num_output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=last.num_cached_tokens),
    )
