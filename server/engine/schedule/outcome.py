"""What new tokens mean for a sequence: appended one by one until one of them ends it, and added to
the summary of its speculation."""

from collections.abc import Collection
from dataclasses import replace

from server.engine.outputs import RequestOutput, SpeculationSummary, TokenLogprobs
from server.engine.schedule.plan import SequenceResult, StepSeconds, StepSpeculation
from server.engine.schedule.sequence import Sequence
from server.engine.speculation.sources import add_sources, count_sources
from server.engine.speculation.trace import finished_trace
from server.engine.types import FinishReason, SamplingParams


def stop_ids(params: SamplingParams, eos_token_ids: frozenset[int]) -> frozenset[int]:
    """Tokens that end the request when chosen. Under a grammar the model's own end tokens always
    do: they can only be chosen once the answer is complete, and with `ignore_eos` only if nothing
    else can follow."""
    if params.ignore_eos and params.grammar is None:
        return params.stop_token_ids
    return params.stop_token_ids | eos_token_ids


def num_emitted(token_ids: Collection[int], stops: frozenset[int]) -> int:
    """How many of a step's tokens are emitted: those up to the first that ends the answer. No path
    of proposed tokens overruns max_tokens or the context."""
    ends = (place for place, token_id in enumerate(token_ids, start=1) if token_id in stops)
    return next(ends, len(token_ids))


def append_tokens(
    sequence: Sequence,
    did: SequenceResult,
    eos_token_ids: frozenset[int],
    max_model_len: int,
    seconds: StepSeconds,
) -> RequestOutput | None:
    """Appends a step's tokens up to the first that ends the sequence, and drops the rest. Where
    max_tokens is 0, it appends none.

    Returns:
        The output to send, or None where the step brought no token.
    """
    params = sequence.request.params
    stops = stop_ids(params, eos_token_ids)
    reason: FinishReason | None = None
    is_first = sequence.num_output_tokens == 0
    if did.token_ids and params.max_tokens == 0:
        did, reason = replace(did, token_ids=(), logprobs=None), "length"
    count = 0
    for token_id in did.token_ids:
        sequence.token_ids.append(token_id)
        count += 1
        if token_id in stops:  # never below min_tokens: the sampler masks them there
            reason = "stop"
        elif (
            sequence.num_output_tokens >= params.max_tokens
            or len(sequence.token_ids) >= max_model_len
        ):
            reason = "length"
        if reason is not None:
            break
    if count == 0 and reason is None:
        return None
    sequence.speculation = add_step(sequence.speculation, did.speculation, count, seconds)
    sources = did.speculation.sources[:count] if did.speculation else ("target",) * count
    return RequestOutput(
        request_id=sequence.request.request_id,
        token_ids=did.token_ids[:count],
        logprobs=None if did.logprobs is None else did.logprobs[:count],
        finish_reason=reason,
        stop_token_id=sequence.token_ids[-1] if reason == "stop" else None,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_output_tokens=sequence.num_output_tokens,
        num_cached_tokens=sequence.num_cached_tokens or 0,
        sources=sources,
        speculation=sequence.speculation,
        prompt_logprobs=_prompt_logprobs(sequence) if is_first else None,
        trace=finished_trace(did.trace, sources, seconds),
    )


def given_up(sequence: Sequence, grammar_exceeded: str) -> RequestOutput:
    """The last output of a request whose grammar has taken more than its share."""
    return RequestOutput(
        request_id=sequence.request.request_id,
        token_ids=(),
        logprobs=None,
        finish_reason="error",
        stop_token_id=None,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_output_tokens=sequence.num_output_tokens,
        num_cached_tokens=sequence.num_cached_tokens or 0,
        grammar_exceeded=grammar_exceeded,
    )


def _prompt_logprobs(sequence: Sequence) -> tuple[TokenLogprobs, ...] | None:
    asked_for = sequence.request.params.prompt_logprobs is not None
    return tuple(sequence.prompt_logprobs) if asked_for else None


def add_step(
    summary: SpeculationSummary | None,
    step: StepSpeculation | None,
    num_kept: int,
    seconds: StepSeconds,
) -> SpeculationSummary | None:
    """The summary after one more decoding step.

    Args:
        summary: the summary so far; None as long as nothing was ever proposed for the request.
        step: None where this step proposed nothing.
        num_kept: number of new tokens that were emitted; a stop may have cut the rest.
    """
    if summary is None and step is None:
        return None
    summary = summary or SpeculationSummary()
    sources = step.sources[:num_kept] if step else ()
    accepted = [source for source in sources if source != "target"]
    figures = count_sources(step.proposed, step.proposed_by[:num_kept]) if step else {}
    return replace(
        summary,
        num_steps=summary.num_steps + 1,
        num_drafted=summary.num_drafted + (len(step.proposed) if step else 0),
        num_accepted=summary.num_accepted + len(accepted),
        num_leaves_accepted=summary.num_leaves_accepted + accepted.count("leaf"),
        accepted_per_position=_count(summary.accepted_per_position, len(accepted)),
        by_source=add_sources(summary.by_source, figures),
        draft_seconds=summary.draft_seconds + seconds.draft,
        verify_seconds=summary.verify_seconds + seconds.verify,
        other_seconds=summary.other_seconds + seconds.other,
    )


def _count(per_position: tuple[int, ...], num_accepted: int) -> tuple[int, ...]:
    """Adds a step that was right at depths 1 … num_accepted to the counts."""
    width = max(len(per_position), num_accepted)
    padded = per_position + (0,) * (width - len(per_position))
    return tuple(count + (i < num_accepted) for i, count in enumerate(padded))
