"""`/v1/responses`: items as they are kept and sent back."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, TypeAdapter

from server.api.generation.schema.common import TokenLogprob
from server.api.responses.schema.input import ItemStatus
from server.api.schema.fields import Omittable


class InputTextContent(BaseModel):
    type: Literal["input_text"] = "input_text"
    text: str


class OutputTextContent(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    """Always empty: nothing here cites anything."""
    logprobs: list[TokenLogprob] = []


class RefusalContent(BaseModel):
    type: Literal["refusal"] = "refusal"
    refusal: str


class InputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer"]
    status: ItemStatus = "completed"
    content: list[InputTextContent]


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus = "completed"
    content: list[Annotated[OutputTextContent | RefusalContent, Field(discriminator="type")]]


class FunctionCallOutput(BaseModel):
    """The result of a call."""

    id: str
    type: Literal["function_call_output"] = "function_call_output"
    call_id: str
    output: str | list[InputTextContent]
    status: ItemStatus = "completed"
    name: Omittable[str] = None


class FunctionCall(BaseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    """JSON, if the model made no mistake and was not cut short."""
    status: ItemStatus = "completed"


class ReasoningTextContent(BaseModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class ReasoningItem(BaseModel):
    """What a model thought before it answered: this one, or another whose item was sent."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    summary: list[Any]
    content: Omittable[list[ReasoningTextContent | Any]] = None
    encrypted_content: Omittable[str] = None
    status: Omittable[ItemStatus] = None


OutputItem = OutputMessage | FunctionCall | ReasoningItem


def _kind_of_item(value: Any) -> str:
    item: dict[str, Any] = value if isinstance(value, dict) else vars(value)
    if item["type"] == "message":
        return "answer" if item["role"] == "assistant" else "message"
    return item["type"]


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[OutputMessage, Tag("answer")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind_of_item),
]
AnyItem = InputMessage | OutputMessage | FunctionCall | FunctionCallOutput | ReasoningItem

ITEM = TypeAdapter[AnyItem](Item)
"""Reads one from JSON."""


class ItemList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
