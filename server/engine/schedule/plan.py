"""Where the pure and the tensor half of the engine meet: what a step shall do, and what it did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from server.engine.outputs import (
    ProposalSource,
    StepSpeculationStats,
    StepTrace,
    TokenLogprobs,
    TokenSource,
)
from server.engine.types import BlockId, Request, RequestId


@dataclass(frozen=True, slots=True)
class PlannedSequence:
    """One sequence's part of a step: a token tree over its committed KV.

    The scheduler plans a chain of pending tokens: a chunk of the prompt, or the last token alone.
    The last token may become the root of a proposed tree, within max_nodes and max_depth. Node i
    writes its KV to the slot of position num_computed + i.
    """

    request: Request
    token_ids: Sequence[int]
    """All tokens of the sequence, prompt and output. The engine's own list: read only."""
    num_computed: int
    """Committed tokens; the chain starts after them."""
    num_nodes: int
    """Length of the chain, at least 1."""
    block_ids: Sequence[BlockId]
    """Block table covering num_computed + max(num_nodes, max_nodes) tokens. Read only."""
    max_nodes: int = 1
    """Nodes that a tree may have here, root included; 1 where nothing shall be proposed."""
    max_depth: int = 0
    """Longest path of proposed tokens: no accepted path overruns max_tokens or the context."""
    scored: range = range(0)
    """Nodes of a prompt's chunk whose logits give the logprobs of the prompt's next tokens."""

    @property
    def request_id(self) -> RequestId:
        return self.request.request_id

    @property
    def wants_token(self) -> bool:
        """Whether the chain reaches the last known token, so that the step yields the next one.
        False for a prompt's chunk with more to come."""
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
class StepSpeculation:
    """What one step proposed for one sequence, and how each new token came about."""

    proposed: tuple[ProposalSource, ...]
    """One per proposed token."""
    sources: tuple[TokenSource, ...]
    """One per new token."""
    proposed_by: tuple[ProposalSource | None, ...]
    """One per new token; None for the target's own."""


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What a step did for one planned sequence."""

    num_committed: int
    """Nodes whose KV is now final, in place after the tokens committed before."""
    token_ids: tuple[int, ...]
    """New tokens, in order; empty where the plan wanted none."""
    logprobs: tuple[TokenLogprobs, ...] | None
    speculation: StepSpeculation | None = None
    """None where nothing was proposed."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """One per scored node of the plan."""
    trace: StepTrace | None = None
    """None unless the request asks for it."""
    grammar_exceeded: str | None = None
    """The resource of which the request's grammar took too much, which ends the request."""


class StepSeconds(NamedTuple):
    """Wall time of a step's parts."""

    draft: float = 0.0
    """Proposing tokens."""
    verify: float = 0.0
    """The target's forward and drawing tokens."""
    other: float = 0.0
    """Moving accepted KV, completing the draft's."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did."""

    sequences: Mapping[RequestId, SequenceResult]
    seconds: StepSeconds = field(default_factory=StepSeconds)
    speculation: StepSpeculationStats | None = None
    """None where there is no drafter."""
