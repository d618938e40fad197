"""What an answer may be: `response_format` and the fields that no OpenAI API has. One at a time."""

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schemas.fields import RequestModel, Text, branch, by_type

MAX_GRAMMAR_BYTES = 65_536
"""Of a schema, a grammar, or all choices together."""


class JsonSchemaSpec(RequestModel):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    """For people; like `name` it has no influence."""
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """Any JSON object, if there is none."""
    strict: bool | None = None
    """The schema is enforced in any case."""


class TextFormat(RequestModel):
    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    type: Literal["json_object"]


class JsonSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec


ResponseFormat = Annotated[
    Annotated[TextFormat, branch("text")]
    | Annotated[JsonObjectFormat, branch("json_object")]
    | Annotated[JsonSchemaFormat, branch("json_schema")],
    by_type("text", "json_object", "json_schema"),
]

Regex = Annotated[Text, Field(min_length=1, max_length=4096)]
Choices = Annotated[
    list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=1024)
]
Ebnf = Annotated[Text, Field(min_length=1, max_length=MAX_GRAMMAR_BYTES)]


class StructuredFields(RequestModel):
    """What no OpenAI API has, under the names that all generating endpoints have for it."""

    regex: Regex | None = None
    """Matches the whole answer."""
    choice: Choices | None = None
    """The answer is one of them."""
    grammar: Ebnf | None = None
    """The answer is what its rule `root` derives."""


class StructuredRequest(StructuredFields):
    """The fields of which at most one may say what an answer is like."""

    response_format: ResponseFormat | None = None
