"""What comes out of the engine: tokens of requests, and figures of its steps. See `types.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from server.engine.types import FinishReason, Request, RequestId

TokenSource = Literal["trunk", "leaf", "target"]
"""Where an emitted token came from: the draft's own chain, one of its alternatives, or the target
alone (one per step)."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one emitted token under the model's own distribution (temperature 1,
    before penalties, bias and truncation)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, logprob) of the most probable tokens, best first; may include the chosen one."""


ProposalSource = Literal["draft", "lookup", "recent", "grammar", "beam"]
"""What a proposed token came from: a draft's chain, the text of the sequence, a recent answer of
the server, what a grammar forces, or a draft's beam search."""


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """What one source of proposals did."""

    proposed: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class SpeculationSummary:
    """What speculation did for a request, over all its decoding steps."""

    num_steps: int = 0
    num_drafted: int = 0
    """Proposed tokens, all nodes but the roots."""
    num_accepted: int = 0
    """Emitted tokens that had been proposed."""
    num_leaves_accepted: int = 0
    accepted_per_position: tuple[int, ...] = ()
    """Entry i: steps whose proposal was right at depth i + 1."""
    by_source: Mapping[ProposalSource, SourceFigures] = field(
        default_factory=dict[ProposalSource, SourceFigures]
    )
    draft_seconds: float = 0.0
    """Time of the whole batch's steps that this request took part in, as in the next two fields."""
    verify_seconds: float = 0.0
    other_seconds: float = 0.0

    @property
    def tokens_per_step(self) -> float:
        return (self.num_steps + self.num_accepted) / self.num_steps if self.num_steps else 0.0


@dataclass(frozen=True, slots=True)
class TracedNode:
    """One proposed token."""

    token_id: int
    parent: int
    """Number of its parent: 0 is the root, the last known token, and i the i-th proposed one."""
    is_leaf: bool
    """An alternative to the trunk's token at this depth."""
    source: ProposalSource
    confidence: float | None
    """Its probability under the draft, or what a lookup claims; None for beams, which don't keep
    it."""


@dataclass(frozen=True, slots=True)
class StepTrace:
    """What a step proposed for one request, and what became of it."""

    root_token_id: int
    nodes: tuple[TracedNode, ...]
    """Nodes 1, 2 …; empty where nothing was proposed."""
    accepted: tuple[int, ...]
    """Nodes of the accepted path, from the top down, without the root."""
    source: ProposalSource | None
    """Source of the trunk's first token; None where nothing was proposed."""
    draft_seconds: float = 0.0
    """Time of the whole batch's step, as in the next two fields."""
    verify_seconds: float = 0.0
    other_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one step added to one request."""

    request_id: RequestId
    token_ids: tuple[int, ...]
    """New tokens of this step, including a final stop token; empty only when the request ends
    without one (`abort`, or max_tokens 0)."""
    logprobs: tuple[TokenLogprobs, ...] | None
    """One per new token, or None if not asked for."""
    finish_reason: FinishReason | None
    """None while the request goes on."""
    stop_token_id: int | None
    """The token that ended the request, when finish_reason is `stop`."""
    num_prompt_tokens: int
    num_output_tokens: int
    """All tokens generated so far, this step's included."""
    num_cached_tokens: int
    """Prompt tokens whose KV came from the prefix cache."""
    sources: tuple[TokenSource, ...] = ()
    """One per new token."""
    speculation: SpeculationSummary | None = None
    """Summary up to and with this step; None where no step has speculated."""
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    """One per token of the prompt from the second on; with the first output, if asked for."""
    trace: StepTrace | None = None
    """None unless asked for."""
    grammar_exceeded: str | None = None
    """The resource of which the grammar took too much; the finish reason is `error` then."""


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that ended, for metrics, logs and traces. Timings in seconds."""

    request: Request
    reason: FinishReason
    num_prompt_tokens: int
    num_output_tokens: int
    queue_seconds: float
    """Arrival to first scheduling."""
    prefill_seconds: float
    """First scheduling to first token."""
    decode_seconds: float
    """First to last token."""
    e2e_seconds: float
    num_cached_tokens: int = 0
    """Prompt tokens whose KV came from the prefix cache."""
    speculation: SpeculationSummary | None = None
    """None where no step has speculated."""
    grammar_exceeded: str | None = None
    """The resource of which its grammar took too much; the reason is `error` then."""


@dataclass(frozen=True, slots=True)
class StepSpeculationStats:
    """What one step proposed over all sequences. Times in seconds."""

    num_drafts: int = 0
    """Sequences for which something was proposed."""
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_per_position: tuple[int, ...] = ()
    """Entry i: sequences whose proposal was right at depth i + 1."""
    depths: tuple[int, ...] = ()
    """Depth of each proposal."""
    num_nodes: int = 0
    """Rows verified for proposals, their roots included."""
    calibration: tuple[tuple[float, bool], ...] = ()
    """(confidence, right) of the draft's candidates whose parent was right."""
    by_source: Mapping[ProposalSource, SourceFigures] = field(
        default_factory=dict[ProposalSource, SourceFigures]
    )
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    other_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Spent on a step that only decoded; 0 for a step that also computed prompts, whose time can't
    be told apart."""
    plain_seconds: float = 0.0
    """What plain decoding would have taken for the same tokens, by the measured cost curve."""
    expected_tokens: float = 0.0
    """Tokens that `auto` expected of the nodes it chose, where all of a step's sequences decoded
    under it, else 0 …"""
    expected_seconds: float = 0.0
    """… and what it expected the step to take."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one engine step did, for metrics and logs. Times in seconds."""

    num_running: int
    num_waiting: int
    kv_usage: float
    """Share of the pool's blocks held by requests, 0..1."""
    num_prompt_tokens: int
    """Prompt tokens of the requests whose first token came in this step."""
    num_generation_tokens: int
    num_preemptions: int
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache."""
    prefix_cache_hits: int
    times_to_first_token: tuple[float, ...]
    inter_token: tuple[tuple[float, int], ...]
    """(seconds since the request's previous token, new tokens) per request that decoded."""
    finished: tuple[FinishedRequest, ...]
    step_seconds: float
    """0 where no step ran and requests only ended."""
    speculation: StepSpeculationStats | None = None
    """None where the engine has no drafter."""

    @classmethod
    def of_ended(cls, finished: tuple[FinishedRequest, ...]) -> "StepStats":
        """Requests that ended, and nothing else."""
        return cls(
            num_running=0,
            num_waiting=0,
            kv_usage=0.0,
            num_prompt_tokens=0,
            num_generation_tokens=0,
            num_preemptions=0,
            prefix_cache_queries=0,
            prefix_cache_hits=0,
            times_to_first_token=(),
            inter_token=(),
            finished=finished,
            step_seconds=0.0,
        )
