"""What goes into the engine: plain ints and frozen dataclasses. What comes out is in `outputs.py`.

The two are the whole surface the API layer sees besides `async_engine`. No tensors, no text.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NewType

from server.setting_types import PolicyName

TokenId = NewType("TokenId", int)
BlockId = NewType("BlockId", int)
RequestId = NewType("RequestId", str)

FinishReason = Literal["stop", "length", "abort", "error"]
"""`stop`: a stop token (or, set from outside, a stop string); `length`: max_tokens or the context
is used up; `abort`: the client went away; `error`: the engine died, or gave this request up."""


GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "ebnf", "structural_tag"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """The texts that an answer may be."""

    kind: GrammarKind
    text: str
    """The JSON schema, regular expression, JSON list of choices, EBNF or structural tag (xgrammar's
    JSON form); empty for any JSON object."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the engine must know of an answer that may begin with thinking. Marks are bytes of the
    answer's text; ids are the usual tokens of these texts."""

    begin: bytes
    """With which thinking begins."""
    end: bytes
    """With which it ends."""
    answer: bytes
    """With which the answer begins behind it; empty where it does at once."""
    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    """What is written where thinking has to end: the end, and what must follow it."""
    answer_ids: tuple[int, ...] = ()
    next_ids: tuple[int, ...] = ()
    """What comes between the end of a thinking and the next mark."""
    is_open: bool = False
    """The prompt ends within the thinking."""
    budget: int | None = None
    """Most tokens of thinking; None for any number."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Sampling values for requests that name none. The defaults of these fields are OpenAI's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 and -1 keep all."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __str__(self) -> str:
        """Lists what differs from OpenAI's defaults, for people."""
        shown = (f"{name} {value:g}" for name, value in asdict(self).items() if self.differs(name))
        return ", ".join(shown) or "temperature 1, top_p 1"

    def differs(self, name: str) -> bool:
        """Whether a value differs from OpenAI's default."""
        return getattr(self, name) != getattr(SamplingDefaults(), name)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request's tokens are chosen. Validated by the API layer; plain data here.

    The distribution at a position is formed in this order (vLLM's): repetition, frequency and
    presence penalties, `logit_bias`, `grammar`, stop ids masked below `min_tokens` (where the
    grammar leaves anything else), `temperature`, `top_k`,
    `top_p` (on what top_k left, renormalised), `min_p`. One uniform number keyed by
    (`seed`, position) then picks the token by inverse CDF.
    """

    max_tokens: int
    """At most this many new tokens; 0 computes the prompt alone."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Drop tokens less probable than this share of the most probable one."""
    seed: int = 0
    """64-bit; the API draws one at random for requests that give none."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output, as in HF; 1 is off."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    logprobs: int | None = None
    """Number of alternatives to report beside the chosen token's logprob; 0 reports the chosen one
    alone, None reports nothing."""
    prompt_logprobs: int | None = None
    """The same for the prompt's own tokens, all but the first. Such a request computes its whole
    prompt, whatever the prefix cache has of it."""
    min_tokens: int = 0
    """No stop id may be chosen before this many tokens."""
    stop_token_ids: frozenset[int] = frozenset()
    """End the request when chosen, besides the model's own end tokens."""
    ignore_eos: bool = False
    """The model's own end tokens don't end the request."""
    grammar: Grammar | None = None
    """Masks every token that would leave it, before the temperature."""
    thinking: Thinking | None = None
    """The grammar begins behind it; where its budget is spent, all tokens but its end's are
    masked."""

    @property
    def is_constrained(self) -> bool:
        """Whether tokens may be masked by what comes before them."""
        has_budget = self.thinking is not None and self.thinking.budget is not None
        return self.grammar is not None or has_budget

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or not math.isclose(self.repetition_penalty, 1.0)
        )


@dataclass(frozen=True, slots=True)
class SpeculationParams:
    """How to speculate on one request. It has no influence on the tokens."""

    policy: PolicyName = "off"
    max_depth: int | None = None
    """Longest proposed path in tokens, ≥ 1; None leaves it to the policy."""
    max_nodes: int = 32
    """Most rows of a step for this request, ≥ 1: the proposed tokens and the root."""
    traced: bool = False
    """Whether outputs say what their step proposed."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from. The engine only passes it on, to metrics, logs and traces."""

    http_request_id: str
    """The id in the answer's `x-request-id`; several requests can share one."""
    path: str
    """Path of the API's route."""
    trace_parent: str | None = None
    """The client's `traceparent` header (W3C Trace Context), unread."""
    trace_state: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue."""

    request_id: RequestId
    prompt_token_ids: tuple[int, ...]
    """At least one. Where an answer is wanted, the context must have room for one more token."""
    params: SamplingParams
    priority: int = 0
    """Lower is served earlier; equal priorities are first come, first served."""
    speculation: SpeculationParams = SpeculationParams()
    cache_salt: str | None = None
    """Only requests of the same salt share blocks of the prefix cache."""
    shares_prompt_with: RequestId | None = None
    """A request of the same prompt, priority and salt that was sent before: this one waits until
    that one's prompt is computed, and then finds its blocks in the prefix cache."""
    origin: Origin | None = None

    def fits(self, max_model_len: int) -> bool:
        """Whether the engine can serve it."""
        num_tokens = len(self.prompt_token_ids)
        return 0 < num_tokens <= max_model_len - min(self.params.max_tokens, 1)
