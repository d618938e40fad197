"""`/v1/responses`: requests. Tools and formats are the chat's, laid out flat."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.generation.schema.common import (
    MAX_LOGPROBS,
    Metadata,
    SamplingFields,
    ThinkingBudget,
)
from server.api.generation.schema.structured import JsonObjectFormat, StructuredFields, TextFormat
from server.api.generation.schema.tools import (
    MAX_TOOLS,
    FunctionDefinition,
    FunctionReference,
    FunctionType,
    OtherTool,
    kind_of_choice,
    kind_of_tool,
)
from server.api.responses.schema.input import Input, ItemId
from server.api.schema.fields import (
    Advisory,
    Name,
    RequestModel,
    Text,
    TokenCount,
    Unsupported,
    branch,
    by_type,
    chosen_by,
    keyword_field,
    refuse_unless,
)
from server.text.thinking.switch import Effort

LOGPROBS = "message.output_text.logprobs"

Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""Parts of answers that are left out unless they are asked for. Apart from logprobs, answers here
have no such parts."""


class _Typed(RequestModel):
    """First among the bases' fields, and so among a body's errors: another type has others."""

    type: FunctionType


class ResponseTool(FunctionDefinition, _Typed):
    async_: Annotated[Any, keyword_field("async"), refuse_unless(False)] = None
    defer_loading: Unsupported = None
    allowed_callers: Annotated[Any, refuse_unless([], ["direct"])] = None
    output_schema: Unsupported = None


ResponseTools = Annotated[
    list[
        Annotated[
            Annotated[ResponseTool, branch("function")] | Annotated[OtherTool, branch("other")],
            chosen_by(kind_of_tool),
        ]
    ],
    Field(max_length=MAX_TOOLS),
]


class ToolReference(FunctionReference, _Typed):
    pass


class AllowedToolsChoice(RequestModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolReference], Field(min_length=1, max_length=MAX_TOOLS)]


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], branch("mode")]
    | Annotated[ToolReference, branch("named")]
    | Annotated[AllowedToolsChoice, branch("allowed")],
    chosen_by(kind_of_choice),
]


class ResponseSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    name: Name
    """Has no influence, like the description."""
    description: Text | None = None
    schema_: Annotated[dict[str, Any], keyword_field("schema")]
    strict: bool | None = None
    """The schema is enforced in any case."""


ResponseFormat = Annotated[
    Annotated[TextFormat, branch("text")]
    | Annotated[JsonObjectFormat, branch("json_object")]
    | Annotated[ResponseSchemaFormat, branch("json_schema")],
    by_type("text", "json_object", "json_schema"),
]


class TextConfig(RequestModel):
    format: ResponseFormat | None = None
    verbosity: Advisory = None


class ReasoningConfig(RequestModel):
    effort: Effort | None = None
    summary: Advisory = None
    """Thinking is given as it is; there are no summaries."""
    generate_summary: Advisory = None
    context: Advisory = None
    mode: Advisory = None


class ResponseStreamOptions(RequestModel):
    include_obfuscation: Unsupported = None


class ResponseFields(SamplingFields, StructuredFields):
    """At most one of `text.format` and the structured fields says what the answer is like."""

    instructions: Text | None = None
    """A system message in front of everything; those of earlier responses are not carried over."""
    previous_response_id: ItemId | None = None
    """Goes on where that one ended."""
    store: bool | None = None
    """Keep the response; true by default."""
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    include: Annotated[list[Included], Field(max_length=64)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    text: TextConfig | None = None
    tools: ResponseTools | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    """Comes back with the response."""

    truncation: Literal["auto", "disabled"] | None = None
    """`auto` leaves out the conversation's oldest items where it is too long."""
    access_programs: Unsupported = None
    background: Unsupported = None
    background_options: Unsupported = None
    image: Unsupported = None
    reasoning: ReasoningConfig | None = None
    thinking_token_budget: ThinkingBudget | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    conversation: Unsupported = None
    context_management: Unsupported = None
    max_tool_calls: Advisory = None
    """Concerns OpenAI's own tools, which are not offered here."""
    moderation: Unsupported = None
    prompt: Unsupported = None

    @property
    def with_logprobs(self) -> bool:
        """The answer's text comes with them."""
        return LOGPROBS in (self.include or ())


class ResponseRequest(ResponseFields):
    input: Input


class InputTokensRequest(ResponseFields):
    """`/v1/responses/input_tokens`: the request whose prompt is counted. What concerns the answer
    alone may be there, but needn't."""

    input: Input | None = None


class _Query(BaseModel):
    """Parameters after the question mark. They are text, so not strict."""

    model_config = ConfigDict(extra="forbid")


_Included = Annotated[list[Any] | None, refuse_unless()]


class RetrieveQuery(_Query):
    """A response comes back as it was made, logprobs included if they were asked for then."""

    stream: Annotated[bool | None, refuse_unless(False)] = None
    include: _Included = None
    include_brackets: Annotated[_Included, Field(alias="include[]")] = None
    """The name that OpenAI's client gives it."""
    include_obfuscation: Annotated[bool | None, refuse_unless(False)] = None
    starting_after: Annotated[int | None, refuse_unless()] = None


class InputItemsQuery(_Query):
    after: ItemId | None = None
    """Id of the item after which the page begins."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    include: _Included = None
    include_brackets: Annotated[_Included, Field(alias="include[]")] = None
