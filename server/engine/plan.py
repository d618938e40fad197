"""Where the pure and the tensor half of the engine meet: what a step shall do, and what it did."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.types import BlockId, Request, RequestId, TokenLogprobs


@dataclass(frozen=True, slots=True)
class PlannedSequence:
    """One sequence's part of a step: a token tree over its committed KV.

    Here the tree is a chain of pending tokens: a chunk of the prompt, or the last token alone.
    The node at index i has position num_computed + i, and its KV goes to slot num_computed + i.
    """

    request: Request
    token_ids: Sequence[int]
    """All tokens of the sequence, prompt and output. The engine's own list: read only."""
    num_computed: int
    """Committed tokens; the chain starts after them."""
    num_nodes: int
    """Length of the chain, at least 1."""
    block_ids: Sequence[BlockId]
    """Block table covering num_computed + num_nodes tokens. Read only."""

    @property
    def wants_token(self) -> bool:
        """The chain reaches the last known token, so the step yields the next one; False for a
        prompt's chunk with more to come."""
        return self.num_computed + self.num_nodes == len(self.token_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the engine."""

    sequences: tuple[PlannedSequence, ...]
    num_preemptions: int
    """Sequences that lost their blocks to make this plan possible."""
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache for this plan's newcomers."""
    prefix_cache_hits: int


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What a step did for one planned sequence."""

    num_committed: int
    """Nodes whose KV is now final, in place after the tokens committed before."""
    token_ids: tuple[int, ...]
    """New tokens, in order; empty where the plan wanted none."""
    logprobs: tuple[TokenLogprobs, ...] | None


StepResult = dict[RequestId, SequenceResult]
