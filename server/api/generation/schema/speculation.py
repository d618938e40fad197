"""The extra field `speculation` of requests and answers, and the trace of a stream's chunks."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from server.api.schema.fields import Omittable, RequestModel
from server.engine.outputs import ProposalSource, TokenSource
from server.engine.types import PolicyName

MAX_DEPTH = 16
MAX_NODES = 64


class SpeculationOptions(RequestModel):
    """How the answer is speculated on. Has no influence on its tokens; null means the server's
    default."""

    policy: PolicyName | None = None
    max_depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = None
    """Longest proposal in tokens."""
    max_nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] | None = None
    """Most tokens that one step verifies: the proposed ones and the root."""
    trace: bool | None = None
    """Say where each token came from."""
    steps: bool | None = None
    """Describe each step; only in streams."""


class SourceCounts(BaseModel):
    """Tokens by where they came from."""

    trunk: int
    """The draft's most probable path."""
    leaf: int
    """One of the draft's alternatives to it."""
    target: int
    """The model itself: one in each step, the only one where nothing is speculated."""


class StepToken(BaseModel):
    """A token that a step brought."""

    token: str
    """Written as in logprobs."""
    bytes: list[int]
    """Its text in UTF-8; may be a part of a character."""
    source: TokenSource
    text_offset: int
    """Where its text begins, in characters of the whole text, markup of calls included. The next
    token's text begins where this one's ends."""


class StepNode(BaseModel):
    """A token that a step proposed."""

    token: str
    parent: int
    """0 is the root, the token before this step's; i is the i-th entry of `nodes`, from 1."""
    kind: Literal["trunk", "leaf"]
    source: ProposalSource
    """`draft`; `lookup`: found in the text so far; `recent`: in a recent answer of this server;
    `grammar`: forced by it; `beam`."""
    confidence: float | None
    """Its probability under the draft; for a lookup its estimated chance; null for beams."""


class SpeculationStep(BaseModel):
    """What one step proposed for this choice, and what became of it."""

    tokens: list[StepToken]
    root: str
    """The token before this step's."""
    nodes: list[StepNode]
    """Empty where nothing was proposed."""
    accepted: list[int]
    """Nodes of the accepted path, from the top down."""
    source: ProposalSource | None
    """Source of the trunk's first token, as in its node; null where nothing was proposed."""
    draft_seconds: float
    """This and the next two are the seconds of the whole batch's step."""
    verify_seconds: float
    other_seconds: float


class SourceReport(BaseModel):
    """What one source of proposals did."""

    drafted_tokens: int
    accepted_tokens: int


class SpeculationReport(BaseModel):
    """What speculation did for one answer, or for all choices of a whole one: their sum. Seconds
    are of the steps it took part in, and those are shared with the other requests of the batch;
    where choices share a step, its seconds count for each."""

    steps: int
    drafted_tokens: int
    accepted_tokens: int
    leaves_accepted: int
    tokens_per_step: float
    accepted_per_position: list[int]
    """Entry i: steps whose proposal was right at depth i + 1."""
    by_source: dict[ProposalSource, SourceReport]
    """Figures of each source that proposed something."""
    draft_seconds: float
    verify_seconds: float
    other_seconds: float
    sources: Omittable[SourceCounts] = None
    """Counts of the whole answer, if a trace was asked for. Streams have them on their chunks
    instead."""


SpeculationField = Omittable[SpeculationReport]
"""Left out where nothing was speculated. In a stream: on the chunk with the finish_reason."""

StepField = Omittable[SpeculationStep]
"""The step that brought this chunk; left out if `speculation.steps` was not asked for."""

TraceField = Omittable[SourceCounts]
"""Sources of the tokens that this chunk brings; left out if no trace was asked for."""
