"""Building blocks of request bodies: strict base model, field types, refused fields."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError


class RequestModel(BaseModel):
    """Base of everything a client sends: `"1"` is no number, `true` is no integer, NaN is no
    value, and an unknown field is an error, because ignoring it would change what was meant."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _check_utf8(value: str) -> str:
    # JSON can carry half a surrogate pair ("\ud800"), which no tokenizer takes.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Input should be valid Unicode") from None
    return value


Text = Annotated[str, AfterValidator(_check_utf8)]
"""A string that can be encoded as UTF-8."""


def string_or_list(value: object) -> str:
    """Picks the branch of a union, so that an error speaks of one branch and not of all."""
    return "list" if isinstance(value, list) else "string"


_StopString = Annotated[Text, Field(min_length=1)]
Stop = Annotated[
    Annotated[_StopString, Tag("string")]
    | Annotated[list[_StopString], Field(max_length=16), Tag("list")],
    Discriminator(string_or_list),
]

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


Unsupported = Annotated[Any, refuse_unless([], {}, False)]
"""A field that is refused unless it is null, empty or false."""
