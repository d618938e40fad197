"""Replays conversations against simulated replicas, event by event."""

import heapq
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.scaling.costs import Costs
from bench.scaling.fleet import Fleet, Prompt
from bench.scaling.prefix_cache import ChainId, ReplicaIndex
from bench.scaling.routers import Router
from bench.scaling.trace import Conversation, TraceSettings


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of them, found in the prefix cache."""
    first_tokens: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds from each question to its answer's first token."""
    requests: list[int] = field(default_factory=list[int])
    """That each replica got."""

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def first_token(self, share: float) -> float:
        """Seconds within which that share of the answers began."""
        ordered = sorted(self.first_tokens)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def busiest(self) -> float:
        """Requests of the replica that got most, over the mean."""
        return max(self.requests) * len(self.requests) / sum(self.requests)


class _Event(NamedTuple):
    """A question is asked, or (`replica` is set) its answer has ended there."""

    second: float
    number: int
    """The conversation's, which decides between events of one moment."""
    conversation: Conversation
    turn: int
    num_tokens: int
    """Of the conversation, behind its system prompt, before this turn."""
    replica: ReplicaIndex | None


class Simulation:
    """One router, some replicas.

    A replica computes prompts one after the other, in chunks that share steps with the answers that
    it writes; an answer's steps have as many sequences as the replica had open requests when it
    began. What a prompt needs of the cache is there from the moment in which it is sent: two that
    begin alike and come together share it, as in the engine one of them would wait for the other.

    Args:
        num_first: Conversations that only fill the caches, and count for nothing.
    """

    def __init__(
        self,
        trace: TraceSettings,
        costs: Costs,
        fleet: Fleet,
        router: Router,
        num_first: int = 0,
    ) -> None:
        self._trace = trace
        self._costs = costs
        self._fleet = fleet
        self._router = router
        self._num_first = num_first
        self._events: list[_Event] = []
        self._outcome = Outcome(requests=[0] * fleet.size)

    def run(self, conversations: Iterable[Conversation]) -> Outcome:
        """Replays them to their ends.

        Args:
            conversations: In the order in which they begin.
        """
        for conversation in conversations:
            self._advance(conversation.start)
            first = _Event(conversation.start, conversation.number, conversation, 0, 0, None)
            heapq.heappush(self._events, first)
        self._advance(float("inf"))
        return self._outcome

    def _advance(self, until: float) -> None:
        while self._events and self._events[0].second <= until:
            event = heapq.heappop(self._events)
            if event.replica is None:
                self._ask(event)
            else:
                self._end(event, event.replica)

    def _ask(self, event: _Event) -> None:
        """A question is asked: its prompt is routed and computed, its answer begins."""
        turn = event.conversation.turns[event.turn]
        prompt = self._prompt(event.conversation, event.num_tokens + turn.user_tokens)
        replica = self._router.choose(prompt)
        fleet, outcome = self._fleet, self._outcome
        # At least the last token is computed, whatever is cached.
        most = (prompt.num_tokens - 1) // self._costs.block_size
        known = min(prompt.known_by(fleet.caches[replica]), most)
        cached = known * self._costs.block_size
        others = int(fleet.loads[replica])
        begin = max(event.second, fleet.free_at[replica])
        first = begin + self._costs.prefill_seconds(prompt.num_tokens - cached, others)
        fleet.free_at[replica] = first
        fleet.change(replica, prompt, 1)
        self._router.sent(prompt, replica)
        if event.number >= self._num_first:
            outcome.prompt_tokens += prompt.num_tokens
            outcome.cached_tokens += cached
            outcome.first_tokens.append(first - event.second)
            outcome.requests[replica] += 1
        end = first + self._costs.decode_seconds(turn.answer_tokens, others + 1)
        heapq.heappush(self._events, event._replace(second=end, replica=replica))

    def _end(self, event: _Event, replica: ReplicaIndex) -> None:
        """An answer has ended: it is in the cache, and the next question comes after a while."""
        turn = event.conversation.turns[event.turn]
        num_tokens = event.num_tokens + turn.user_tokens + turn.answer_tokens
        self._fleet.change(replica, self._prompt(event.conversation, num_tokens), -1)
        if event.turn + 1 < len(event.conversation.turns):
            following = event._replace(
                second=event.second + turn.think_seconds,
                turn=event.turn + 1,
                num_tokens=num_tokens,
                replica=None,
            )
            heapq.heappush(self._events, following)

    def _prompt(self, conversation: Conversation, num_tokens: int) -> Prompt:
        """A conversation so far, with so many tokens behind its system prompt."""
        total = self._trace.system_tokens + num_tokens
        return Prompt(
            ChainId(conversation.system_prompt),
            ChainId(self._trace.system_prompts + conversation.number),
            self._trace.system_tokens // self._costs.block_size,
            total // self._costs.block_size,
            total,
        )
