"""`/v1/messages`: requests."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.generation.schema.common import AdvisoryText, SamplingFields, ThinkingBudget
from server.api.generation.schema.structured import StructuredFields
from server.api.generation.schema.tools import MAX_TOOLS, OtherTool
from server.api.messages.schema.blocks import Block, MessageParam, TextContent, ToolResultBlock
from server.api.messages.schema.context import ContextManagement
from server.api.schema.fields import (
    INT32_MAX,
    MAX_MESSAGES,
    Advisory,
    Name,
    RequestModel,
    StopStrings,
    Text,
    Unsupported,
    branch,
    by_type,
    chosen_by,
    keyword_field,
    refuse_unless,
)

MAX_EXAMPLES = 64


class CustomTool(RequestModel):
    """A tool of the client's own."""

    type: Literal["custom"] | None = None
    name: Name
    description: Text | None = None
    input_schema: dict[str, Any]
    """JSON schema of an object; `api/generation/json_schema.py` looks into it."""
    strict: bool | None = None
    """The input must follow the schema."""
    input_examples: Annotated[list[dict[str, Any]], Field(max_length=MAX_EXAMPLES)] | None = None
    """Shown to the model at the end of the description."""
    cache_control: Advisory = None
    eager_input_streaming: Advisory = None
    """Inputs are always streamed as they are written."""
    allowed_callers: Annotated[Any, refuse_unless([], ["direct"])] = None
    defer_loading: Unsupported = None


def _kind_of_tool(value: object) -> str:
    if isinstance(value, OtherTool):
        return "other"
    kind = value.get("type") if isinstance(value, dict) else None
    return "other" if isinstance(kind, str) and kind != "custom" else "custom"


Tools = Annotated[
    list[
        Annotated[
            Annotated[CustomTool, branch("custom")] | Annotated[OtherTool, branch("other")],
            chosen_by(_kind_of_tool),
        ]
    ],
    Field(max_length=MAX_TOOLS),
]


class AutoChoice(RequestModel):
    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = None
    """At most one call."""


class AnyChoice(RequestModel):
    type: Literal["any"]
    disable_parallel_tool_use: bool | None = None
    """Exactly one call."""


class NamedChoice(RequestModel):
    """Exactly one call of one tool, in any case."""

    type: Literal["tool"]
    name: Text
    disable_parallel_tool_use: Advisory = None


class NoChoice(RequestModel):
    type: Literal["none"]


ToolChoice = Annotated[
    Annotated[AutoChoice, branch("auto")]
    | Annotated[AnyChoice, branch("any")]
    | Annotated[NamedChoice, branch("tool")]
    | Annotated[NoChoice, branch("none")],
    by_type("auto", "any", "tool", "none"),
]


class JsonFormat(RequestModel):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], keyword_field("schema")]


class OutputConfig(RequestModel):
    format: JsonFormat | None = None
    """What the answer's text is like."""
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """How much the model thinks, where its chat template can say so."""
    task_budget: Unsupported = None


class ThinkingDisabled(RequestModel):
    type: Literal["disabled"]


Display = Literal["summarized", "omitted"]
"""Thoughts are shown as they are, or not at all; there are no summaries."""


ThoughtsShown = Literal["whole", "without_text", "not_at_all"]
"""What an answer has of its thoughts: blocks with their text, empty blocks, no blocks."""


class ThinkingAdaptive(RequestModel):
    """The model thinks as much as it likes."""

    type: Literal["adaptive"]
    display: Display | None = None


class ThinkingEnabled(RequestModel):
    type: Literal["enabled"]
    budget_tokens: ThinkingBudget
    display: Display | None = None


Thinking = Annotated[
    Annotated[ThinkingDisabled, branch("disabled")]
    | Annotated[ThinkingAdaptive, branch("adaptive")]
    | Annotated[ThinkingEnabled, branch("enabled")],
    by_type("disabled", "adaptive", "enabled"),
]


class MessageMetadata(RequestModel):
    user_id: AdvisoryText = None
    """Logged beside the request's id at level debug."""


MaxTokens = Annotated[int, Field(ge=0, le=INT32_MAX)]


class MessageFields(SamplingFields, StructuredFields):
    """What a message and the count of its tokens have in common: everything but `max_tokens`."""

    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: TextContent | None = None
    """A system message in front of all others."""
    stop_sequences: StopStrings | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    """What the model does by itself, if nothing is said."""
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    """The older name of `output_config.format`."""
    context_management: ContextManagement | None = None
    metadata: MessageMetadata | None = None
    cache_control: Advisory = None
    """What all requests of a key have begun with alike is found in the prefix cache, here and
    wherever else this field may stand. Where it stands anywhere, `usage` counts what was added to
    the cache."""
    billing_policy: Advisory = None
    diagnostics: Advisory = None
    fallbacks: Advisory = None
    """Models for what Anthropic's decline to answer; nothing is declined here."""
    fallback_credit_token: Advisory = None
    inference_geo: Advisory = None
    speed: Advisory = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, by name."""
    compaction: Unsupported = None
    container: Unsupported = None
    mcp_servers: Unsupported = None
    thread: Unsupported = None

    def has_more_blocks(self, limit: int) -> bool:
        """Whether the messages have more blocks, those within results included; a text alone
        counts as one. Goes through no more of them than the limit."""
        blocks = (block for message in self.messages for block in _all_blocks(message))
        return sum(1 for _ in islice(blocks, limit + 1)) > limit

    def has_cache_control(self) -> bool:
        """Whether a `cache_control` stands anywhere."""
        system = self.system if isinstance(self.system, list) else []
        return (
            self.cache_control is not None
            or any(map(_is_marked, system))
            or any(map(_is_marked, self.tools or ()))
            or any(_is_marked(block) for message in self.messages for block in _blocks(message))
        )

    @property
    def thoughts_shown(self) -> ThoughtsShown:
        """What the answer has of its thoughts; a model may think although it is not to."""
        if isinstance(self.thinking, ThinkingDisabled):
            return "not_at_all"
        is_omitted = getattr(self.thinking, "display", None) == "omitted"
        return "without_text" if is_omitted else "whole"


class MessageRequest(MessageFields):
    max_tokens: MaxTokens
    """0 puts the prompt into the prefix cache, and that is all."""


class CountRequest(MessageFields):
    """`/v1/messages/count_tokens`: the request whose prompt is counted. What concerns the answer
    alone may be there, but needn't."""

    max_tokens: MaxTokens | None = None


def _blocks(part: MessageParam | ToolResultBlock) -> Sequence[Block]:
    return part.content if isinstance(part.content, list) else ()


def _all_blocks(part: MessageParam | ToolResultBlock) -> Iterator[object]:
    if not isinstance(part.content, list):
        yield part.content
        return
    for block in part.content:
        yield block
        if isinstance(block, ToolResultBlock):
            yield from _all_blocks(block)


def _is_marked(part: Block | CustomTool | OtherTool) -> bool:
    if getattr(part, "cache_control", None) is not None:
        return True
    return isinstance(part, ToolResultBlock) and any(map(_is_marked, _blocks(part)))
