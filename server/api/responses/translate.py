"""A response's request → a chat's request → jobs for the engine.

A response is an answer to a chat. Errors that name the chat's fields name the response's instead.
With `truncation: auto` a conversation that is too long loses its oldest items until it fits.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from server.api.chat.from_others import chat_of, rename_beginning, renamed_fields
from server.api.chat.schema import ChatRequest
from server.api.chat.translate import chat_jobs, chat_prompt
from server.api.deps import Parts
from server.api.generation.job_group import JobGroup
from server.api.generation.schema.common import SamplingFields
from server.api.generation.schema.structured import JsonObjectFormat, StructuredFields, TextFormat
from server.api.generation.structured import asked_by_names
from server.api.responses.conversation import ChatMessages, Conversation
from server.api.responses.schema.request import (
    AllowedToolsChoice,
    ResponseFields,
    ResponseRequest,
    ResponseSchemaFormat,
    ResponseTool,
    ResponseToolChoice,
    ResponseTools,
    ToolReference,
)
from server.errors import ContextLengthError, InvalidRequestError

_Json = dict[str, Any]

_RENAMED: Final = (
    (r"messages", "input"),
    (r"max_completion_tokens", "max_output_tokens"),
    (r"reasoning_effort", "reasoning.effort"),
    (r"response_format\.json_schema", "text.format"),
    (r"response_format", "text.format"),
    (r"tools\.(\d+)\.function", r"tools.\1"),
    (r"tool_choice\.allowed_tools\.tools\.(\d+)\.function", r"tool_choice.tools.\1"),
    (r"tool_choice\.function", "tool_choice"),
)
"""Beginnings of the chat's field names, as patterns, and what they are here."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked, as a chat."""

    chat: ChatMessages
    request: ChatRequest
    """Its messages are the chat's, one to one."""

    def end(self, begin: int) -> "_Asked":
        """The same of the conversation from a message on, behind all its system messages. Messages
        that were valid are not looked at again: a conversation may have thousands."""
        kept = [i for i in range(begin) if _is_system(self.chat, i)]
        kept += range(begin, len(self.chat.messages))
        chat = ChatMessages(
            [self.chat.messages[i] for i in kept], [self.chat.places[i] for i in kept]
        )
        messages = [self.request.messages[i] for i in kept]
        return _Asked(chat, self.request.model_copy(update={"messages": messages}))


async def response_jobs(body: ResponseRequest, talk: Conversation, parts: Parts) -> JobGroup:
    """The jobs of a response; with `truncation: auto` of the longest end of its conversation that
    fits the context, behind its system messages.

    Raises:
        RequestError: the body asks for something that can't be done; errors name its fields.
    """
    asked = _Asked(talk.chat, await _request(body, talk, parts))
    try:
        return await _jobs(asked, parts)
    except ContextLengthError as error:
        if body.truncation != "auto":
            raise
        return await _jobs_of_an_end(asked, parts, error)


async def response_prompt(body: ResponseFields, talk: Conversation, parts: Parts) -> list[int]:
    """The token ids that the model is shown, however many.

    Raises:
        RequestError: the body asks for something that can't be done; errors name its fields.
    """
    request = await _request(body, talk, parts)
    with renamed_fields(field_names(talk.chat)):
        return await chat_prompt(request, parts)


async def _request(body: ResponseFields, talk: Conversation, parts: Parts) -> ChatRequest:
    with renamed_fields(field_names(talk.chat)):
        return await parts.long_work.run(talk.is_long, partial(chat_request, body, talk.chat))


async def _jobs_of_an_end(asked: _Asked, parts: Parts, error: ContextLengthError) -> JobGroup:
    for begins in (_user_turns(asked.chat), _turns(asked.chat)):
        found = await _longest_end(asked, parts, begins)
        if found is not None:
            return found
    raise error


async def _longest_end(asked: _Asked, parts: Parts, begins: list[int]) -> JobGroup | None:
    """Finds the longest end that fits, by bisection: each try costs a tokenization.

    Args:
        begins: Places where an end may begin, in order.
    """
    found: JobGroup | None = None
    low, high = 0, len(begins)
    while low < high:
        middle = (low + high) // 2
        try:
            found = await _jobs(asked.end(begins[middle]), parts)
            high = middle
        except ContextLengthError:
            low = middle + 1
    return found


async def _jobs(asked: _Asked, parts: Parts) -> JobGroup:
    with renamed_fields(field_names(asked.chat)):
        return await chat_jobs(asked.request, parts)


def _is_system(chat: ChatMessages, index: int) -> bool:
    return chat.messages[index]["role"] in ("system", "developer")


def _user_turns(chat: ChatMessages) -> list[int]:
    """Indices of the user's messages. Most chat templates want one of these to come first."""
    return [i for i, message in enumerate(chat.messages) if message["role"] == "user"]


def _turns(chat: ChatMessages) -> list[int]:
    """Indices of all messages where a conversation may begin; a tool's result needs its call."""
    return [
        index
        for index, message in enumerate(chat.messages)
        if message["role"] != "tool" and not _is_system(chat, index)
    ]


def chat_request(body: ResponseFields, chat: ChatMessages) -> ChatRequest:
    """The request in the chat's terms.

    Raises:
        InvalidRequestError: fields contradict each other.
    """
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options: needs stream to be true", "stream_options")
    if body.top_logprobs and not body.with_logprobs:
        raise InvalidRequestError(
            "top_logprobs: needs include to have 'message.output_text.logprobs'", "top_logprobs"
        )
    if body.speculation is not None and body.speculation.steps:
        raise InvalidRequestError(
            "speculation.steps: only streams of chats and completions have them",
            "speculation.steps",
        )
    _check_form(body)
    shared = {**SamplingFields.model_fields, **StructuredFields.model_fields}
    same = {name: getattr(body, name) for name in shared}
    fields: _Json = {
        **same,
        "messages": chat.messages,
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": body.with_logprobs,
        "top_logprobs": body.top_logprobs if body.with_logprobs else None,
        "tools": _tools(body.tools),
        "tool_choice": _tool_choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
        "thinking_token_budget": body.thinking_token_budget,
        "chat_template_kwargs": body.chat_template_kwargs,
        "response_format": _response_format(body),
    }
    return chat_of(fields)


def _check_form(body: ResponseFields) -> None:
    """Refuses `text.format` beside other fields that constrain the answer. The chat would name
    `response_format` in its error, which is not the name here."""
    if body.text is None or body.text.format in (None, TextFormat(type="text")):
        return
    asked = asked_by_names(body)
    if asked:
        name = asked[0].field
        raise InvalidRequestError(f"{name}: can't be combined with text.format", name)


def is_strict(tool: ResponseTool) -> bool:
    """Whether a function is strict. Unlike in chats, functions here are strict by default, as
    OpenAI's are."""
    return tool.strict is not False


def _tools(tools: ResponseTools | None) -> list[Any] | None:
    if tools is None:
        return None
    return [_tool(tool) if isinstance(tool, ResponseTool) else tool for tool in tools]


def _tool(tool: ResponseTool) -> _Json:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": is_strict(tool),
    }
    return {"type": "function", "function": function}


def _tool_choice(choice: ResponseToolChoice | None) -> object:
    match choice:
        case ToolReference():
            return _named(choice)
        case AllowedToolsChoice():
            tools = [_named(tool) for tool in choice.tools]
            allowed = {"mode": choice.mode, "tools": tools}
            return {"type": "allowed_tools", "allowed_tools": allowed}
        case _:
            return choice


def _named(tool: ToolReference) -> _Json:
    return {"type": "function", "function": {"name": tool.name}}


def _response_format(body: ResponseFields) -> _Json | None:
    given = None if body.text is None else body.text.format
    if given is None:
        return None
    if isinstance(given, JsonObjectFormat):
        return {"type": given.type, "schema": given.schema_}
    if not isinstance(given, ResponseSchemaFormat):
        return {"type": given.type}
    spec = {"name": given.name, "description": given.description, "schema": given.schema_}
    return {"type": "json_schema", "json_schema": {**spec, "strict": given.strict}}


def field_names(chat: ChatMessages) -> Callable[[str], str]:
    """For `renamed_fields`."""

    def rename(param: str) -> str:
        message = re.match(r"messages\.(\d+)(\.|$)", param)
        if message is None:
            return rename_beginning(param, _RENAMED)
        place = chat.places[int(message[1])]
        is_call_id = param.endswith(".tool_call_id") and place.startswith("input.")
        return f"{place}.call_id" if is_call_id else place

    return rename
