"""The fields that say what an answer may be → a grammar, compiled before the request is queued."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from server.api.auth import current_owner
from server.api.deps import Parts
from server.api.field_path import MAX_NAME
from server.api.schemas.structured import (
    MAX_GRAMMAR_BYTES,
    JsonObjectFormat,
    JsonSchemaFormat,
    JsonSchemaSpec,
    ResponseFormat,
    StructuredRequest,
)
from server.engine.types import Grammar
from server.errors import GrammarError, InvalidRequestError


class _Asked(NamedTuple):
    field: str
    grammar: Grammar


async def answer_grammar(body: StructuredRequest, parts: Parts) -> Grammar | None:
    """What the answer may be; None for any text.

    Raises:
        InvalidRequestError: more than one field asks for something, or what is asked for can't be
            enforced.
    """
    asked = _asked(body)
    if not asked:
        return None
    if len(asked) > 1:
        first, second = asked[0].field.split(".")[0], asked[1].field
        raise InvalidRequestError(f"{second}: can't be combined with {first}", second)
    ((field, grammar),) = asked
    await compile_grammar(field, grammar, parts)
    return grammar


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
    """
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
    # Names from a schema can be odd; they must survive being encoded.
    names = (name.encode(errors="backslashreplace").decode() for name in error.path)
    place = ".".join([field, *(name[:MAX_NAME] for name in names)])
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


def _asked(body: StructuredRequest) -> list[_Asked]:
    found = list[_Asked]()
    if body.response_format is not None:
        found += _of_format(body.response_format)
    if body.regex is not None:
        found.append(_Asked("regex", Grammar("regex", body.regex)))
    if body.choice is not None:
        _check_size("choice", sum(len(choice.encode()) for choice in body.choice))
        found.append(_Asked("choice", Grammar("choice", json.dumps(body.choice))))
    if body.grammar is not None:
        found.append(_Asked("grammar", Grammar("ebnf", body.grammar)))
    return found


def _of_format(given: ResponseFormat) -> list[_Asked]:
    match given:
        case JsonObjectFormat() | JsonSchemaFormat(json_schema=JsonSchemaSpec(schema_=None)):
            return [_Asked("response_format", Grammar("json_object", ""))]
        case JsonSchemaFormat():
            field = "response_format.json_schema.schema"
            return [_Asked(field, schema_grammar(field, given.json_schema.schema_))]
        case _:
            return []


def _check_size(field: str, num_bytes: int) -> None:
    if num_bytes > MAX_GRAMMAR_BYTES:
        reason = f"has {num_bytes} bytes; at most {MAX_GRAMMAR_BYTES} are taken"
        raise InvalidRequestError(f"{field}: {reason}", field)
