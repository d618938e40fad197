"""`/v1/responses`: the request. Its tools and formats are the chat's, laid out flat."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.schemas.chat import Metadata
from server.api.schemas.common import MAX_LOGPROBS, SamplingFields
from server.api.schemas.fields import (
    RequestModel,
    Text,
    TokenCount,
    Unsupported,
    refuse_unless,
)
from server.api.schemas.response_input import Input, ItemId
from server.api.schemas.structured import JsonObjectFormat, StructuredFields, TextFormat
from server.api.schemas.tools import (
    MAX_TOOLS,
    FunctionDefinition,
    FunctionName,
    FunctionReference,
    FunctionType,
)

LOGPROBS = "message.output_text.logprobs"
"""The one value that `include` may have."""


class _Typed(RequestModel):
    """First among the bases' fields, and so among a body's errors: another type has others."""

    type: FunctionType


class ResponseTool(FunctionDefinition, _Typed):
    defer_loading: Unsupported = None
    allowed_callers: Annotated[Any, refuse_unless([], ["direct"])] = None
    output_schema: Unsupported = None


class ToolReference(FunctionReference, _Typed):
    pass


class AllowedToolsChoice(RequestModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolReference], Field(min_length=1, max_length=MAX_TOOLS)]


def _kind_of_choice(value: object) -> str:
    if not isinstance(value, dict):
        return "mode_text"
    return "allowed_object" if value.get("type") == "allowed_tools" else "named_object"


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode_text")]
    | Annotated[ToolReference, Tag("named_object")]
    | Annotated[AllowedToolsChoice, Tag("allowed_object")],
    Discriminator(_kind_of_choice),
]


class ResponseSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    name: FunctionName
    """Has no influence, like the description."""
    description: Text | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None
    """The schema is enforced in any case."""


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | ResponseSchemaFormat, Field(discriminator="type")
]


class TextConfig(RequestModel):
    format: ResponseFormat | None = None
    verbosity: Unsupported = None


class ResponseStreamOptions(RequestModel):
    include_obfuscation: Unsupported = None


class ResponseRequest(SamplingFields, StructuredFields):
    """At most one of `text.format` and the structured fields says what the answer is like."""

    input: Input
    instructions: Text | None = None
    """A system message in front of everything; those of earlier responses are not carried over."""
    previous_response_id: ItemId | None = None
    """Goes on where that one ended."""
    store: bool | None = None
    """Keep the response; true by default."""
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    """Comes back with the response."""

    truncation: Annotated[Any, refuse_unless("disabled")] = None
    access_programs: Unsupported = None
    background: Unsupported = None
    background_options: Unsupported = None
    image: Unsupported = None
    reasoning: Unsupported = None
    conversation: Unsupported = None
    context_management: Unsupported = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    safety_identifier: Unsupported = None
    service_tier: Annotated[Any, refuse_unless("auto", "default")] = None

    @property
    def with_logprobs(self) -> bool:
        return bool(self.include)
