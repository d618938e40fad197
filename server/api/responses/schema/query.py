"""`/v1/responses/{response_id}`: parameters after the question mark. Text, so not strict."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.generation.schema.fields import refuse_unless
from server.api.responses.schema.input import ItemId


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


_Included = Annotated[list[Any] | None, refuse_unless()]


class RetrieveQuery(_Query):
    """A response comes back as it was made, logprobs included if they were asked for then."""

    stream: Annotated[bool | None, refuse_unless(False)] = None
    include: _Included = None
    include_brackets: Annotated[_Included, Field(alias="include[]")] = None
    """The name that OpenAI's client gives it."""
    include_obfuscation: Annotated[bool | None, refuse_unless(False)] = None
    starting_after: Annotated[int | None, refuse_unless()] = None


class InputItemsQuery(_Query):
    after: ItemId | None = None
    """Id of the item after which the page begins."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    include: _Included = None
    include_brackets: Annotated[_Included, Field(alias="include[]")] = None
