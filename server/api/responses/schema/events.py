"""`/v1/responses`: the events of a stream. Each says its `type`, and its place in the stream."""

from typing import Literal

from pydantic import BaseModel

from server.api.responses.schema.answer import ResponseObject
from server.api.responses.schema.items import (
    OutputItem,
    OutputTextContent,
    ReasoningTextContent,
)


class _Event(BaseModel):
    sequence_number: int
    """Counts from 0 on, without gaps."""


class StateEvent(_Event):
    """The response as a whole has begun, or ended in one of the ways that there are."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(_Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _InItem(_Event):
    item_id: str
    output_index: int


class _InText(_InItem):
    content_index: Literal[0] = 0


class PartEvent(_InText):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputTextContent | ReasoningTextContent


class EventTopLogprob(BaseModel):
    token: str
    logprob: float


class EventLogprob(EventTopLogprob):
    """Events lack the bytes that the whole part has, as OpenAI's do."""

    top_logprobs: list[EventTopLogprob]


class TextDelta(_InText):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[EventLogprob]


class TextDone(_InText):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[EventLogprob]


class ReasoningTextDelta(_InText):
    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    delta: str


class ReasoningTextDone(_InText):
    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    text: str


class ArgumentsDelta(_InItem):
    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    delta: str


class ArgumentsDone(_InItem):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


Event = (
    StateEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | ArgumentsDelta
    | ArgumentsDone
)
