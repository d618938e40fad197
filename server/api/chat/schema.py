"""`/v1/chat/completions`: request, answer, and chunks of a streamed answer."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from server.api.generation.schema.common import (
    MAX_LOGPROBS,
    Metadata,
    SamplingRequest,
    ThinkingBudget,
    TokenIdsField,
    TokenLogprob,
    Usage,
)
from server.api.generation.schema.speculation import SpeculationField, StepField, TraceField
from server.api.generation.schema.tools import (
    AnswerToolCalls,
    FunctionTools,
    MessageToolCalls,
    ToolCallDelta,
    ToolChoice,
)
from server.api.schema.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    Advisory,
    Omittable,
    RequestModel,
    Text,
    TokenCount,
    Unsupported,
    branch,
    check_utf8,
    chosen_by,
    refuse_unless,
    string_or_list,
)
from server.text.thinking.switch import Effort

Role = Literal["system", "developer", "user", "assistant", "tool"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]


def _refuse_function_role(value: object) -> object:
    if value == "function":
        raise PydanticCustomError("unsupported_field", "Use role 'tool' instead")
    return value


def _refuse_other_parts(value: str) -> str:
    if value != "text":
        what = "Only parts of types 'text' and 'refusal' are supported"
        raise PydanticCustomError("unsupported_field", what)
    return value


class TextPart(RequestModel):
    type: Annotated[
        str,
        AfterValidator(_refuse_other_parts),
        WithJsonSchema({"type": "string", "const": "text"}),
    ]
    text: Text
    prompt_cache_breakpoint: Advisory = None


class RefusalPart(RequestModel):
    """What the assistant declined with, in an earlier answer."""

    type: Literal["refusal"]
    refusal: Text
    """Shown to the model as what the assistant said."""


def _kind_of_part(value: object) -> str:
    is_refusal = isinstance(value, dict) and value.get("type") == "refusal"
    return "refusal" if is_refusal else "text"


ContentPart = Annotated[
    Annotated[TextPart, branch("text")] | Annotated[RefusalPart, branch("refusal")],
    chosen_by(_kind_of_part),
]
Content = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[list[ContentPart], Field(max_length=MAX_PARTS), branch("list")],
    chosen_by(string_or_list),
]


def _text_or_none(value: object) -> object:
    return check_utf8(value) if isinstance(value, str) else None


class ChatMessage(RequestModel):
    """What a role can't have is refused by `api/chat/messages.py`, which names the field."""

    role: Annotated[Role, BeforeValidator(_refuse_function_role)]
    content: Content | None = None
    """Null and an empty list say nothing, like an empty text."""
    name: Text | None = None
    """Passed to the chat template, which may show it to the model."""
    tool_calls: MessageToolCalls | None = None
    tool_call_id: Text | None = None
    function_call: Unsupported = None
    refusal: Text | None = None
    """Shown to the model as what the assistant said."""
    reasoning_content: Text | None = None
    """What the assistant thought, given to the chat template, which may show it to the model."""
    reasoning: Annotated[Any, AfterValidator(_text_or_none)] = None
    """Another name of it; anything but a text says nothing."""
    audio: Unsupported = None
    annotations: Advisory = None
    """This field and those that follow are what answers, and clients, add to the messages that come
    back as history."""
    parsed: Advisory = None
    provider_specific_fields: Advisory = None

    @property
    def thoughts(self) -> str | None:
        """What the assistant thought, under either name."""
        return self.reasoning_content or self.reasoning

    @property
    def text(self) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        parts = self.content
        return "\n".join(p.text if isinstance(p, TextPart) else p.refusal for p in parts)


class ChatRequest(SamplingRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Metadata | None = None
    """Logged beside the request's id at level debug; has no other effect."""

    add_generation_prompt: bool | None = None
    """False: the prompt ends behind the last message, without the header of the answer."""
    continue_final_message: bool | None = None
    """The answer goes on where the last message ends, which is the assistant's."""
    tools: FunctionTools | None = None
    tool_choice: ToolChoice | None = None
    """`none` without tools, `auto` with them."""
    parallel_tool_calls: bool | None = None
    """False for at most one call."""
    functions: Unsupported = None
    function_call: Annotated[object, refuse_unless("none", "auto")] = None
    modalities: Annotated[object, refuse_unless(["text"])] = None
    audio: Unsupported = None
    prediction: Advisory = None
    """What the answer will probably be: OpenAI's hint for speculation, which finds it out itself
    here."""
    reasoning_effort: Effort | None = None
    """How much the model thinks, where its chat template can say so."""
    thinking_token_budget: ThinkingBudget | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, by name."""
    verbosity: Advisory = None
    web_search_options: Unsupported = None
    store: Advisory = None
    """Chats are never kept."""
    moderation: Unsupported = None


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    """Null where there are calls alone."""
    refusal: None = None
    tool_calls: AnswerToolCalls = None
    reasoning_content: Omittable[str] = None
    """What the model thought before it answered; left out where it did not."""


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
    reasoning_content: str | None = None
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
