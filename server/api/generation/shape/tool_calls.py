"""Function calls as chats write them: in one document, and as deltas of a stream."""

from collections.abc import Sequence

from server.api.chat.schema import AssistantMessage, ChatDelta, ChatFinishReason, FinishReason
from server.api.generation.schema.tools import (
    AnswerFunction,
    AnswerToolCall,
    FunctionDelta,
    ToolCallDelta,
)
from server.api.generation.tools import CallMode
from server.text.tools.events import (
    AnswerEvent,
    ArgumentsDelta,
    CallStart,
    ContentDelta,
    whole_answer,
)
from server.text.tools.functions import FunctionCall


def has_content(mode: CallMode) -> bool:
    """Whether an answer may be anything else than calls."""
    return mode in ("none", "auto")


def message(events: Sequence[AnswerEvent], mode: CallMode) -> AssistantMessage:
    """The message that an answer's events add up to."""
    content, calls = whole_answer(events)
    if not calls:
        return AssistantMessage(content=content if has_content(mode) else None)
    return AssistantMessage(content=content or None, tool_calls=[_whole(call) for call in calls])


def first_delta(mode: CallMode) -> ChatDelta:
    """Before any text. As long as nobody knows whether there will be any, the content is null."""
    return ChatDelta(role="assistant", content="" if mode == "none" else None)


def delta(event: AnswerEvent) -> ChatDelta:
    """One event in a stream."""
    match event:
        case ContentDelta(text):
            return ChatDelta(content=text)
        case CallStart(index, call_id, name):
            function = FunctionDelta(name=name, arguments="")
            call = ToolCallDelta(index=index, id=call_id, type="function", function=function)
            return ChatDelta(tool_calls=[call])
        case ArgumentsDelta(index, text):
            call = ToolCallDelta(index=index, function=FunctionDelta(arguments=text))
            return ChatDelta(tool_calls=[call])


def finish_reason(reason: FinishReason, num_calls: int, mode: CallMode) -> ChatFinishReason:
    """As OpenAI has it: a call that the model chose to make ends an answer by `tool_calls`; where
    the request named the function, the answer simply stops."""
    if reason == "stop" and num_calls and mode != "named":
        return "tool_calls"
    return reason


def _whole(call: FunctionCall) -> AnswerToolCall:
    function = AnswerFunction(name=call.name, arguments=call.arguments)
    return AnswerToolCall(id=call.call_id, function=function)
