"""One generation: the engine's outputs → pieces of the answer, until it ends.

Knows neither chat nor completion, nor how an answer is written (`shape.py`).
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from server.api.deps import Engine
from server.api.generation.schema.common import FinishReason
from server.api.generation.tools import CallMode
from server.engine.outputs import (
    RequestOutput,
    SpeculationSummary,
    StepTrace,
    TokenLogprobs,
    TokenSource,
)
from server.engine.types import Request as EngineRequest
from server.errors import GlidecapeError
from server.text.stream import PlacedLogprobs, TextDelta, TextStream
from server.text.tools.events import AnswerEvent


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
    """The first piece has the prompt's logprobs, also where another job had them computed."""
    call_mode: CallMode = "none"
    """Which calls of functions the answer may have."""


class TracedStep(NamedTuple):
    """An engine step, and its tokens that count."""

    step: StepTrace
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    text_offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one engine output added to the answer."""

    text: str
    logprobs: tuple[PlacedLogprobs[TokenLogprobs], ...]
    finish_reason: FinishReason | None
    num_output_tokens: int
    """Tokens of the answer so far, this piece included."""
    num_cached_tokens: int
    speculation: SpeculationSummary | None = None
    """Summary so far; None where nothing was speculated."""
    sources: tuple[TokenSource, ...] | None = None
    """One for each token of this output that counts; None if no trace was asked for."""
    token_ids: tuple[int, ...] | None = None
    """Ids of the same tokens; None if they were not asked for."""
    logprob_sum: float = 0.0
    """Sum over the same tokens; 0 where the engine was asked for no logprobs."""
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """Logprobs of the prompt's tokens from the second on; in the first piece, if asked for."""
    events: tuple[AnswerEvent, ...] | None = None
    """Thinking, content and calls in their order; None where none but content is looked for."""
    event_logprobs: tuple[tuple[PlacedLogprobs[TokenLogprobs], ...], ...] = ()
    """Logprobs of each event's content, as `TextDelta` has them."""
    num_thinking_tokens: int = 0
    """Tokens of thinking so far, as far as it is known what they are."""
    num_calls: int = 0
    """Function calls so far."""
    step: TracedStep | None = None
    """The step that brought this piece; None if steps were not asked for."""
    stop_string: str | None = None
    """The stop string that ended the answer."""
    cuts_call: bool = False
    """Whether that was within a function call, which is not whole."""


async def run_job(engine: Engine, job: Job) -> AsyncGenerator[Piece, None]:
    """Yields the answer piece by piece; closing it ends the request.

    Raises:
        EngineDeadError: the engine died.
        GlidecapeError: it gave the request up.
    """
    last: Piece | None = None
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


def _read(engine: Engine, job: Job, output: RequestOutput) -> Piece:
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
) -> Piece:
    """What a step added to an answer.

    Args:
        num_counting: Tokens of the output up to the one that completed a stop string.
    """
    reason = "stop" if delta.stop_string is not None else output.finish_reason
    if reason == "abort" or reason == "error":
        # The client is still here, so it was not the client who ended it.
        raise GlidecapeError(f"the engine gave up {job.request.request_id} ({reason})")
    return Piece(
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
        event_logprobs=delta.event_logprobs,
        num_thinking_tokens=job.text.num_thinking_tokens,
        num_calls=job.text.num_calls,
        step=_traced(output, delta, num_counting),
        stop_string=delta.stop_string,
        cuts_call=delta.stop_string is not None and job.text.ends_in_call,
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
