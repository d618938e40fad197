"""`/v1/messages`: the message that answers, and the count of a prompt's tokens."""

from typing import Any, Literal

from pydantic import BaseModel

from server.api.generation.schema.common import TokenIdsField
from server.api.generation.schema.speculation import SpeculationField

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class AnswerText(BaseModel):
    type: Literal["text"] = "text"
    text: str


class AnswerThinking(BaseModel):
    """What the model thought before it answered."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    """Empty where the request asked for `omitted`."""
    signature: str
    """A digest of the thoughts; nothing is checked when it comes back."""


class AnswerToolUse(BaseModel):
    """A call of one of the request's tools."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]
    """`{"INVALID_JSON": …}` where what the model wrote is no JSON object."""


ContentBlock = AnswerText | AnswerThinking | AnswerToolUse


class OutputDetails(BaseModel):
    thinking_tokens: int
    """Those of them that are thoughts."""


class MessageUsage(BaseModel):
    """Token counts. Those of the prompt are the sum of the first three."""

    input_tokens: int
    """Tokens of the prompt that the other two don't count."""
    cache_creation_input_tokens: int
    """Tokens that were added to the prefix cache; 0 where the request has no `cache_control`."""
    cache_read_input_tokens: int
    """Tokens whose KV came from the prefix cache."""
    output_tokens: int
    output_tokens_details: OutputDetails
    service_tier: Literal["standard"] = "standard"


class Message(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    """Null where a stream begins."""
    stop_sequence: str | None
    """The stop sequence that ended the answer."""
    usage: MessageUsage
    speculation: SpeculationField = None
    prompt_token_ids: TokenIdsField = None
    token_ids: TokenIdsField = None


class TokenCount(BaseModel):
    input_tokens: int
