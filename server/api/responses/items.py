"""Items that a request sends → items as they are kept."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from server.api.generation.json_schema import check_values
from server.api.http.errors import shown
from server.api.responses.schema.input import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    InputText,
    ItemReference,
    MessageItem,
    OutputText,
    Part,
    Reasoning,
    Refusal,
)
from server.api.responses.schema.items import (
    ITEM,
    AnyItem,
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    InputTextContent,
    OutputMessage,
    OutputTextContent,
    ReasoningItem,
    RefusalContent,
)
from server.api.responses.store import KeptItem
from server.errors import InvalidRequestError, NotFoundError


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def kept(item: AnyItem) -> KeptItem:
    return KeptItem(item.id, item.model_dump_json().encode())


def read(items: Sequence[KeptItem]) -> list[AnyItem]:
    return [ITEM.validate_json(item.json) for item in items]


def input_items(
    given: str | Sequence[InputItem] | None, referred: Mapping[str, KeptItem]
) -> list[AnyItem]:
    """The items of a request, each with an id: its own, or a new one.

    Args:
        referred: The items that it refers to, by id; those that are kept.

    Raises:
        InvalidRequestError: a part doesn't belong into its message.
        NotFoundError: a reference to an item that is not kept here.
    """
    if isinstance(given, str):
        content = [InputTextContent(text=given)]
        return [InputMessage(id=new_id("msg"), role="user", content=content)]
    return [_item(item, f"input.{index}", referred) for index, item in enumerate(given or ())]


def _item(item: InputItem, path: str, referred: Mapping[str, KeptItem]) -> AnyItem:
    match item:
        case MessageItem():
            return _message(item, path)
        case FunctionCallItem():
            return FunctionCall(
                id=item.id or new_id("fc"),
                call_id=item.call_id,
                name=item.name,
                arguments=_arguments(item.arguments, f"{path}.arguments"),
                status=item.status or "completed",
            )
        case FunctionCallOutputItem(output=output):
            texts = output if isinstance(output, str) else [_input_text(part) for part in output]
            return FunctionCallOutput(
                id=item.id or new_id("fco"),
                call_id=item.call_id,
                output=texts,
                status=item.status or "completed",
                name=item.name,
            )
        case Reasoning():
            return _reasoning(item, path)
        case ItemReference():
            return _referenced(item.id, path, referred)
        case _:
            raise InvalidRequestError(f"{path}.type: is not supported", f"{path}.type")


def _arguments(given: str | dict[str, Any], path: str) -> str:
    """Arguments as calls keep them: text."""
    if isinstance(given, str):
        return given
    check_values(given, path)
    return json.dumps(given, ensure_ascii=False)


def _reasoning(item: Reasoning, path: str) -> ReasoningItem:
    check_values({"summary": item.summary, "content": item.content}, path)
    return ReasoningItem(
        id=item.id or new_id("rs"),
        summary=item.summary or [],
        content=item.content,
        encrypted_content=item.encrypted_content,
        status=item.status,
    )


def _referenced(item_id: str, path: str, referred: Mapping[str, KeptItem]) -> AnyItem:
    found = referred.get(item_id)
    if found is None:
        raise NotFoundError(
            f"{path}.id: item {shown(item_id)} is not found; only items of stored responses are",
            f"{path}.id",
        )
    return ITEM.validate_json(found.json)


def _message(item: MessageItem, path: str) -> AnyItem:
    item_id, status = item.id or new_id("msg"), item.status or "completed"
    if item.role == "assistant":
        parts: list[OutputTextContent | RefusalContent]
        if isinstance(item.content, str):
            parts = [OutputTextContent(text=item.content)]
        else:
            parts = [_answer_part(part) for part in item.content or ()]
        return OutputMessage(id=item_id, status=status, content=parts)
    if isinstance(item.content, str):
        texts = [InputTextContent(text=item.content)]
    else:
        texts = [
            _input_part(part, f"{path}.content.{index}.type")
            for index, part in enumerate(item.content or ())
        ]
    return InputMessage(id=item_id, role=item.role, status=status, content=texts)


def _answer_part(part: Part) -> OutputTextContent | RefusalContent:
    if isinstance(part, Refusal):
        return RefusalContent(refusal=part.refusal)
    # Some clients send an assistant's text as input_text too.
    return OutputTextContent(text=part.text)


def _input_part(part: Part, path: str) -> InputTextContent:
    if isinstance(part, OutputText | Refusal):
        message = f"{path}: only messages of role 'assistant' have parts of type {part.type!r}"
        raise InvalidRequestError(message, path)
    return _input_text(part)


def _input_text(part: InputText) -> InputTextContent:
    return InputTextContent(text=part.text)
