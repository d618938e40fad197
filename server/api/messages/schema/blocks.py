"""`/v1/messages`: the blocks that the content of a request's messages is made of."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from server.api.schema.fields import (
    MAX_PARTS,
    Advisory,
    RequestModel,
    Text,
    Unsupported,
    branch,
    chosen_by,
    refuse_unless,
    string_or_list,
)

BlockId = Annotated[Text, Field(min_length=1, max_length=128)]


def _refuse_other_texts(value: str) -> str:
    if value != "text":
        raise PydanticCustomError("unsupported_field", "Only blocks of type 'text' are supported")
    return value


class TextBlock(RequestModel):
    type: Annotated[
        str,
        AfterValidator(_refuse_other_texts),
        WithJsonSchema({"type": "string", "const": "text"}),
    ]
    text: Text
    cache_control: Advisory = None
    citations: Advisory = None
    """This field and the next are what answers, and clients, add to the text."""
    parsed_output: Advisory = None


TextContent = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[list[TextBlock], Field(max_length=MAX_PARTS), branch("list")],
    chosen_by(string_or_list),
]


class ThinkingBlock(RequestModel):
    """What a model thought in an earlier turn."""

    type: Literal["thinking"]
    thinking: Text
    signature: Advisory = None
    cache_control: Advisory = None


class RedactedThinkingBlock(RequestModel):
    """What another model thought, encrypted. Says nothing to this one."""

    type: Literal["redacted_thinking"]
    data: Advisory = None
    cache_control: Advisory = None


class ToolUseBlock(RequestModel):
    """A call that the model made in an earlier turn."""

    type: Literal["tool_use"]
    id: BlockId
    name: Text
    input: dict[str, Any]
    cache_control: Advisory = None
    caller: Annotated[Any, refuse_unless({"type": "direct"})] = None
    toolset_name: Unsupported = None


class ToolResultBlock(RequestModel):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: BlockId
    content: TextContent | None = None
    """Nothing is an empty text."""
    is_error: bool | None = None
    """Shown to the model as `Error: ` before the content."""
    cache_control: Advisory = None


def _refuse_block(value: str) -> str:
    what = (
        "Only blocks of types 'text', 'thinking', 'redacted_thinking', 'tool_use' and"
        " 'tool_result' are supported"
    )
    raise PydanticCustomError("unsupported_field", what)


class OtherBlock(RequestModel):
    """A block of a type that is not implemented; there is nothing else to say of it."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, AfterValidator(_refuse_block)]


_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")


def _kind_of_block(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        return "text"
    return kind if kind in _BLOCKS else "other"


Block = Annotated[
    Annotated[TextBlock, branch("text")]
    | Annotated[ThinkingBlock, branch("thinking")]
    | Annotated[RedactedThinkingBlock, branch("redacted_thinking")]
    | Annotated[ToolUseBlock, branch("tool_use")]
    | Annotated[ToolResultBlock, branch("tool_result")]
    | Annotated[OtherBlock, branch("other")],
    chosen_by(_kind_of_block),
]

Content = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[list[Block], Field(max_length=MAX_PARTS), branch("list")],
    chosen_by(string_or_list),
]


class MessageParam(RequestModel):
    """Which blocks a role can have is checked in `api/messages/conversation.py`."""

    role: Literal["user", "assistant", "system"]
    content: Content
