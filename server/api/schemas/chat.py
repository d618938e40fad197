"""`/v1/chat/completions`: request, answer, and chunks of a streamed answer."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from server.api.schemas.common import MAX_LOGPROBS, SamplingRequest, TokenIdsField, Usage
from server.api.schemas.fields import (
    RequestModel,
    Text,
    TokenCount,
    Unsupported,
    refuse_unless,
    string_or_list,
)
from server.api.schemas.speculation import SpeculationField, StepField, TraceField
from server.api.schemas.tools import (
    AnswerToolCalls,
    FunctionTools,
    MessageToolCalls,
    ToolCallDelta,
    ToolChoice,
)

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]


def _refuse_function_role(value: object) -> object:
    if value == "function":
        raise PydanticCustomError("unsupported_field", "Use role 'tool' instead")
    return value


def _refuse_other_parts(value: str) -> str:
    if value != "text":
        raise PydanticCustomError("unsupported_field", "Only parts of type 'text' are supported")
    return value


class TextPart(RequestModel):
    type: Annotated[
        str,
        AfterValidator(_refuse_other_parts),
        WithJsonSchema({"type": "string", "const": "text"}),
    ]
    text: Text


Content = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[TextPart], Field(min_length=1), Tag("list")],
    Discriminator(string_or_list),
]


class ChatMessage(RequestModel):
    """What a role can't have is refused by `api/messages.py`, which names the field."""

    role: Annotated[Role, BeforeValidator(_refuse_function_role)]
    content: Content | None = None
    """Null only beside `tool_calls` or `refusal`."""
    name: Text | None = None
    """Passed to the chat template, which may show it to the model."""
    tool_calls: MessageToolCalls | None = None
    tool_call_id: Text | None = None
    function_call: Unsupported = None
    refusal: Text | None = None
    """Shown to the model as what the assistant said."""
    audio: Unsupported = None
    provider_specific_fields: Annotated[object, refuse_unless({}, {"refusal": None})] = None
    """litellm's: sent back with each message that it got from a server."""

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


Metadata = Annotated[
    dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]],
    Field(max_length=16),
]


class ChatRequest(SamplingRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Metadata | None = None
    """Logged beside the request's id at level debug; has no other effect."""

    tools: FunctionTools | None = None
    tool_choice: ToolChoice | None = None
    """`none` without tools, `auto` with them."""
    parallel_tool_calls: bool | None = None
    """False for at most one call."""
    functions: Unsupported = None
    function_call: Annotated[object, refuse_unless("none", "auto")] = None
    modalities: Annotated[object, refuse_unless(["text"])] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None
    service_tier: Annotated[object, refuse_unless("auto", "default")] = None
    store: Unsupported = None
    safety_identifier: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_retention: Unsupported = None
    prompt_cache_options: Unsupported = None
    moderation: Unsupported = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    """Null where there are calls alone."""
    refusal: None = None
    tool_calls: AnswerToolCalls = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    token_ids: TokenIdsField = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    speculation: SpeculationField = None
    prompt_token_ids: TokenIdsField = None


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    token_ids: TokenIdsField = None


class ChatChunk(BaseModel):
    """Fields that were not given are left out of the JSON."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    speculation: SpeculationField = None
    speculation_trace: TraceField = None
    speculation_step: StepField = None
    prompt_token_ids: TokenIdsField = None
    """On each choice's first chunk."""
