"""A request's place in a conversation: what came before it, and all of it as a chat's messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from server.api.deps import Parts
from server.api.generation.json_schema import is_large
from server.api.http.errors import shown
from server.api.responses.items import input_items, kept, read
from server.api.responses.schema.input import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    ItemReference,
    MessageItem,
    Part,
    Reasoning,
    Refusal,
)
from server.api.responses.schema.items import (
    AnyItem,
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    OutputMessage,
    OutputTextContent,
    ReasoningItem,
    ReasoningTextContent,
    RefusalContent,
)
from server.api.responses.schema.request import InputTokensRequest, ResponseFields, ResponseRequest
from server.api.responses.store import KeptItem, KeptResponse, Owner, ResponseStore, Turn
from server.errors import InvalidRequestError, PreviousResponseError
from server.text.tokenizer import LONG_TEXT

Message = dict[str, Any]
"""A message as bodies of `/v1/chat/completions` have it."""

_ITEM_LENGTH = 64
"""Characters that take as long as what an item costs beside its text."""


@dataclass(frozen=True, slots=True)
class ChatMessages:
    """A conversation as a chat."""

    messages: list[Message]
    places: list[str]
    """The field of the request that each came from."""


@dataclass(frozen=True, slots=True)
class Conversation:
    turn: Turn
    """Its last turn, which has no answer yet."""
    chat: ChatMessages
    is_long: bool
    """Whether going through it takes longer than a token of another request may wait."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a request needs of the store."""

    parent: Turn | None
    """The last turn before it."""
    referred: Mapping[str, KeptItem]
    """The items that it refers to, by id."""


async def read_conversation(
    body: ResponseRequest | InputTokensRequest, parts: Parts, owner: Owner
) -> Conversation:
    """Reads a request together with the responses before it, long ones in a thread.

    Raises:
        PreviousResponseError: the response to go on from is not kept here.
        RequestError: that one has no answer; a bad item; an item that comes twice.
    """
    # The store is the event loop's; nothing in a thread may ask it.
    found = _look_up(body, parts.response_store, owner)
    is_long = _is_long(body, found)
    return await parts.long_work.run(is_long, partial(_conversation, body, found, is_long))


def _look_up(
    body: ResponseRequest | InputTokensRequest, store: ResponseStore, owner: Owner
) -> _Kept:
    parent = _parent(body.previous_response_id, store, owner)
    referred: dict[str, KeptItem] = {}
    for item in _given_items(body):
        found = store.find_item(owner, item.id) if isinstance(item, ItemReference) else None
        if found is not None:
            referred[found.id] = found
    return _Kept(parent, referred)


def _given_items(body: ResponseRequest | InputTokensRequest) -> Sequence[InputItem]:
    return body.input if isinstance(body.input, list) else ()


def _is_long(body: ResponseRequest | InputTokensRequest, found: _Kept) -> bool:
    """See `Conversation.is_long`. Goes through no more than about what is not long."""
    given = _given_items(body)
    length = _ITEM_LENGTH * len(given) + sum(len(item.json) for item in found.referred.values())
    if length > LONG_TEXT or is_long_turn(found.parent):
        return True
    text = body.input if isinstance(body.input, str) else None
    return is_large(body.instructions, text, [_values(item) for item in given])


def is_long_turn(last: Turn | None) -> bool:
    """Whether going through the turns up to one takes longer than a token of another request may
    wait."""
    length, turn = 0, last
    while turn is not None:
        for item in turn.items():
            length += len(item.json)
            if length > LONG_TEXT:
                return True
        turn = turn.parent
    return False


def _values(item: InputItem) -> list[Any]:
    """What there is to go through of an item, in types of JSON."""
    match item:
        case MessageItem(content=content) | FunctionCallOutputItem(output=content):
            return [content] if isinstance(content, str) else [_text(p) for p in content or ()]
        case FunctionCallItem(arguments=arguments):
            return [arguments]
        case Reasoning():
            return [item.summary, item.content, item.encrypted_content]
        case _:
            return []


def _text(part: Part) -> str:
    return part.refusal if isinstance(part, Refusal) else part.text


def _conversation(
    body: ResponseRequest | InputTokensRequest, found: _Kept, is_long: bool
) -> Conversation:
    parent = found.parent
    earlier = [] if parent is None else [item for turn in parent.chain() for item in turn.items()]
    given = input_items(body.input, found.referred)
    _check_ids({item.id for item in earlier}, given)
    turn = Turn(parent, [kept(item) for item in given])
    return Conversation(turn, _chat_messages(body, read(earlier), given), is_long)


def _parent(response_id: str | None, store: ResponseStore, owner: Owner) -> Turn | None:
    if response_id is None:
        return None
    field = "previous_response_id"
    previous: KeptResponse | None = store.get(owner, response_id)
    if previous is None:
        raise PreviousResponseError(f"{field}: response {shown(response_id)} is not found", field)
    if previous.status not in ("completed", "incomplete"):
        state = "is still being made" if previous.status == "in_progress" else previous.status
        what = {"failed": "has failed", "cancelled": "was cancelled"}.get(state, state)
        raise InvalidRequestError(f"{field}: response {shown(response_id)} {what}", field)
    return previous.turn


def _check_ids(known: set[str], given: Sequence[AnyItem]) -> None:
    for index, item in enumerate(given):
        if item.id in known:
            raise InvalidRequestError(
                f"input.{index}.id: item {shown(item.id)} is in this conversation already",
                f"input.{index}.id",
            )
        known.add(item.id)


def _chat_messages(
    body: ResponseFields, earlier: Sequence[AnyItem], given: Sequence[AnyItem]
) -> ChatMessages:
    found = ChatMessages([], [])
    if body.instructions is not None:
        _append(found, {"role": "system", "content": body.instructions}, "instructions")
    thoughts: list[str] = []
    for item in earlier:
        _add(found, item, "previous_response_id", thoughts)
    for index, item in enumerate(given):
        _add(found, item, f"input.{index}", thoughts)
    if not found.messages:
        raise InvalidRequestError("input: there is no message to answer", "input")
    return found


def _append(found: ChatMessages, message: Message, place: str) -> None:
    found.messages.append(message)
    found.places.append(place)


def _add(found: ChatMessages, item: AnyItem, place: str, thoughts: list[str]) -> None:
    """Adds an item.

    Args:
        thoughts: Those of the reasoning items right before it, which become part of what the
            assistant says next.
    """
    match item:
        case InputMessage():
            texts = [_text_part(part.text) for part in item.content]
            _append(found, {"role": item.role, "content": texts}, place)
        case OutputMessage():
            texts = [_text_part(_shown_text(part)) for part in item.content]
            _append(found, _assistants(texts, thoughts), place)
        case FunctionCall():
            _add_call(found, item, place, thoughts)
        case FunctionCallOutput(output=output):
            content = output if isinstance(output, str) else [_text_part(p.text) for p in output]
            result = {"role": "tool", "tool_call_id": item.call_id, "content": content}
            _append(found, {**result, "name": item.name}, place)
        case ReasoningItem():
            thoughts += _texts_of(item)
            return
    thoughts.clear()


def _texts_of(item: ReasoningItem) -> list[str]:
    """What a reasoning item says; nothing where another server has encrypted it."""
    parts = [part for part in item.content or () if isinstance(part, ReasoningTextContent)]
    return [part.text for part in parts]


def _assistants(content: list[dict[str, str]] | None, thoughts: list[str]) -> Message:
    said: Message = {"role": "assistant", "content": content}
    return {**said, "reasoning_content": "\n\n".join(thoughts)} if thoughts else said


def _add_call(found: ChatMessages, item: FunctionCall, place: str, thoughts: list[str]) -> None:
    """Calls belong to the assistant's message before them, if there is one: it is one turn."""
    function = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": function}
    last = found.messages[-1] if found.messages else None
    if last is None or last["role"] != "assistant":
        _append(found, _assistants(None, thoughts), place)
    elif thoughts:
        earlier = last.get("reasoning_content")
        last["reasoning_content"] = "\n\n".join([earlier, *thoughts] if earlier else thoughts)
    found.messages[-1].setdefault("tool_calls", []).append(call)


def _shown_text(part: OutputTextContent | RefusalContent) -> str:
    return part.refusal if isinstance(part, RefusalContent) else part.text


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
