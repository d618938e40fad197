"""What an answer may be: `response_format` and the fields that no OpenAI API has. One at a time."""

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schema.fields import (
    Advisory,
    Name,
    RequestModel,
    Text,
    Unsupported,
    branch,
    by_type,
    chosen_by,
    keyword_field,
)

MAX_GRAMMAR_BYTES = 65_536
"""Longest schema or grammar, and longest sum of all choices."""


class JsonSchemaSpec(RequestModel):
    name: Name
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
    schema_: Annotated[dict[str, Any] | None, keyword_field("schema")] = None
    """What the object must be like: llama.cpp's and others' way to send a schema."""


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


def _kind_of_schema(value: object) -> str:
    return "object" if isinstance(value, dict) else "text"


Schema = Annotated[
    Annotated[dict[str, Any], branch("object")]
    | Annotated[Text, Field(min_length=1, max_length=MAX_GRAMMAR_BYTES), branch("text")],
    chosen_by(_kind_of_schema),
]
"""A JSON schema, or the JSON text of one."""


class StructuredOutputs(RequestModel):
    """vLLM's object for it."""

    json_: Annotated[Schema | None, keyword_field("json")] = None
    json_object: bool | None = None
    regex: Regex | None = None
    choice: Choices | None = None
    grammar: Ebnf | None = None
    structural_tag: Unsupported = None
    whitespace_pattern: Unsupported = None
    disable_any_whitespace: Unsupported = None
    disable_additional_properties: Unsupported = None
    disable_fallback: Advisory = None


class StructuredFields(RequestModel):
    """Ways to constrain an answer that OpenAI's API lacks. All generating endpoints have them under
    these names; a table in `api/generation/structured.py` says which names mean the same."""

    regex: Regex | None = None
    """Matches the whole answer."""
    choice: Choices | None = None
    """The answer is one of them."""
    grammar: Ebnf | None = None
    """The answer is what its rule `root` derives."""
    json_schema: Schema | None = None
    """llama.cpp's and SGLang's."""
    ebnf: Ebnf | None = None
    """SGLang's."""
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    """This and those that follow are vLLM's older names."""
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None
    guided_grammar: Ebnf | None = None
    guided_decoding_backend: Advisory = None
    guided_whitespace_pattern: Unsupported = None


class StructuredRequest(StructuredFields):
    """The fields of which at most one may say what an answer is like."""

    response_format: ResponseFormat | None = None
