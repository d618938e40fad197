"""A message's request → a chat's request → jobs for the engine.

A message is an answer to a chat. Errors that name the chat's fields name the message's instead.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from server.api.chat.from_others import chat_of, rename_beginning, renamed_fields
from server.api.chat.schema import ChatRequest
from server.api.chat.translate import chat_jobs, chat_prompt
from server.api.deps import Parts
from server.api.generation.job_group import JobGroup
from server.api.generation.json_schema import check_values, is_large
from server.api.generation.schema.common import SamplingFields
from server.api.generation.schema.structured import StructuredFields
from server.api.generation.schema.tools import OtherTool
from server.api.generation.structured import asked_by_names
from server.api.http.errors import shown
from server.api.messages.conversation import ChatMessages, chat_messages
from server.api.messages.schema.request import (
    AnyChoice,
    AutoChoice,
    CustomTool,
    MessageFields,
    MessageRequest,
    NamedChoice,
    NoChoice,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolChoice,
    Tools,
)
from server.errors import ContextLengthError, InvalidRequestError, UnsupportedFieldError
from server.text.chat_template import ChatTemplate
from server.text.thinking.switch import Effort

_Json = dict[str, Any]

_MANY_BLOCKS = 1_000

_RENAMED: Final = (
    (r"stop", "stop_sequences"),
    (r"reasoning_effort", "thinking"),
    (r"thinking_token_budget", "thinking.budget_tokens"),
    (r"response_format\.json_schema\.schema", "output_config.format.schema"),
    (r"response_format", "output_config.format"),
    (r"tools\.(\d+)\.function\.parameters", r"tools.\1.input_schema"),
    (r"tools\.(\d+)\.function", r"tools.\1"),
    (r"tool_choice\.function", "tool_choice"),
)
"""Beginnings of the chat's field names, as patterns, and what they are here."""


async def message_jobs(body: MessageRequest, parts: Parts) -> JobGroup:
    """The job of a message. Its answer is as long as was asked for or as the context has room.

    Raises:
        RequestError: the body asks for something that can't be done; errors name its fields.
    """
    chat = await parts.long_work.run(is_long(body), partial(_chat, body))
    with renamed_fields(_field_names(body, chat)):
        request = await parts.long_work.run(is_long(body), partial(_request, body, chat, parts))
        try:
            group = await chat_jobs(request, parts, usual_tokens=body.max_tokens)
        except ContextLengthError as error:
            # Agents look for these words, and then shorten the conversation.
            what = error.message.removeprefix("messages: ")
            raise ContextLengthError(f"prompt is too long: {what}") from None
    return replace(group, id=group.id.replace("chatcmpl-", "msg_"))


async def message_prompt(body: MessageFields, parts: Parts) -> list[int]:
    """The token ids that the model is shown, however many.

    Raises:
        RequestError: the body asks for something that can't be done.
    """
    chat = await parts.long_work.run(is_long(body), partial(_chat, body))
    with renamed_fields(_field_names(body, chat)):
        request = await parts.long_work.run(is_long(body), partial(_request, body, chat, parts))
        return await chat_prompt(request, parts)


def is_long(body: MessageFields) -> bool:
    """Whether going through its blocks and the examples of its tools takes longer than a token of
    another request may wait."""
    tools = [tool for tool in body.tools or () if isinstance(tool, CustomTool)]
    return body.has_more_blocks(_MANY_BLOCKS) or is_large([tool.input_examples for tool in tools])


def _chat(body: MessageFields) -> ChatMessages:
    context = body.context_management
    num_thinking = None if context is None else context.num_kept
    return chat_messages(body.system, body.messages, num_thinking)


def _request(body: MessageFields, chat: ChatMessages, parts: Parts) -> ChatRequest:
    """The request in the chat's terms.

    Raises:
        InvalidRequestError: fields contradict each other.
    """
    if body.speculation is not None and body.speculation.steps:
        raise InvalidRequestError(
            "speculation.steps: only streams of chats and completions have them",
            "speculation.steps",
        )
    if body.stop is not None and body.stop_sequences is not None:
        raise InvalidRequestError("stop: can't be combined with stop_sequences", "stop")
    if not parts.info.drops_other_tools:
        _refuse_other_tools(body.tools)
    same = {
        name: getattr(body, name)
        for name in {**SamplingFields.model_fields, **StructuredFields.model_fields}
    }
    fields: _Json = {
        **same,
        "messages": chat.messages,
        "continue_final_message": chat.continues,
        "stop": body.stop if body.stop_sequences is None else body.stop_sequences,
        "tools": [_tool(tool, f"tools.{index}") for index, tool in enumerate(body.tools or ())],
        "response_format": _response_format(body),
        "reasoning_effort": _effort(body, parts.chat_template),
        "thinking_token_budget": getattr(body.thinking, "budget_tokens", None),
        "chat_template_kwargs": body.chat_template_kwargs,
        **_tool_choice(body.tool_choice),
    }
    return chat_of(fields)


def _refuse_other_tools(tools: Tools | None) -> None:
    for index, tool in enumerate(tools or ()):
        if isinstance(tool, OtherTool):
            path = f"tools.{index}.type"
            reason = "Only tools of type 'custom' are supported; --other-tools drop leaves others"
            raise UnsupportedFieldError(f"{path}: {reason} out, got {shown(tool.type)}", path)


def _tool(tool: CustomTool | OtherTool, path: str) -> object:
    if isinstance(tool, OtherTool):
        return tool
    function = {
        "name": tool.name,
        "description": _description(tool, f"{path}.input_examples"),
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _description(tool: CustomTool, path: str) -> str | None:
    if not tool.input_examples:
        return tool.description
    for index, example in enumerate(tool.input_examples):
        check_values(example, f"{path}.{index}")
    examples = [json.dumps(example, ensure_ascii=False) for example in tool.input_examples]
    return "\n".join([tool.description or "", "Examples of its input:", *examples]).lstrip()


def _tool_choice(choice: ToolChoice | None) -> _Json:
    match choice:
        case AutoChoice() | AnyChoice():
            mode = "auto" if isinstance(choice, AutoChoice) else "required"
            parallel = not choice.disable_parallel_tool_use
            return {"tool_choice": mode, "parallel_tool_calls": parallel}
        case NamedChoice():
            return {"tool_choice": {"type": "function", "function": {"name": choice.name}}}
        case NoChoice():
            return {"tool_choice": "none"}
        case None:
            return {}


def _effort(body: MessageFields, template: ChatTemplate) -> Effort | None:
    """How much the model is to think; None for what it does by itself. One that can't be told not
    to is told to think little: agents switch thinking off for their small requests, whatever the
    model, and would fail with each of these."""
    effort = None if body.output_config is None else body.output_config.effort
    match body.thinking:
        case ThinkingDisabled():
            thinks = template.own_thinking_format is not None
            return "low" if thinks and not template.thinking_switch.can_be_off else "none"
        case ThinkingAdaptive() | ThinkingEnabled():
            return effort or "medium"
        case None:
            return effort


def _is_effort_given(body: MessageFields) -> bool:
    """Whether how much the model is to think is what `output_config` says."""
    is_off = isinstance(body.thinking, ThinkingDisabled)
    return not is_off and body.output_config is not None and body.output_config.effort is not None


def _response_format(body: MessageFields) -> _Json | None:
    new = None if body.output_config is None else body.output_config.format
    if new is not None and body.output_format is not None and new != body.output_format:
        raise InvalidRequestError(
            "output_format: can't be combined with output_config.format", "output_format"
        )
    given = new or body.output_format
    if given is None:
        return None
    name = "output_config.format" if new is not None else "output_format"
    for asked in asked_by_names(body):
        raise InvalidRequestError(f"{asked.field}: can't be combined with {name}", asked.field)
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": given.schema_}}


def _field_names(body: MessageFields, chat: ChatMessages) -> Callable[[str], str]:
    """For `renamed_fields`."""

    def rename(param: str) -> str:
        message = re.match(r"messages\.(\d+)(?:\.tool_calls\.(\d+)|\.(tool_call_id))?", param)
        if message is None:
            return _rename(param, body)
        index, call, is_result = message.groups()
        place = chat.places[int(index)]
        if call is not None:
            return f"{place.calls[int(call)]}.input"
        return f"{place.message}.tool_use_id" if is_result else place.message

    return rename


def _rename(param: str, body: MessageFields) -> str:
    if param == "stop" and body.stop is not None:
        return param
    if param == "reasoning_effort" and _is_effort_given(body):
        return "output_config.effort"
    renamed = rename_beginning(param, _RENAMED)
    if body.output_config is None or body.output_config.format is None:
        return rename_beginning(renamed, ((r"output_config\.format", "output_format"),))
    return renamed
