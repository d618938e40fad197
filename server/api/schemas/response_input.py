"""`/v1/responses`: the items that a request may have."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from server.api.schemas.fields import RequestModel, Text, Unsupported, string_or_list
from server.api.schemas.tools import FunctionName

ItemId = Annotated[Text, Field(min_length=1, max_length=128)]
CallId = Annotated[Text, Field(min_length=1, max_length=128)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


def _refuse_other_parts(value: str) -> str:
    if value != "input_text":
        what = "Only parts of types 'input_text', 'output_text' and 'refusal' are supported"
        raise PydanticCustomError("unsupported_field", what)
    return value


class InputText(RequestModel):
    type: Annotated[str, AfterValidator(_refuse_other_parts)]
    text: Text
    prompt_cache_breakpoint: Unsupported = None


class OutputText(RequestModel):
    """An earlier answer's text, as it was sent."""

    type: Literal["output_text"]
    text: Text
    annotations: Unsupported = None
    logprobs: list[Any] | None = None
    """Part of the answer that comes back; says nothing to the model."""
    parsed: Any = None
    """What the client's `parse` made of the text."""


class Refusal(RequestModel):
    type: Literal["refusal"]
    refusal: Text
    """Shown to the model as what the assistant said."""


# The tags are no keys of a body: errors leave them out of the path.
def _kind_of_part(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return {"output_text": "output_part", "refusal": "refusal_part"}.get(str(kind), "input_part")


Part = Annotated[
    Annotated[InputText, Tag("input_part")]
    | Annotated[OutputText, Tag("output_part")]
    | Annotated[Refusal, Tag("refusal_part")],
    Discriminator(_kind_of_part),
]
MessageContent = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[Part], Field(min_length=1), Tag("list")],
    Discriminator(string_or_list),
]
CallOutput = Annotated[
    Annotated[Text, Tag("string")] | Annotated[list[InputText], Field(min_length=1), Tag("list")],
    Discriminator(string_or_list),
]


class MessageItem(RequestModel):
    """Which parts a role can have is checked in `api/responses/items.py`."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: MessageContent
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Unsupported = None


class FunctionCallItem(RequestModel):
    """A call that the model made earlier."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Text
    id: ItemId | None = None
    status: ItemStatus | None = None
    namespace: Unsupported = None
    caller: Unsupported = None


class FunctionCallOutputItem(RequestModel):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: CallOutput
    id: ItemId | None = None
    status: ItemStatus | None = None
    name: FunctionName | None = None
    """The function's; shown to the model by some templates."""
    namespace: Unsupported = None
    caller: Unsupported = None


class ItemReference(RequestModel):
    """A stored item, by its id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


def _refuse_item(value: str) -> str:
    what = (
        "Only items of types 'message', 'function_call', 'function_call_output' and"
        " 'item_reference' are supported"
    )
    raise PydanticCustomError("unsupported_field", what)


class OtherItem(RequestModel):
    """Of a type that is not implemented; there is nothing else to say of it."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, AfterValidator(_refuse_item)]


def _kind_of_item(value: object) -> str:
    if not isinstance(value, dict):
        return "message_item"
    match value.get("type"):
        case "function_call":
            return "call_item"
        case "function_call_output":
            return "output_item"
        case "item_reference":
            return "reference_item"
        case "message":
            return "message_item"
        case None:
            return "reference_item" if "id" in value and "role" not in value else "message_item"
        case _:
            return "other_item"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message_item")]
    | Annotated[FunctionCallItem, Tag("call_item")]
    | Annotated[FunctionCallOutputItem, Tag("output_item")]
    | Annotated[ItemReference, Tag("reference_item")]
    | Annotated[OtherItem, Tag("other_item")],
    Discriminator(_kind_of_item),
]

MAX_ITEMS = 10_000

Input = Annotated[
    Annotated[Text, Tag("string")]
    | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS), Tag("list")],
    Discriminator(string_or_list),
]
