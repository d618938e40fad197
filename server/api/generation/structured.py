"""The fields that say what an answer may be → a grammar, compiled before the request is queued."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from server.api.deps import Parts
from server.api.generation.json_schema import check_object_schema
from server.api.generation.schema.structured import (
    MAX_GRAMMAR_BYTES,
    JsonObjectFormat,
    JsonSchemaFormat,
    JsonSchemaSpec,
    ResponseFormat,
    StructuredFields,
    StructuredRequest,
)
from server.api.http.errors import shown
from server.api.middleware.auth import current_owner
from server.api.schema.field_path import shown_name
from server.engine.types import Grammar
from server.errors import GrammarError, InvalidRequestError

Asks = Literal["regex", "choice", "ebnf", "schema", "json_object"]

NAMES: Final[tuple[tuple[str, Asks], ...]] = (
    ("regex", "regex"),
    ("choice", "choice"),
    ("grammar", "ebnf"),
    ("json_schema", "schema"),
    ("ebnf", "ebnf"),
    ("structured_outputs.json", "schema"),
    ("structured_outputs.json_object", "json_object"),
    ("structured_outputs.regex", "regex"),
    ("structured_outputs.choice", "choice"),
    ("structured_outputs.grammar", "ebnf"),
    ("guided_json", "schema"),
    ("guided_regex", "regex"),
    ("guided_choice", "choice"),
    ("guided_grammar", "ebnf"),
)
"""Fields that say what an answer may be, our own and those of other servers, and what they ask for:
the one place that knows which names mean the same."""


class Asked(NamedTuple):
    """What one field asks for."""

    field: str
    grammar: Grammar

    @property
    def name(self) -> str:
        """The field's name in messages."""
        return "response_format" if self.field.startswith("response_format") else self.field


async def answer_grammar(body: StructuredRequest, parts: Parts) -> Grammar | None:
    """What the answer may be; None for any text.

    Raises:
        InvalidRequestError: more than one field asks for something, or what is asked for can't be
            enforced.
    """
    asked = [*_of_format(body.response_format), *asked_by_names(body)]
    if not asked:
        return None
    first, *others = asked
    for other in others:
        # Two names for one thing: some clients send both.
        if other.grammar != first.grammar:
            field = other.field
            raise InvalidRequestError(f"{field}: can't be combined with {first.name}", field)
    await compile_grammar(first.field, first.grammar, parts)
    return first.grammar


async def compile_grammar(field: str, grammar: Grammar, parts: Parts) -> None:
    """Finds out whether a grammar can be enforced, so that the engine can use it at once.

    Args:
        field: that it comes from, for errors.

    Raises:
        InvalidRequestError: it can't.
    """
    try:
        await parts.grammars.compile(grammar, current_owner())
    except GrammarError as error:
        raise _refused(field, error) from None


async def check_schemas(schemas: Mapping[str, object], parts: Parts) -> None:
    """Refuses JSON schemas that can't be enforced.

    Args:
        schemas: JSON schemas by the field that each comes from.

    Raises:
        InvalidRequestError: a part of one can't be enforced; names it.
    """
    try:
        await parts.grammars.check_schemas(tuple(schemas.values()), current_owner())
    except GrammarError as error:
        number, *path = error.path
        field = list(schemas)[int(number)]
        raise _refused(field, GrammarError(error.message, path)) from None


def _refused(field: str, error: GrammarError) -> InvalidRequestError:
    place = ".".join([field, *map(shown_name, error.path)])
    return InvalidRequestError(f"{place}: {error.message}", place)


def schema_grammar(field: str, schema: object) -> Grammar:
    """A JSON schema as a grammar.

    Raises:
        InvalidRequestError: it is too large, or no JSON.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        num_bytes = len(text.encode())
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"{field}: is no JSON, or nested too deep: NaN, half a surrogate pair", field
        ) from None
    _check_size(field, num_bytes)
    return Grammar("json_schema", text)


def asked_by_names(body: StructuredFields) -> list[Asked]:
    """What is asked for by the fields in `NAMES`."""
    found: list[Asked] = []
    for field, asks in NAMES:
        value = _value(body, field)
        # False asks for no object.
        if value is not None and value is not False:
            found.append(Asked(field, _grammar(field, asks, value)))
    return found


def _value(body: StructuredFields, field: str) -> Any:
    value: Any = body
    for name in field.split("."):
        # Pydantic has a name of its own `json`.
        value = getattr(value, "json_" if name == "json" else name, None)
    return value


def _grammar(field: str, asks: Asks, value: Any) -> Grammar:
    match asks:
        case "regex" | "ebnf":
            return Grammar(asks, value)
        case "choice":
            _check_size(field, sum(len(choice.encode()) for choice in value))
            return Grammar("choice", json.dumps(value))
        case "schema":
            return schema_grammar(field, _read_schema(field, value))
        case "json_object":
            return Grammar("json_object", "")


def _read_schema(field: str, given: dict[str, Any] | str) -> dict[str, Any]:
    """Reads a JSON schema, which may be given as text.

    Raises:
        InvalidRequestError: it is a text, and not that of a JSON object.
    """
    if isinstance(given, dict):
        return given
    try:
        schema = json.loads(given)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{field}: must be a JSON schema, got {shown(given)}", field)
    return schema


def _of_format(given: ResponseFormat | None) -> list[Asked]:
    match given:
        case JsonObjectFormat(schema_=dict() as schema):
            field = "response_format.schema"
            check_object_schema(schema, field)
            return [Asked(field, schema_grammar(field, schema))]
        case JsonObjectFormat() | JsonSchemaFormat(json_schema=JsonSchemaSpec(schema_=None)):
            return [Asked("response_format", Grammar("json_object", ""))]
        case JsonSchemaFormat():
            field = "response_format.json_schema.schema"
            return [Asked(field, schema_grammar(field, given.json_schema.schema_))]
        case _:
            return []


def _check_size(field: str, num_bytes: int) -> None:
    if num_bytes > MAX_GRAMMAR_BYTES:
        reason = f"has {num_bytes} bytes; at most {MAX_GRAMMAR_BYTES} are taken"
        raise InvalidRequestError(f"{field}: {reason}", field)
