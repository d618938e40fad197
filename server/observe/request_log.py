"""One log line for each generation that ended: what it was, how long it took, what speculation
brought. No text of a conversation, unless asked for."""

import logging
from collections.abc import Callable, Sequence

from server.engine.outputs import FinishedRequest, SpeculationSummary, StepStats
from server.observe.logs import FIELDS

logger = logging.getLogger(__name__)


class RequestLog:
    """Writes a log line for each request that ends.

    Args:
        decode: Token ids → text; given where lines are to have the prompt.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str] | None = None) -> None:
        self._decode = decode

    def record(self, step: StepStats) -> None:
        """Logs what ended in a step; in the engine's thread."""
        if step.finished and logger.isEnabledFor(logging.INFO):
            for request in step.finished:
                logger.info("request", extra={FIELDS: self._fields(request)})

    def _fields(self, ended: FinishedRequest) -> dict[str, object]:
        origin = ended.request.origin
        fields: dict[str, object] = {
            "id": ended.request.request_id,
            "http_request_id": origin.http_request_id if origin else None,
            "path": origin.path if origin else None,
            "finish_reason": ended.reason,
            "prompt_tokens": ended.num_prompt_tokens,
            "cached_tokens": ended.num_cached_tokens,
            "output_tokens": ended.num_output_tokens,
            "queue_seconds": round(ended.queue_seconds, 6),
            "prefill_seconds": round(ended.prefill_seconds, 6),
            "decode_seconds": round(ended.decode_seconds, 6),
            "total_seconds": round(ended.e2e_seconds, 6),
            "policy": ended.request.speculation.policy,
        }
        if ended.speculation is not None:
            fields |= _speculation(ended.speculation)
        if self._decode is not None:
            fields["prompt"] = self._decode(ended.request.prompt_token_ids)
        return {key: value for key, value in fields.items() if value is not None}


def _speculation(summary: SpeculationSummary) -> dict[str, object]:
    return {
        "steps": summary.num_steps,
        "drafted_tokens": summary.num_drafted,
        "accepted_tokens": summary.num_accepted,
        "tokens_per_step": round(summary.tokens_per_step, 3),
    }
