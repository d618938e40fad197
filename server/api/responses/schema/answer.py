"""`/v1/responses`: the response object."""

from typing import Any, Literal

from pydantic import BaseModel

from server.api.generation.schema.common import TokenIdsField
from server.api.generation.schema.speculation import SpeculationField
from server.api.responses.schema.items import OutputItem
from server.api.responses.store import ResponseStatus
from server.text.thinking.switch import Effort


class ResponseError(BaseModel):
    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class InputTokensDetails(BaseModel):
    cached_tokens: int
    """Tokens whose KV came from the prefix cache."""
    cache_write_tokens: Literal[0] = 0
    """OpenAI bills these; writing costs nothing here."""


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int
    """Tokens of what the model thought before it answered."""


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ShownTool(BaseModel):
    type: Literal["function"] = "function"
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class ResponseText(BaseModel):
    format: dict[str, Any]
    """As it was sent."""


class ShownReasoning(BaseModel):
    """As it was sent."""

    effort: Effort | None
    summary: None = None
    """Thinking is given as it is; there are no summaries."""


class ResponseObject(BaseModel):
    """A response in any state; the request's fields come back with their defaults filled in."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus = "in_progress"
    completed_at: int | None = None
    background: Literal[False] = False
    error: ResponseError | None = None
    frequency_penalty: float
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None = None
    reasoning: ShownReasoning | None = None
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: ResponseText
    tool_choice: str | dict[str, Any]
    """As it was sent."""
    tools: list[ShownTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"] = "disabled"
    usage: ResponseUsage | None = None
    """Null until the response has ended."""
    user: str | None
    speculation: SpeculationField = None
    prompt_token_ids: TokenIdsField = None
    token_ids: TokenIdsField = None
    """Ids of the whole output, calls and their markup too. Both come once the response has
    ended."""


class InputTokens(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
