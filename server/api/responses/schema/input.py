"""`/v1/responses`: the items that a request may have."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from server.api.generation.schema.tools import CallArguments
from server.api.schema.fields import (
    MAX_PARTS,
    Advisory,
    Name,
    RequestModel,
    Text,
    Unsupported,
    branch,
    chosen_by,
    keyword_field,
    refuse_unless,
    string_or_list,
)

ItemId = Annotated[Text, Field(min_length=1, max_length=128)]
CallId = Annotated[Text, Field(min_length=1, max_length=128)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

MAX_ITEMS = 10_000


def _refuse_other_parts(value: str) -> str:
    if value != "input_text":
        what = "Only parts of types 'input_text', 'output_text' and 'refusal' are supported"
        raise PydanticCustomError("unsupported_field", what)
    return value


class InputText(RequestModel):
    type: Annotated[str, AfterValidator(_refuse_other_parts)]
    text: Text
    prompt_cache_breakpoint: Advisory = None


class OutputText(RequestModel):
    """An earlier answer's text, as it was sent."""

    type: Literal["output_text"]
    text: Text
    annotations: Advisory = None
    """This field and those that follow are what answers, and clients, add to the text."""
    logprobs: Advisory = None
    parsed: Advisory = None


class Refusal(RequestModel):
    type: Literal["refusal"]
    refusal: Text
    """Shown to the model as what the assistant said."""


def _kind_of_part(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return str(kind) if kind in ("output_text", "refusal") else "input_text"


Part = Annotated[
    Annotated[InputText, branch("input_text")]
    | Annotated[OutputText, branch("output_text")]
    | Annotated[Refusal, branch("refusal")],
    chosen_by(_kind_of_part),
]
MessageContent = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[list[Part], Field(max_length=MAX_PARTS), branch("list")],
    chosen_by(string_or_list),
]
CallOutput = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[list[InputText], Field(max_length=MAX_PARTS), branch("list")],
    chosen_by(string_or_list),
]


class MessageItem(RequestModel):
    """Which parts a role can have is checked in `api/responses/items.py`."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: MessageContent | None
    """Null and an empty list say nothing, like an empty text."""
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Advisory = None
    """How OpenAI labels an answer."""


class CallFields(RequestModel):
    """Fields of calls and of their results that OpenAI's other tools need."""

    async_: Annotated[Any, keyword_field("async"), refuse_unless(False)] = None
    namespace: Unsupported = None
    caller: Annotated[Any, refuse_unless({"type": "direct"})] = None
    created_by: Advisory = None


class FunctionCallItem(CallFields):
    """A call that the model made earlier."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: CallArguments
    id: ItemId | None = None
    status: ItemStatus | None = None
    parsed_arguments: Advisory = None
    """What the client's `parse` made of the arguments."""


class FunctionCallOutputItem(CallFields):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: CallOutput
    id: ItemId | None = None
    status: ItemStatus | None = None
    name: Name | None = None
    """The function's; shown to the model by some templates."""


class Reasoning(RequestModel):
    """What a model thought earlier. The `reasoning_text` of its content is shown to this one as
    thoughts of the assistant; the summary, and what another server has encrypted, say nothing."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: Annotated[list[Any], Field(max_length=MAX_ITEMS)] | None = None
    content: Annotated[list[Any], Field(max_length=MAX_ITEMS)] | None = None
    encrypted_content: Text | None = None
    status: ItemStatus | None = None


class ItemReference(RequestModel):
    """A stored item, by its id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


def _refuse_item(value: str) -> str:
    what = (
        "Only items of types 'message', 'function_call', 'function_call_output', 'reasoning' and"
        " 'item_reference' are supported"
    )
    raise PydanticCustomError("unsupported_field", what)


class OtherItem(RequestModel):
    """An item of a type that is not implemented; there is nothing else to say of it."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, AfterValidator(_refuse_item)]


def _kind_of_item(value: object) -> str:
    if not isinstance(value, dict):
        return "message"
    match value.get("type"):
        case "function_call" | "function_call_output" | "item_reference" | "message" as kind:
            return kind
        case "reasoning":
            return "reasoning"
        case None:
            return "item_reference" if "id" in value and "role" not in value else "message"
        case _:
            return "other"


InputItem = Annotated[
    Annotated[MessageItem, branch("message")]
    | Annotated[FunctionCallItem, branch("function_call")]
    | Annotated[FunctionCallOutputItem, branch("function_call_output")]
    | Annotated[ItemReference, branch("item_reference")]
    | Annotated[Reasoning, branch("reasoning")]
    | Annotated[OtherItem, branch("other")],
    chosen_by(_kind_of_item),
]

Input = Annotated[
    Annotated[Text, branch("string")]
    | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS), branch("list")],
    chosen_by(string_or_list),
]
