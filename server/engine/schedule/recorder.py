"""Collects what a step did, for metrics: token counts and latencies. Pure bookkeeping."""

from dataclasses import dataclass, field
from typing import TypedDict

from server.engine.outputs import FinishedRequest
from server.engine.schedule.sequence import Sequence
from server.engine.types import FinishReason


class Recorded(TypedDict):
    """The fields of `StepStats` that a recorder knows."""

    num_prompt_tokens: int
    num_generation_tokens: int
    times_to_first_token: tuple[float, ...]
    inter_token: tuple[tuple[float, int], ...]
    finished: tuple[FinishedRequest, ...]


@dataclass(slots=True)
class Recorder:
    """Accumulates figures between two calls of `take`. Times are monotonic seconds."""

    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    times_to_first_token: list[float] = field(default_factory=list[float])
    inter_token: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    finished: list[FinishedRequest] = field(default_factory=list[FinishedRequest])

    def tokens(self, sequence: Sequence, count: int, now: float) -> None:
        """Records that a sequence got `count` new tokens; 0 where the request wants none."""
        times = sequence.timings
        self.num_generation_tokens += count
        if times.last_token is None:
            times.first_token = now
            self.num_prompt_tokens += sequence.num_prompt_tokens
            self.times_to_first_token.append(now - times.arrival)
        else:
            self.inter_token.append((now - times.last_token, count))
        times.last_token = now

    def ended(
        self,
        sequence: Sequence,
        reason: FinishReason,
        now: float,
        grammar_exceeded: str | None = None,
    ) -> None:
        """Records that a sequence has ended, at whatever stage."""
        times = sequence.timings
        scheduled = now if times.first_scheduled is None else times.first_scheduled
        first = now if times.first_token is None else times.first_token
        last = first if times.last_token is None else times.last_token
        self.finished.append(
            FinishedRequest(
                request=sequence.request,
                reason=reason,
                num_prompt_tokens=sequence.num_prompt_tokens,
                num_output_tokens=sequence.num_output_tokens,
                queue_seconds=scheduled - times.arrival,
                prefill_seconds=first - scheduled,
                decode_seconds=last - first,
                e2e_seconds=now - times.arrival,
                num_cached_tokens=sequence.num_cached_tokens or 0,
                speculation=sequence.speculation,
                grammar_exceeded=grammar_exceeded,
            )
        )

    def take(self) -> Recorded:
        """Returns everything since the last call, and starts anew."""
        recorded = Recorded(
            num_prompt_tokens=self.num_prompt_tokens,
            num_generation_tokens=self.num_generation_tokens,
            times_to_first_token=tuple(self.times_to_first_token),
            inter_token=tuple(self.inter_token),
            finished=tuple(self.finished),
        )
        self.num_prompt_tokens = self.num_generation_tokens = 0
        self.times_to_first_token.clear()
        self.inter_token.clear()
        self.finished.clear()
        return recorded
