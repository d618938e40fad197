"""A request's messages, whose content is blocks, as a chat's messages.

Neighbouring turns of one role are one turn. Results of calls, which are blocks of the user's here,
are messages of their own there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.messages.schema.blocks import (
    Block,
    MessageParam,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from server.errors import InvalidRequestError

Message = dict[str, Any]
"""A message as bodies of `/v1/chat/completions` have it; its content is a list of texts until the
chat is complete, and so are its thoughts."""


_THOUGHTS = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chat's message comes from, as paths in the request's body."""

    message: str
    calls: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class ChatMessages:
    messages: list[Message] = field(default_factory=list[Message])
    places: list[Place] = field(default_factory=list[Place])

    @property
    def continues(self) -> bool:
        """The answer goes on where the last message ends."""
        return self.messages[-1]["role"] == "assistant"


def chat_messages(
    system: str | Sequence[TextBlock] | None,
    messages: Sequence[MessageParam],
    num_thinking: int | None = None,
) -> ChatMessages:
    """The conversation as a chat.

    Args:
        num_thinking: The latest turns with thoughts that keep them; None for all.

    Raises:
        InvalidRequestError: a block doesn't belong into its message; the last message is the
            assistant's, and no text.
    """
    chat = ChatMessages()
    for block in _blocks(system) if system else ():
        _add(chat, "system", block, "system", "system")
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        for number, block in enumerate(_blocks(message.content)):
            place = f"{path}.content.{number}"
            _check_role(block, message.role, place)
            _add(chat, message.role, block, path, place)
    _check_end(chat)
    _leave_out_thoughts(chat, num_thinking)
    for message in chat.messages:
        message["content"] = "\n".join(message["content"])
        if _THOUGHTS in message:
            message[_THOUGHTS] = "\n\n".join(filter(None, message[_THOUGHTS]))
    return chat


def _blocks(content: str | Sequence[Block]) -> Sequence[Block]:
    """The blocks of a content; one at least, so that a turn that says nothing is a turn."""
    if isinstance(content, str):
        return [_text_block(content)]
    return content or [_text_block("")]


def _text_block(text: str) -> TextBlock:
    return TextBlock(type="text", text=text)


def _check_role(block: Block, role: str, place: str) -> None:
    if isinstance(block, TextBlock):
        return
    owner = "user" if isinstance(block, ToolResultBlock) else "assistant"
    if role != owner:
        raise InvalidRequestError(
            f"{place}.type: only messages of role {owner!r} have blocks of type {block.type!r}",
            f"{place}.type",
        )


def _check_end(chat: ChatMessages) -> None:
    """A conversation that ends with the assistant's text is gone on with in the middle of it."""
    last, place = chat.messages[-1], chat.places[-1].message
    if last["role"] == "assistant" and ("tool_calls" in last or not any(last["content"])):
        raise InvalidRequestError(
            f"{place}: ends the conversation; the assistant's last message can only be a text,"
            " with which the answer then goes on",
            place,
        )


def _leave_out_thoughts(chat: ChatMessages, num_thinking: int | None) -> None:
    if num_thinking is not None:
        turns = [message for message in chat.messages if _THOUGHTS in message]
        for message in turns[:-num_thinking]:
            del message[_THOUGHTS]


def _add(chat: ChatMessages, role: str, block: Block, path: str, place: str) -> None:
    match block:
        case TextBlock(text=text):
            _turn(chat, role, path)["content"].append(text)
        case ThinkingBlock(thinking=thinking):
            _turn(chat, role, path).setdefault(_THOUGHTS, []).append(thinking)
        case ToolUseBlock():
            _add_call(chat, block, path, place)
        case ToolResultBlock():
            _append(chat, _result(block), place)
        case _:  # thoughts that can't be read
            _turn(chat, role, path)


def _append(chat: ChatMessages, message: Message, place: str) -> Message:
    chat.messages.append(message)
    chat.places.append(Place(place))
    return message


def _turn(chat: ChatMessages, role: str, path: str) -> Message:
    """The last message if it is the role's, else a new one."""
    if chat.messages and chat.messages[-1]["role"] == role:
        return chat.messages[-1]
    return _append(chat, {"role": role, "content": []}, path)


def _add_call(chat: ChatMessages, block: ToolUseBlock, path: str, place: str) -> None:
    function = {"name": block.name, "arguments": block.input}
    call = {"id": block.id, "type": "function", "function": function}
    _turn(chat, "assistant", path).setdefault("tool_calls", []).append(call)
    chat.places[-1].calls.append(place)


def _result(block: ToolResultBlock) -> Message:
    blocks = _blocks(block.content or "")
    texts = [each.text for each in blocks if isinstance(each, TextBlock)]
    if block.is_error:
        texts[0] = f"Error: {texts[0]}"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": texts}
