"""Function tools in chats: what requests say of them, and calls in messages and answers."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from server.api.schemas.fields import RequestModel, Text

MAX_TOOLS = 128
"""OpenAI's limit."""


def _refuse_other_tools(value: str) -> str:
    if value != "function":
        what = "Only tools of type 'function' are supported"
        raise PydanticCustomError("unsupported_field", what)
    return value


FunctionType = Annotated[
    str,
    AfterValidator(_refuse_other_tools),
    WithJsonSchema({"type": "string", "const": "function"}),
]
FunctionName = Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(RequestModel):
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of an object; none for no arguments. Looked into by `api/json_schema.py`."""
    strict: bool | None = None
    """Arguments must follow the schema."""


class FunctionToolField(RequestModel):
    type: FunctionType
    function: FunctionDefinition


FunctionTools = Annotated[list[FunctionToolField], Field(max_length=MAX_TOOLS)]


class FunctionReference(RequestModel):
    name: Text


class NamedTool(RequestModel):
    type: FunctionType
    function: FunctionReference


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(RequestModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _kind_of_choice(value: object) -> str:
    """Branch of the union. The names are no keys of a body: errors leave them out of the path."""
    if not isinstance(value, dict):
        return "mode_text"
    return "allowed_object" if value.get("type") == "allowed_tools" else "named_object"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode_text")]
    | Annotated[NamedTool, Tag("named_object")]
    | Annotated[AllowedToolChoice, Tag("allowed_object")],
    Discriminator(_kind_of_choice),
]


class CalledFunction(RequestModel):
    name: Text
    arguments: Text


class MessageToolCall(RequestModel):
    """A call that the model made earlier in the chat."""

    id: Text
    type: FunctionType
    function: CalledFunction


MessageToolCalls = list[MessageToolCall]


class AnswerFunction(BaseModel):
    name: str
    arguments: str
    """JSON, if the model made no mistake and was not cut short."""


class AnswerToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


def _is_none(value: object) -> bool:
    return value is None


AnswerToolCalls = Annotated[list[AnswerToolCall] | None, Field(exclude_if=_is_none)]
"""Left out where there is no call."""


class FunctionDelta(BaseModel):
    """Fields that were not given are left out, here and in `ToolCallDelta`."""

    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """The first of a call has all fields and no arguments; those that follow have only more of
    the arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta
