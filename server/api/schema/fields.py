"""Building blocks of schemas: strict base model, field types, unions, unsupported fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError


def _fail_fast(schema: Any) -> None:
    """Ends the validation of each list with its first wrong entry: only one error is answered, and
    a list may have a million."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list):
        for part in schema:
            _fail_fast(part)


class RequestModel(BaseModel):
    """Base of everything a client sends: `"1"` is no number, `true` is no integer, NaN is no
    value, and an unknown field is an error, because ignoring it would change what was meant."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _fail_fast(schema)
        return schema


def _is_none(value: object) -> bool:
    return value is None


T = TypeVar("T")

Omittable = Annotated[T | None, Field(exclude_if=_is_none)]
"""A field of an answer that is left out of its JSON where it is None."""


def check_utf8(value: str) -> str:
    # JSON can carry half a surrogate pair ("\ud800"), which no tokenizer takes.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Input should be valid Unicode") from None
    return value


Text = Annotated[str, AfterValidator(check_utf8)]
"""A string that can be encoded as UTF-8."""


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
"""Name of a function or a schema; it needs no escaping anywhere. OpenAI's limit is 64, Anthropic's
128: agents make the names of tools of those of servers."""


_BRANCH = "<branch {}>"
"""How error locations write a branch of a union: unlike a field of any body."""


def branch(name: str) -> Tag:
    """Names a branch of a union."""
    return Tag(_BRANCH.format(name))


def chosen_by(choose: Callable[[object], str]) -> Discriminator:
    """Picks a union's branch, by its name, before the value is looked into: an error then speaks of
    one branch and not of all."""
    return Discriminator(lambda value: _BRANCH.format(choose(value)))


def is_branch(part: object) -> bool:
    """Whether a part of an error's location is a branch of a union, and no field of the body."""
    return isinstance(part, str) and part.startswith("<branch ") and part.endswith(">")


def string_or_list(value: object) -> str:
    """Picks the branch of a union for `chosen_by`."""
    return "list" if isinstance(value, list) else "string"


UNKNOWN_TYPE = "unknown_type"
"""Pydantic's error type where an object's `type` names no branch of its union."""


def by_type(*names: str) -> Discriminator:
    """Picks the branch of a union of objects by their field `type`, which is the branch's name."""

    def choose(value: object) -> str | None:
        if isinstance(value, Mapping):
            kind = cast("Mapping[str, object]", value).get("type")
        else:
            kind = getattr(value, "type", None)  # a model that was built here
        return _BRANCH.format(kind) if isinstance(kind, str) and kind in names else None

    listed = ", ".join(map(repr, names))
    return Discriminator(
        choose,
        custom_error_type=UNKNOWN_TYPE,
        custom_error_message=f"Input should be an object whose type is one of {listed}",
    )


MAX_STOP_LENGTH = 1024
"""Characters: for each a table has an entry, and a state of each answer may hold so many back."""

MAX_PARTS = 1024
"""Most parts of one message's content."""

MAX_MESSAGES = 10_000

StopString = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
StopStrings = Annotated[list[StopString], Field(max_length=16)]
Stop = Annotated[
    Annotated[StopString, branch("string")] | Annotated[StopStrings, branch("list")],
    chosen_by(string_or_list),
]


def keyword_field(name: str) -> Any:
    """A field whose name is Python's own or pydantic's. OpenAI's client calls it `name_`, and so do
    its dumps unless they are asked for aliases."""
    return Field(alias=name, validation_alias=AliasChoices(name, f"{name}_"))


Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]

INT32_MAX = 2**31 - 1
"""No count is larger. JSON's numbers can be: thousands of digits, which Python won't even print."""

TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
TokenCount = Annotated[int, Field(ge=1, le=INT32_MAX)]


@dataclass(frozen=True, slots=True)
class _Refused(AfterValidator):
    neutral: tuple[object, ...]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The API's document shows which values are taken."""
        return {**handler(schema), "enum": [None, *self.neutral]}


def refuse_unless(*neutral: object) -> AfterValidator:
    """Marks a field of OpenAI's API that is not implemented.

    Args:
        neutral: Values that ask for nothing, besides null.
    """

    def check(value: object) -> object:
        # The type too: True == 1 in Python, not in JSON.
        if any(type(value) is type(other) and value == other for other in (None, *neutral)):
            return value
        raise PydanticCustomError("unsupported_field", "This field is not supported yet")

    return _Refused(check, neutral)


Unsupported = Annotated[Any, refuse_unless([], False)]
"""A field that is refused unless it is null, an empty list or false. An empty object is refused
too: options that are all left to their defaults ask for what they are options of."""


@dataclass(frozen=True, slots=True)
class AdvisoryMark:
    """Marks a field that asks for nothing that would change the answer; see `Advisory`."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The API's document says it too."""
        return {**handler(schema), "description": "Accepted, without any effect."}


Advisory = Annotated[Any, AdvisoryMark()]
"""A field that is accepted with any value and has no effect: it asks for nothing that would change
the answer, or is part of an earlier answer that comes back."""
