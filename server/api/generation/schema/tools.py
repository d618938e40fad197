"""Function tools in chats: what requests say of them, and calls in messages and answers."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from server.api.schema.fields import (
    Advisory,
    Name,
    Omittable,
    RequestModel,
    Text,
    branch,
    chosen_by,
)

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


class FunctionDefinition(RequestModel):
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of an object; none for no arguments. `api/generation/json_schema.py` looks into
    it."""
    strict: bool | None = None
    """Arguments must follow the schema."""


class FunctionToolField(RequestModel):
    type: FunctionType
    function: FunctionDefinition


class OtherTool(RequestModel):
    """A tool that is no function: refused or left out by `api/generation/tools.py`, so it may be
    anything."""

    model_config = ConfigDict(extra="ignore")

    type: Text


def kind_of_tool(value: object) -> str:
    """Branch of a union of functions and other tools."""
    if isinstance(value, OtherTool):
        return "other"
    kind = value.get("type") if isinstance(value, dict) else "function"
    return "other" if isinstance(kind, str) and kind != "function" else "function"


FunctionTools = Annotated[
    list[
        Annotated[
            Annotated[FunctionToolField, branch("function")]
            | Annotated[OtherTool, branch("other")],
            chosen_by(kind_of_tool),
        ]
    ],
    Field(max_length=MAX_TOOLS),
]


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


def kind_of_choice(value: object) -> str:
    """Branch of a union of modes, named tools, and allowed ones."""
    if not isinstance(value, dict):
        return "mode"
    return "allowed" if value.get("type") == "allowed_tools" else "named"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], branch("mode")]
    | Annotated[NamedTool, branch("named")]
    | Annotated[AllowedToolChoice, branch("allowed")],
    chosen_by(kind_of_choice),
]


def _kind_of_arguments(value: object) -> str:
    return "object" if isinstance(value, dict) else "string"


CallArguments = Annotated[
    Annotated[Text, branch("string")] | Annotated[dict[str, Any], branch("object")],
    chosen_by(_kind_of_arguments),
]
"""Arguments of an earlier call: as the model wrote them, or read from its JSON by a client."""


class CalledFunction(RequestModel):
    name: Text
    arguments: CallArguments
    parsed_arguments: Advisory = None
    """What the client's `parse` made of the arguments."""


class MessageToolCall(RequestModel):
    """A call that the model made earlier in the chat."""

    id: Text
    type: FunctionType
    function: CalledFunction
    index: Advisory = None
    """Its place among the calls, as in the deltas of a stream."""


MAX_CALLS = 1024
"""Most calls of one message."""

MessageToolCalls = Annotated[list[MessageToolCall], Field(max_length=MAX_CALLS)]


class AnswerFunction(BaseModel):
    name: str
    arguments: str
    """JSON, if the model made no mistake and was not cut short."""


class AnswerToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


AnswerToolCalls = Omittable[list[AnswerToolCall]]
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
