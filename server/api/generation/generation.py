"""One running request: engine outputs → text, until it ends or the client leaves.

Knows neither chat nor completion, nor how an answer is written (`shapes/`).
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request

from server.api.chat.schema import FinishReason
from server.api.deps import Engine
from server.api.generation.tools import CallMode
from server.engine.types import Request as EngineRequest
from server.engine.types import (
    RequestOutput,
    SpeculationSummary,
    StepTrace,
    TokenLogprobs,
    TokenSource,
)
from server.errors import GlidecapeError
from server.text.stream import PlacedLogprobs, TextDelta, TextStream
from server.text.tools.events import AnswerEvent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """A validated request: what the engine gets, and what its tokens go through."""

    request: EngineRequest
    text: TextStream[TokenLogprobs]
    trace: bool = False
    """Each piece says where its tokens came from."""
    shows_token_ids: bool = False
    """Each piece says its token ids."""
    shows_prompt_logprobs: bool = False
    """The first piece has the prompt's logprobs, whoever had them computed."""
    call_mode: CallMode = "none"
    """Which calls of functions the answer may have."""


class TracedStep(NamedTuple):
    """An engine step, and its tokens that count."""

    step: StepTrace
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    text_offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What one engine output added to the answer."""

    text: str
    logprobs: tuple[PlacedLogprobs[TokenLogprobs], ...]
    finish_reason: FinishReason | None
    num_output_tokens: int
    """So far, this one's included."""
    num_cached_tokens: int
    speculation: SpeculationSummary | None = None
    """So far; None where nothing was speculated."""
    sources: tuple[TokenSource, ...] | None = None
    """One for each token of this output that counts; None if no trace was asked for."""
    token_ids: tuple[int, ...] | None = None
    """Of the same tokens; None if they were not asked for."""
    logprob_sum: float = 0.0
    """Of the same tokens; 0 where the engine was asked for no logprobs."""
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of the prompt's tokens from the second on; in the first piece, if asked for."""
    events: tuple[AnswerEvent, ...] | None = None
    """Content and calls in their order; None where calls are not looked for."""
    num_calls: int = 0
    """Function calls so far."""
    step: TracedStep | None = None
    """None if steps were not asked for."""


async def run_job(engine: Engine, job: Job) -> AsyncGenerator[Progress, None]:
    """Yields the answer piece by piece; closing it ends the request.

    Raises:
        EngineDeadError: the engine died.
        GlidecapeError: it gave the request up.
    """
    last: Progress | None = None
    async with aclosing(engine.generate(job.request)) as outputs:
        async for output in outputs:
            piece = _read(engine, job, output)
            if piece.finish_reason is not None:
                last = piece
                break
            yield piece
    # Only now: a client that reads slowly must not keep the engine working past a stop string.
    if last is None:
        raise GlidecapeError(f"the engine ended {job.request.request_id} without a reason")
    yield last


def _read(engine: Engine, job: Job, output: RequestOutput) -> Progress:
    num_before = job.text.num_tokens
    delta = job.text.push(
        output.token_ids,
        output.logprobs,
        ended=output.finish_reason is not None,
        has_stop_token=output.stop_token_id is not None,
    )
    if delta.stop_string is not None and output.finish_reason is None:
        engine.finish(job.request.request_id, "stop")
    return _progress(job, output, delta, job.text.num_tokens - num_before)


def _progress(
    job: Job,
    output: RequestOutput,
    delta: TextDelta[TokenLogprobs],
    num_counting: int,
) -> Progress:
    """
    Args:
        num_counting: Tokens of the output up to the one that completed a stop string.
    """
    reason = "stop" if delta.stop_string is not None else output.finish_reason
    if reason == "abort" or reason == "error":
        # The client is still here, so it was not the client who ended it.
        raise GlidecapeError(f"the engine gave up {job.request.request_id} ({reason})")
    return Progress(
        text=delta.text,
        logprobs=delta.logprobs,
        finish_reason=reason,
        num_output_tokens=job.text.num_tokens,
        num_cached_tokens=output.num_cached_tokens,
        speculation=output.speculation,
        sources=output.sources[:num_counting] if job.trace else None,
        token_ids=output.token_ids[:num_counting] if job.shows_token_ids else None,
        logprob_sum=sum(entry.logprob for entry in (output.logprobs or ())[:num_counting]),
        prompt_logprobs=output.prompt_logprobs,
        events=delta.events,
        num_calls=job.text.num_calls,
        step=_traced(output, delta, num_counting),
    )


def _traced(
    output: RequestOutput, delta: TextDelta[TokenLogprobs], num_counting: int
) -> TracedStep | None:
    if output.trace is None:
        return None
    return TracedStep(
        output.trace,
        output.token_ids[:num_counting],
        output.sources[:num_counting],
        delta.offsets,
    )


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

    async def pieces(self) -> AsyncGenerator[T, None]:
        yield await self._first
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        self._first.cancel()
        # Its outcome has been seen in `wait_first` or `pieces`, or nobody is left to see it.
        await asyncio.gather(self._first, return_exceptions=True)
        await self._pieces.aclose()

    async def _next(self) -> T:
        return await anext(self._pieces)


async def unless_disconnected(http_request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`, but cancels it as soon as the client goes away.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_disconnect(http_request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(http_request: Request) -> None:
    """Returns when the client is gone. The body has been read, so no other message is lost."""
    while (await http_request.receive())["type"] != "http.disconnect":
        pass
