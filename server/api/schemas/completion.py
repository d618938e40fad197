"""`/v1/completions`: request and answer; streamed chunks have the answer's shape."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from server.api.schemas.common import MAX_LOGPROBS, SamplingRequest, Usage
from server.api.schemas.fields import Text, TokenId, Unsupported, refuse_unless, string_or_list
from server.api.schemas.speculation import SpeculationField, TraceField


def _unwrap_batch(value: Any) -> Any:
    """`["text"]` → `"text"`, `[[1, 2]]` → `[1, 2]`: a batch of one is no batch."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str | list):
        return value
    if len(value) > 1:
        raise PydanticCustomError("unsupported_field", "Several prompts are not supported yet")
    return value[0]


Prompt = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[TokenId], Field(min_length=1), Tag("list")],
    Discriminator(string_or_list),
    BeforeValidator(_unwrap_batch),
]


class CompletionRequest(SamplingRequest):
    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    echo: Unsupported = None
    best_of: Annotated[object, refuse_unless(1)] = None
    suffix: Annotated[object, refuse_unless("")] = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]
    """Where each token's text begins, in characters of the whole output."""


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


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
