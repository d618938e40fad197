"""`/v1/completions`: request and answer; streamed chunks have the answer's shape."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from server.api.generation.schema.common import (
    MAX_LOGPROBS,
    MAX_N,
    SamplingRequest,
    TokenIdsField,
    Usage,
)
from server.api.generation.schema.speculation import SpeculationField, StepField, TraceField
from server.api.schema.fields import (
    INT32_MAX,
    Text,
    TokenId,
    branch,
    chosen_by,
)

MAX_CHOICES = 1024
"""Most choices of one request: its prompts times the answers to each."""


MAX_TOKEN_IDS = 1_000_000
"""Most token ids of one prompt; its real limit is the context."""


def _kind_of_prompt(value: object) -> str:
    """Picks the branch by the first entry, so that an error speaks of one branch and not of all."""
    if not isinstance(value, list):
        return "string"
    if value and isinstance(value[0], str):
        return "strings"
    return "lists" if value and isinstance(value[0], list) else "list"


TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKEN_IDS)]
Prompt = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[TokenIds, branch("list")]
    | Annotated[list[Text], Field(max_length=MAX_CHOICES), branch("strings")]
    | Annotated[list[TokenIds], Field(max_length=MAX_CHOICES), branch("lists")],
    chosen_by(_kind_of_prompt),
]


class CompletionRequest(SamplingRequest):
    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    """The text begins with the prompt."""
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    """How many answers are made to each prompt; the `n` with the highest mean logprob are sent."""
    suffix: Text | None = None
    """What comes behind the answer, for models that were taught to fill in."""


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of an echoed prompt, which follows nothing."""
    top_logprobs: list[dict[str, float] | None]
    """They include the chosen token, also where no alternatives were asked for."""
    text_offset: list[int]
    """Where each token's text begins, in characters of the whole output."""


class CompletionChoice(BaseModel):
    index: int
    """Answer j to prompt i has index i * n + j."""
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    token_ids: TokenIdsField = None
    """In a stream those of the tokens that this chunk brings."""
    prompt_token_ids: TokenIdsField = None
    """In a stream: on each choice's first chunk."""


class Completion(BaseModel):
    """Fields that were not given are left out of a chunk's JSON."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    speculation: SpeculationField = None
    speculation_trace: TraceField = None
    speculation_step: StepField = None
